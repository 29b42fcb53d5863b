package sluiceredis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/engine"
)

type store struct{ e *Engine }

var _ engine.Store = store{}

// check is what every call with keys begins with.
func (s store) check(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	return s.e.enter(ctx)
}

func checkKey(key string) error {
	if key == "" || len(key) > engine.MaxKey {
		return fmt.Errorf("%w: length of key is %d: must be from 1 to %d", engine.ErrRefused, len(key), engine.MaxKey)
	}
	if !utf8.ValidString(key) {
		return fmt.Errorf("%w: key is %q: must be valid UTF-8", engine.ErrRefused, key)
	}
	return nil
}

// batch refuses what is too many at once.
func batch(what string, n int) error {
	if n > engine.MaxBatch {
		return fmt.Errorf("%w: length of %s is %d: must be at most %d", engine.ErrRefused, what, n, engine.MaxBatch)
	}
	return nil
}

// lifetime is ttl in milliseconds, rounded up.
func lifetime(ttl time.Duration) (string, error) {
	if ttl < 0 || ttl > engine.MaxWait {
		return "", fmt.Errorf("%w: ttl is %v: must be zero (no end) or positive, at most a year", engine.ErrRefused, ttl)
	}
	return itoa(millis(ttl)), nil
}

func millis(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

// keys are a record, the last revision, the index and the ends.
func (s store) keys(key string) []string {
	return []string{s.e.key("r", key), s.e.key("n", ""), s.e.key("i", ""), s.e.key("t", "")}
}

// records is what all records' keys begin with.
func (s store) records() string { return s.e.key("r", "") + ":" }

func (s store) Read(ctx context.Context, key string) (engine.Record, error) {
	list, err := s.Fetch(ctx, key)
	switch {
	case err != nil:
		return engine.Record{}, err
	case list[0].Rev == 0:
		return engine.Record{}, engine.ErrAbsent
	}
	return list[0], nil
}

func (s store) Fetch(ctx context.Context, keys ...string) ([]engine.Record, error) {
	if err := batch("keys", len(keys)); err != nil || len(keys) == 0 {
		return nil, err
	}
	if err := s.check(ctx, keys...); err != nil {
		return nil, err
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = s.e.key("r", key)
	}
	out, err := s.e.exec(ctx, fetchScript, names, nil).AsStrSlice()
	if err != nil {
		return nil, outcome(err)
	}
	if len(out) != 3*len(keys) {
		return nil, fmt.Errorf("%w: the script answered %d values", engine.ErrUnsure, len(out))
	}
	list := make([]engine.Record, len(keys))
	for i, key := range keys {
		list[i].Key = key
		if rev := out[3*i+1]; rev != "" {
			if list[i], err = record(key, out[3*i], rev, out[3*i+2]); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

func (s store) Commit(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
	if err := batch("changes", len(changes)); err != nil || len(changes) == 0 {
		return nil, err
	}
	keys := []string{s.e.key("n", ""), s.e.key("i", ""), s.e.key("t", ""), s.e.key("o", op.String())}
	args := []string{s.e.changes(), s.records(), "", itoa(millis(s.e.conf.OpMemory))}
	says, seen := sha256.New(), make(map[string]bool, len(changes))
	for _, c := range changes {
		if err := checkKey(c.Key); err != nil {
			return nil, err
		}
		ttl, err := lifetime(c.TTL)
		if err != nil {
			return nil, err
		}
		what := "write"
		if c.Erase {
			what = "erase"
		} else if c.Check {
			what = "check"
		}
		switch {
		case seen[c.Key]:
			return nil, fmt.Errorf("%w: Change.Key is %q: must be another one in each change", engine.ErrRefused, c.Key)
		case c.Erase && c.Check:
			return nil, fmt.Errorf("%w: Change.Erase is true: must be false with Check", engine.ErrRefused)
		case what != "write" && (len(c.Value) > 0 || c.TTL != 0):
			return nil, fmt.Errorf("%w: length of Change.Value and TTL are %d and %v: must be zero with Erase or Check", engine.ErrRefused, len(c.Value), c.TTL)
		case c.Check && c.Was == engine.AnyRevision:
			return nil, fmt.Errorf("%w: Change.Was is AnyRevision: must be a revision with Check", engine.ErrRefused)
		case len(c.Value) > s.e.conf.MaxValue:
			return nil, fmt.Errorf("%w: length of Change.Value is %d: must be at most %d", engine.ErrRefused, len(c.Value), s.e.conf.MaxValue)
		}
		seen[c.Key] = true
		fmt.Fprintf(says, "%q %d %s %s %d ", c.Key, c.Was, what, ttl, len(c.Value))
		says.Write(c.Value)
		keys = append(keys, s.e.key("r", c.Key))
		args = append(args, c.Key, revision(c.Was), what, string(c.Value), ttl)
	}
	if !op.IsZero() {
		args[2] = hex.EncodeToString(says.Sum(nil)[:16])
	}
	if err := s.e.enter(ctx); err != nil {
		return nil, err
	}
	out, err := s.e.exec(ctx, commitScript, keys, args).AsStrSlice()
	if err != nil {
		return nil, outcome(err)
	}
	if len(out) == 2 && out[0] == "" {
		if n, err := strconv.Atoi(out[1]); err == nil && n >= 1 && n <= len(changes) {
			return nil, fmt.Errorf("%w: of %q", engine.ErrConflict, changes[n-1].Key)
		}
	}
	revs := make([]engine.Revision, len(out))
	for i, text := range out {
		rev, err := strconv.ParseUint(text, 10, 64)
		if err != nil || len(out) != len(changes) {
			return nil, fmt.Errorf("%w: the script answered %q", engine.ErrUnsure, out)
		}
		revs[i] = engine.Revision(rev)
	}
	return revs, nil
}

// record is what the server says of key.
func record(key, value, rev, left string) (engine.Record, error) {
	r, err := strconv.ParseUint(rev, 10, 64)
	l, errLeft := strconv.ParseInt(left, 10, 64)
	if err != nil || errLeft != nil || r == 0 {
		return engine.Record{}, fmt.Errorf("%w: the record of %q has revision %q and ends in %q", engine.ErrUnsure, key, rev, left)
	}
	return engine.Record{Key: key, Value: []byte(value), Rev: engine.Revision(r), Left: time.Duration(max(l, 0)) * time.Millisecond}, nil
}

// revision is rev as scripts are told.
func revision(rev engine.Revision) string {
	if rev == engine.AnyRevision {
		return "*"
	}
	return strconv.FormatUint(uint64(rev), 10)
}

func (s store) Write(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
	ms, err := lifetime(ttl)
	if err != nil {
		return 0, err
	}
	if len(value) > s.e.conf.MaxValue {
		return 0, fmt.Errorf("%w: length of value is %d: must be at most %d", engine.ErrRefused, len(value), s.e.conf.MaxValue)
	}
	if err := s.check(ctx, key); err != nil {
		return 0, err
	}
	out, err := s.e.exec(ctx, writeScript, s.keys(key), []string{key, revision(was), string(value), ms, s.e.changes(), s.records()}).ToString()
	if err != nil {
		return 0, outcome(err)
	}
	rev, err := strconv.ParseUint(out, 10, 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: the script answered %q", engine.ErrUnsure, out)
	case rev == 0:
		return 0, engine.ErrConflict
	}
	return engine.Revision(rev), nil
}

func (s store) Erase(ctx context.Context, key string, was engine.Revision) error {
	if err := s.check(ctx, key); err != nil {
		return err
	}
	n, err := s.e.exec(ctx, eraseScript, s.keys(key), []string{key, revision(was), s.e.changes()}).AsInt64()
	switch {
	case err != nil:
		return outcome(err)
	case n == 0:
		return engine.ErrAbsent
	case n == 1:
		return engine.ErrConflict
	}
	return nil
}

func (s store) Add(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (total, applied int64, err error) {
	ms, err := lifetime(ttl)
	if err != nil {
		return 0, 0, err
	}
	b := engine.Bound{Floor: -1 << 63, Ceil: 1<<63 - 1}
	if within != nil {
		if b = *within; b.Floor > b.Ceil {
			return 0, 0, fmt.Errorf("%w: Bound.Floor is %d: must be at most Ceil, %d", engine.ErrRefused, b.Floor, b.Ceil)
		}
	}
	if err := s.check(ctx, key); err != nil {
		return 0, 0, err
	}
	says := ""
	if !op.IsZero() {
		says = itoa(delta) + " " + key
	}
	keys := append(s.keys(key), s.e.key("o", op.String()), s.e.key("x", ""))
	out, err := s.e.exec(ctx, addScript, keys, []string{key, itoa(delta), itoa(b.Floor), itoa(b.Ceil), yes(within != nil), ms,
		s.e.changes(), says, itoa(millis(s.e.conf.OpMemory)), s.records()}).AsStrSlice()
	if err != nil {
		return 0, 0, outcome(err)
	}
	if len(out) == 2 {
		old, errOld := strconv.ParseInt(out[0], 10, 64)
		total, err = strconv.ParseInt(out[1], 10, 64)
		if err == nil && errOld == nil {
			return total, total - old, nil
		}
	}
	return 0, 0, fmt.Errorf("%w: the script answered %q", engine.ErrUnsure, out)
}
