package sluiceredis

import (
	"context"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/engine"
)

type store struct{ e *Engine }

var _ engine.Store = store{}

// check is what every call with a key begins with.
func (s store) check(ctx context.Context, key string) error {
	if key == "" || len(key) > engine.MaxKey {
		return fmt.Errorf("%w: length of key is %d: must be from 1 to %d", engine.ErrRefused, len(key), engine.MaxKey)
	}
	if !utf8.ValidString(key) {
		return fmt.Errorf("%w: key is %q: must be valid UTF-8", engine.ErrRefused, key)
	}
	return s.e.enter(ctx)
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
	if err := s.check(ctx, key); err != nil {
		return engine.Record{}, err
	}
	out, err := s.e.exec(ctx, readScript, s.keys(key)[:1], nil).AsStrSlice()
	switch {
	case err != nil:
		return engine.Record{}, outcome(err)
	case len(out) == 0:
		return engine.Record{}, engine.ErrAbsent
	case len(out) != 3:
		return engine.Record{}, fmt.Errorf("%w: the script answered %q", engine.ErrUnsure, out)
	}
	return record(key, out[0], out[1], out[2])
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
