package sluicenats

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/engine"
)

// A record is a cell of the kind r: the message's data are its value, its sequence number is its
// revision, and a header says when it ends.

type store struct{ e *Engine }

var _ engine.Store = store{}

const (
	kept     = 2 * time.Second // more than it lives the server keeps a record that ends
	marked   = time.Minute     // for which it keeps the marker of one that was erased
	recordAt = "r"
)

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %w", engine.ErrRefused, fmt.Errorf(format, args...))
}

func checkKey(key string) error {
	if key == "" || len(key) > engine.MaxKey {
		return refuse("length of key is %d: must be from 1 to %d", len(key), engine.MaxKey)
	}
	if !utf8.ValidString(key) {
		return refuse("key is %q: must be valid UTF-8", key)
	}
	return nil
}

// batch refuses what is too many at once.
func batch(what string, n int) error {
	if n > engine.MaxBatch {
		return refuse("length of %s is %d: must be at most %d", what, n, engine.MaxBatch)
	}
	return nil
}

func checkTTL(ttl time.Duration) error {
	if ttl < 0 || ttl > engine.MaxWait {
		return refuse("ttl is %v: must be zero (no end) or positive, at most a year", ttl)
	}
	return nil
}

// record is the one in c, as v sees it.
func (v *view) record(key string, c *cell) engine.Record {
	if !v.there(c) {
		return engine.Record{Key: key}
	}
	rec := engine.Record{Key: key, Value: append([]byte{}, c.data...), Rev: engine.Revision(c.seq)}
	if c.end != 0 {
		rec.Left = time.Duration(max(1, c.end-v.hi))
	}
	return rec
}

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

// Fetch reads all twice, again and again, until nothing has changed in between: then all were as
// they were read at the instant between the two.
func (s store) Fetch(ctx context.Context, keys ...string) ([]engine.Record, error) {
	if err := batch("keys", len(keys)); err != nil || len(keys) == 0 {
		return nil, err
	}
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return nil, err
		}
	}
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = s.e.at(recordAt, key)
	}
	var last []cell
	for {
		if err := s.e.enter(ctx); err != nil {
			return nil, err
		}
		v := &view{}
		var err error
		if v.lo, v.hi, err = s.e.now(ctx); err != nil {
			return nil, err
		}
		if v.cells, err = s.e.readAll(ctx, subjects); err != nil {
			return nil, err
		}
		same := len(keys) == 1 || last != nil && slices.EqualFunc(v.cells, last, func(a, b cell) bool { return a.seq == b.seq })
		if last = v.cells; !same {
			continue
		}
		list := make([]engine.Record, len(keys))
		for i := range keys {
			list[i] = v.record(keys[i], &v.cells[i])
		}
		if v.unsure == 0 {
			return list, nil
		}
		s.e.past(v.unsure)
	}
}

func (s store) Write(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
	revs, err := s.Commit(ctx, engine.OpID{}, engine.Change{Key: key, Was: was, Value: value, TTL: ttl})
	if err != nil {
		return 0, err
	}
	return revs[0], nil
}

func (s store) Erase(ctx context.Context, key string, was engine.Revision) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := s.e.enter(ctx); err != nil {
		return err
	}
	subject := s.e.at(recordAt, key)
	_, err := s.e.decide(ctx, []string{subject}, false, func(v *view) ([]put, error) {
		c := &v.cells[0]
		switch rev := v.rev(c); {
		case rev == 0:
			return nil, engine.ErrAbsent
		case was != engine.AnyRevision && rev != was:
			return nil, engine.ErrConflict
		}
		return []put{{subject: subject, was: c.seq, marker: true, ttl: marked}}, nil
	})
	return err
}

// done is what is remembered of a named operation.
type done struct {
	What    string   // "add", "commit", "take" or "settle"
	Digest  string   // of what was asked
	Total   int64    `json:",omitempty"`
	Applied int64    `json:",omitempty"`
	Revs    []int64  `json:",omitempty"` // of a Commit: if not zero, how much less than this cell's number
	Checked []uint64 `json:",omitempty"` // of a Commit: else this
	Grant   *granted `json:",omitempty"` // of a Take
}

// named is the cell of a named operation.
func (e *Engine) named(op engine.OpID) string { return e.at("o", op.String()) }

// remember is what keeps d under op, which must be new.
func (e *Engine) remember(subject string, d done) put {
	data, _ := json.Marshal(d)
	return put{subject: subject, data: data, ttl: e.conf.OpMemory + time.Second}
}

// remembered is what was done under the name in c, nil if nothing was.
func remembered(c *cell, what, digest string) (*done, error) {
	if c.seq == 0 || c.marker {
		return nil, nil
	}
	var d done
	if err := json.Unmarshal(c.data, &d); err != nil {
		return nil, refuse("what is remembered of an operation is %q", c.data)
	}
	if d.What != what || d.Digest != digest {
		return nil, refuse("the OpID was another operation")
	}
	return &d, nil
}

func digest(parts ...any) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%q ", fmt.Sprint(p))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (s store) checkChanges(changes []engine.Change) error {
	seen := make(map[string]bool, len(changes))
	for _, c := range changes {
		if err := checkKey(c.Key); err != nil {
			return err
		}
		if err := checkTTL(c.TTL); err != nil {
			return err
		}
		switch {
		case seen[c.Key]:
			return refuse("Change.Key is %q: must be another one in each change", c.Key)
		case c.Erase && c.Check:
			return refuse("Change.Erase is true: must be false with Check")
		case (c.Erase || c.Check) && (len(c.Value) > 0 || c.TTL != 0):
			return refuse("length of Change.Value and TTL are %d and %v: must be zero with Erase or Check", len(c.Value), c.TTL)
		case c.Check && c.Was == engine.AnyRevision:
			return refuse("Change.Was is AnyRevision: must be a revision with Check")
		case len(c.Value) > s.e.conf.MaxValue:
			return refuse("length of Change.Value is %d: must be at most %d", len(c.Value), s.e.conf.MaxValue)
		}
		seen[c.Key] = true
	}
	return nil
}

func (s store) Commit(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
	if err := batch("changes", len(changes)); err != nil || len(changes) == 0 {
		return nil, err
	}
	if err := s.checkChanges(changes); err != nil {
		return nil, err
	}
	if err := s.e.enter(ctx); err != nil {
		return nil, err
	}
	if op.IsZero() && !slices.ContainsFunc(changes, func(c engine.Change) bool { return !c.Check }) {
		return s.checkAll(ctx, changes)
	}
	var parts []any
	subjects := make([]string, 0, len(changes)+1)
	for _, c := range changes {
		subjects = append(subjects, s.e.at(recordAt, c.Key))
		if !op.IsZero() {
			parts = append(parts, c.Key, c.Was, c.TTL, c.Erase, c.Check, string(c.Value))
		}
	}
	asked, last := digest(parts...), len(changes)
	if !op.IsZero() {
		subjects = append(subjects, s.e.named(op))
	}
	var old []engine.Revision // the answer of the first, if this is a repetition
	ends := slices.ContainsFunc(changes, func(c engine.Change) bool { return c.TTL != 0 })
	first, err := s.e.decide(ctx, subjects, ends, func(v *view) ([]put, error) {
		old = nil
		if !op.IsZero() {
			d, err := remembered(&v.cells[last], "commit", asked)
			if err != nil {
				return nil, err
			}
			if d != nil {
				old = d.revs(v.cells[last].seq)
				return nil, nil
			}
		}
		puts := make([]put, 0, last+1)
		memory := done{What: "commit", Digest: asked, Revs: make([]int64, last), Checked: make([]uint64, last)}
		for i, c := range changes {
			cell := &v.cells[i]
			if c.Was != engine.AnyRevision && v.rev(cell) != c.Was {
				return nil, fmt.Errorf("%w: of %q", engine.ErrConflict, c.Key)
			}
			p := put{subject: cell.subject, was: cell.seq}
			switch {
			case c.Check:
				p.check, memory.Checked[i] = true, uint64(c.Was)
			case c.Erase:
				p.marker, p.ttl, p.any = true, marked, c.Was == engine.AnyRevision
			default:
				memory.Revs[i] = int64(last - i)
				p.data, p.any = c.Value, c.Was == engine.AnyRevision
				if c.TTL != 0 {
					p.end, p.ttl = v.hi+int64(c.TTL), c.TTL+kept
				}
			}
			puts = append(puts, p)
		}
		if !op.IsZero() {
			puts = append(puts, s.e.remember(subjects[last], memory))
		}
		return puts, nil
	})
	if err != nil || old != nil {
		return old, err
	}
	revs := make([]engine.Revision, len(changes))
	for i, c := range changes {
		switch {
		case c.Check:
			revs[i] = c.Was
		case !c.Erase:
			revs[i] = engine.Revision(first + uint64(i))
		}
	}
	return revs, nil
}

// revs are those of a Commit whose memory has the number seq.
func (d *done) revs(seq uint64) []engine.Revision {
	list := make([]engine.Revision, len(d.Revs))
	for i, less := range d.Revs {
		if less != 0 {
			list[i] = engine.Revision(seq - uint64(less))
		} else if i < len(d.Checked) {
			list[i] = engine.Revision(d.Checked[i])
		}
	}
	return list
}

// checkAll is a Commit that changes nothing.
func (s store) checkAll(ctx context.Context, changes []engine.Change) ([]engine.Revision, error) {
	keys, revs := make([]string, len(changes)), make([]engine.Revision, len(changes))
	for i, c := range changes {
		keys[i], revs[i] = c.Key, c.Was
	}
	list, err := s.Fetch(ctx, keys...)
	if err != nil {
		return nil, err
	}
	for i, rec := range list {
		if rec.Rev != revs[i] {
			return nil, fmt.Errorf("%w: of %q", engine.ErrConflict, rec.Key)
		}
	}
	return revs, nil
}

func (s store) Add(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (total, applied int64, err error) {
	if err := checkKey(key); err != nil {
		return 0, 0, err
	}
	if err := checkTTL(ttl); err != nil {
		return 0, 0, err
	}
	b := engine.Bound{Floor: math.MinInt64, Ceil: math.MaxInt64}
	if within != nil {
		b = *within
		if b.Floor > b.Ceil {
			return 0, 0, refuse("Bound.Floor is %d: must be at most Ceil, %d", b.Floor, b.Ceil)
		}
	}
	if err := s.e.enter(ctx); err != nil {
		return 0, 0, err
	}
	subjects, asked := []string{s.e.at(recordAt, key)}, digest(key, delta)
	if !op.IsZero() {
		subjects = append(subjects, s.e.named(op))
	}
	_, err = s.e.decide(ctx, subjects, ttl != 0, func(v *view) ([]put, error) {
		if !op.IsZero() {
			d, err := remembered(&v.cells[1], "add", asked)
			if err != nil {
				return nil, err
			}
			if d != nil {
				total, applied = d.Total, d.Applied
				return nil, nil
			}
		}
		c := &v.cells[0]
		old, end := int64(0), int64(0)
		switch {
		case v.there(c):
			var ok bool
			if old, ok = number(c.data); !ok {
				return nil, refuse("the value of %q is no number", key)
			}
			end = c.end
		case ttl != 0:
			end = v.hi + int64(ttl)
		}
		if applied = fit(b, old, delta); within == nil && applied != delta {
			return nil, refuse("%d and %d do not add up to an int64", old, delta)
		}
		total = old + applied
		p := put{subject: c.subject, was: c.seq, check: applied == 0}
		if applied != 0 {
			p.data = strconv.AppendInt(nil, total, 10)
			if p.end = end; end != 0 {
				p.ttl = time.Duration(end-v.lo) + kept
			}
		}
		switch {
		case !op.IsZero():
			return []put{p, s.e.remember(subjects[1], done{What: "add", Digest: asked, Total: total, Applied: applied})}, nil
		case applied == 0:
			return nil, nil
		}
		return []put{p}, nil
	})
	if err != nil {
		return 0, 0, err
	}
	return total, applied, nil
}

// number is the int64 that value is in its one decimal form.
func number(value []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil && bytes.Equal(strconv.AppendInt(nil, n, 10), value)
}

// fit is how much of delta can be added to old without leaving b, or going further out.
func fit(b engine.Bound, old, delta int64) int64 {
	switch {
	case delta > 0 && old >= b.Ceil, delta < 0 && old <= b.Floor:
		return 0
	case delta > 0 && uint64(delta) > uint64(b.Ceil)-uint64(old):
		return b.Ceil - old
	case delta < 0 && -uint64(delta) > uint64(old)-uint64(b.Floor):
		return b.Floor - old
	}
	return delta
}
