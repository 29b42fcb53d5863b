package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// memoryStore is the store of a [Memory].
type memoryStore struct {
	conf  MemoryConfig
	clock clock

	mu        sync.Mutex
	closed    bool
	rev       Revision // the last one given: of all keys, so that none comes again
	records   map[string]*memoryRecord
	bytes     int64
	ends      agenda[*memoryRecord]
	ops       opLog[OpID, storeDone]
	followers map[*follower]struct{}
}

type memoryRecord struct {
	key   string
	value []byte
	rev   Revision
	end   due[*memoryRecord]
}

// storeDone is the answer to a named operation, and what was asked.
type storeDone struct {
	// of an Add
	key                   string
	delta, total, applied int64
	// of a Commit, which has no key
	asked [sha256.Size]byte
	revs  []Revision
}

func (s *memoryStore) open(c MemoryConfig) {
	s.conf, s.clock = c, newClock()
	s.records = map[string]*memoryRecord{}
	s.ends = agenda[*memoryRecord]{clock: s.clock, ring: s.ring}
	s.ops = newOpLog[OpID, storeDone](c.OpMemory, c.MaxOps)
	s.followers = map[*follower]struct{}{}
}

func (s *memoryStore) Read(ctx context.Context, key string) (Record, error) {
	if err := checkKey("key", key); err != nil {
		return Record{}, err
	}
	now, err := s.enter(ctx)
	if err != nil {
		return Record{}, err
	}
	defer s.mu.Unlock()
	r := s.records[key]
	if r == nil {
		return Record{}, ErrAbsent
	}
	return r.show(now), nil
}

func (s *memoryStore) Write(ctx context.Context, key string, was Revision, value []byte, ttl time.Duration) (Revision, error) {
	if err := checkKey("key", key); err != nil {
		return 0, err
	}
	if err := checkTTL("ttl", ttl); err != nil {
		return 0, err
	}
	if len(value) > s.conf.MaxValue {
		return 0, invalid("length of value", len(value), fmt.Sprintf("at most %d", s.conf.MaxValue))
	}
	now, err := s.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	if was != AnyRevision && s.current(key) != was {
		return 0, ErrConflict
	}
	return s.putLocked(key, bytes.Clone(value), end(now, ttl))
}

func (s *memoryStore) Erase(ctx context.Context, key string, was Revision) error {
	if err := checkKey("key", key); err != nil {
		return err
	}
	if _, err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	switch r := s.records[key]; {
	case r == nil:
		return ErrAbsent
	case was != AnyRevision && r.rev != was:
		return ErrConflict
	default:
		s.removeLocked(r)
	}
	return nil
}

func (s *memoryStore) Fetch(ctx context.Context, keys ...string) ([]Record, error) {
	if err := checkBatch("keys", len(keys)); err != nil || len(keys) == 0 {
		return nil, err
	}
	for _, key := range keys {
		if err := checkKey("key", key); err != nil {
			return nil, err
		}
	}
	now, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	list := make([]Record, len(keys))
	for i, key := range keys {
		list[i].Key = key
		if r := s.records[key]; r != nil {
			list[i] = r.show(now)
		}
	}
	return list, nil
}

func (s *memoryStore) Commit(ctx context.Context, op OpID, changes ...Change) ([]Revision, error) {
	if err := checkChanges(changes, s.conf.MaxValue); err != nil || len(changes) == 0 {
		return nil, err
	}
	now, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var asked [sha256.Size]byte
	if !op.IsZero() {
		asked = digest(changes)
		if done, ok := s.ops.get(now, op); ok {
			if done.key != "" || done.asked != asked {
				return nil, fmt.Errorf("%w: OpID %s was another operation", ErrRefused, op)
			}
			return slices.Clone(done.revs), nil
		}
	}
	keys, grow := 0, int64(0)
	for _, c := range changes {
		if c.Was != AnyRevision && s.current(c.Key) != c.Was {
			return nil, fmt.Errorf("%w: of %q", ErrConflict, c.Key)
		}
		k, g := s.growth(c)
		keys, grow = keys+k, grow+g
	}
	if err := s.room(keys, grow); err != nil {
		return nil, err
	}
	revs := make([]Revision, len(changes))
	for i, c := range changes {
		switch r := s.records[c.Key]; {
		case c.Check:
			revs[i] = c.Was
		case !c.Erase:
			revs[i] = s.setLocked(c.Key, bytes.Clone(c.Value), end(now, c.TTL))
		case r != nil:
			s.removeLocked(r)
		}
	}
	if !op.IsZero() {
		s.ops.put(now, op, storeDone{asked: asked, revs: slices.Clone(revs)})
	}
	return revs, nil
}

// growth is how many records and bytes there are more after c.
func (s *memoryStore) growth(c Change) (keys int, grow int64) {
	r := s.records[c.Key]
	switch {
	case c.Check || c.Erase && r == nil:
		return 0, 0
	case c.Erase:
		return -1, -int64(len(c.Key) + len(r.value))
	case r == nil:
		return 1, int64(len(c.Key) + len(c.Value))
	default:
		return 0, int64(len(c.Value) - len(r.value))
	}
}

// room says whether so many records and bytes more can be had.
func (s *memoryStore) room(keys int, grow int64) error {
	switch {
	case keys > 0 && len(s.records)+keys > s.conf.MaxKeys:
		return fmt.Errorf("%w: MaxKeys is %d", ErrFull, s.conf.MaxKeys)
	case grow > 0 && s.bytes+grow > s.conf.MaxBytes:
		return fmt.Errorf("%w: MaxBytes is %d", ErrFull, s.conf.MaxBytes)
	}
	return nil
}

func (s *memoryStore) Add(ctx context.Context, op OpID, key string, delta int64, within *Bound, ttl time.Duration) (total, applied int64, err error) {
	if err := checkKey("key", key); err != nil {
		return 0, 0, err
	}
	if err := checkTTL("ttl", ttl); err != nil {
		return 0, 0, err
	}
	b := Bound{math.MinInt64, math.MaxInt64}
	if within != nil {
		b = *within
		if b.Floor > b.Ceil {
			return 0, 0, invalid("Bound.Floor", b.Floor, fmt.Sprintf("at most Ceil, %d", b.Ceil))
		}
	}
	now, err := s.enter(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer s.mu.Unlock()
	if !op.IsZero() {
		if done, ok := s.ops.get(now, op); ok {
			if done.key != key || done.delta != delta {
				return 0, 0, fmt.Errorf("%w: OpID %s was another operation", ErrRefused, op)
			}
			return done.total, done.applied, nil
		}
	}
	old, at := int64(0), end(now, ttl)
	if r := s.records[key]; r != nil {
		var ok bool
		if old, ok = number(r.value); !ok {
			return 0, 0, fmt.Errorf("%w: the value of %q is no number", ErrRefused, key)
		}
		at = r.end.at
	}
	if applied = b.fit(old, delta); within == nil && applied != delta {
		return 0, 0, fmt.Errorf("%w: %d and %d do not add up to an int64", ErrRefused, old, delta)
	}
	total = old + applied
	if applied != 0 {
		if _, err := s.putLocked(key, strconv.AppendInt(nil, total, 10), at); err != nil {
			return 0, 0, err
		}
	}
	if !op.IsZero() {
		s.ops.put(now, op, storeDone{key: key, delta: delta, total: total, applied: applied})
	}
	return total, applied, nil
}

// fit is how much of delta can be added to old without leaving b, or going further out.
func (b Bound) fit(old, delta int64) int64 {
	switch {
	case delta > 0 && old >= b.Ceil, delta < 0 && old <= b.Floor:
		return 0
	case delta > 0 && uint64(delta) > uint64(b.Ceil)-uint64(old):
		return b.Ceil - old // less than delta, so it fits
	case delta < 0 && -uint64(delta) > uint64(old)-uint64(b.Floor):
		return b.Floor - old
	}
	return delta
}

// enter checks what every call does and takes the lock if it returns no error. What has
// ended is gone from here on, whether or not the timer has rung.
func (s *memoryStore) enter(ctx context.Context) (now int64, err error) {
	if ctx.Err() != nil {
		return 0, ended(ctx)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, ErrClosed
	}
	now = s.clock.now()
	s.expireLocked(now)
	return now, nil
}

func (s *memoryStore) current(key string) Revision {
	if r := s.records[key]; r != nil {
		return r.rev
	}
	return 0
}

// putLocked makes value, which the store owns from now on, the record of key until at, if
// there is room.
func (s *memoryStore) putLocked(key string, value []byte, at int64) (Revision, error) {
	if err := s.room(s.growth(Change{Key: key, Value: value})); err != nil {
		return 0, err
	}
	return s.setLocked(key, value, at), nil
}

// setLocked is putLocked where there is room.
func (s *memoryStore) setLocked(key string, value []byte, at int64) Revision {
	r := s.records[key]
	_, grow := s.growth(Change{Key: key, Value: value})
	if r == nil {
		r = &memoryRecord{key: strings.Clone(key)}
		r.end = due[*memoryRecord]{index: -1, what: r}
		s.records[r.key] = r
	}
	s.bytes += grow
	s.rev++
	r.value, r.rev = value, s.rev
	s.ends.set(&r.end, at)
	s.tellLocked(r.key, r.rev)
	return r.rev
}

func (s *memoryStore) removeLocked(r *memoryRecord) {
	delete(s.records, r.key)
	s.bytes -= int64(len(r.key) + len(r.value))
	s.ends.drop(&r.end)
	s.rev++
	s.tellLocked(r.key, s.rev)
}

func (s *memoryStore) expireLocked(now int64) {
	for {
		d, ok := s.ends.next(now)
		if !ok {
			return
		}
		s.removeLocked(d.what)
	}
}

// ring is called by the timer.
func (s *memoryStore) ring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.expireLocked(s.clock.now())
		s.ends.rang()
	}
}

func (s *memoryStore) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.ends.stop()
	s.records, s.ops = nil, opLog[OpID, storeDone]{}
	for f := range s.followers {
		f.rouse()
	}
	return nil
}

// show is a copy of r for a caller.
func (r *memoryRecord) show(now int64) Record {
	rec := Record{Key: r.key, Value: append([]byte{}, r.value...), Rev: r.rev}
	if r.end.at != never {
		rec.Left = time.Duration(r.end.at - now)
	}
	return rec
}

// follower is one sequence of Follow: the keys that changed since it last looked.
type follower struct {
	prefix  string
	first   int // of queue, those that were there when it began
	caught  bool
	queue   []string
	pending map[string]Revision // of the keys in queue, the last revision
	lost    bool
	wake    chan struct{} // room for one
}

func (f *follower) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (s *memoryStore) Follow(ctx context.Context, prefix string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		f, err := s.join(ctx, prefix)
		if err != nil {
			yield(Record{}, err)
			return
		}
		defer s.leave(f)
		for ctx.Err() == nil {
			rec, ok, err := s.take(f)
			if err != nil {
				yield(Record{}, err)
				return
			}
			if ok {
				if !yield(rec, nil) {
					return
				}
				continue
			}
			select {
			case <-f.wake:
			case <-ctx.Done():
			}
		}
		yield(Record{}, ended(ctx))
	}
}

func (s *memoryStore) join(ctx context.Context, prefix string) (*follower, error) {
	if len(prefix) > MaxKey {
		return nil, invalid("length of prefix", len(prefix), "at most 512 bytes")
	}
	if _, err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if len(s.followers) >= s.conf.MaxFollows {
		return nil, fmt.Errorf("%w: MaxFollows is %d", ErrFull, s.conf.MaxFollows)
	}
	f := &follower{prefix: prefix, pending: map[string]Revision{}, wake: make(chan struct{}, 1)}
	for key, r := range s.records {
		if strings.HasPrefix(key, prefix) {
			f.queue = append(f.queue, key)
			f.pending[key] = r.rev
		}
	}
	slices.Sort(f.queue)
	f.first = len(f.queue)
	s.followers[f] = struct{}{}
	return f, nil
}

func (s *memoryStore) leave(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.followers, f)
}

// tellLocked notes for whoever follows key that rev is its latest revision.
func (s *memoryStore) tellLocked(key string, rev Revision) {
	for f := range s.followers {
		if f.lost || !strings.HasPrefix(key, f.prefix) {
			continue
		}
		if _, ok := f.pending[key]; !ok {
			if len(f.queue) > 2*s.conf.MaxKeys { // keys that came and went, mostly
				f.lost, f.queue, f.pending = true, nil, nil
				f.rouse()
				continue
			}
			f.queue = append(f.queue, key)
		}
		f.pending[key] = rev
		f.rouse()
	}
}

// take is the next record for f, if there is one.
func (s *memoryStore) take(f *follower) (Record, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return Record{}, false, ErrClosed
	}
	if f.lost {
		return Record{}, false, ErrLost
	}
	now := s.clock.now()
	s.expireLocked(now)
	if f.first == 0 && !f.caught {
		f.caught = true
		return Record{Caught: true}, true, nil
	}
	if len(f.queue) == 0 {
		return Record{}, false, nil
	}
	f.first = max(0, f.first-1)
	key := f.queue[0]
	f.queue = f.queue[1:]
	rev := f.pending[key]
	delete(f.pending, key)
	if r := s.records[key]; r != nil {
		return r.show(now), true, nil
	}
	return Record{Key: key, Rev: rev, Gone: true}, true, nil
}
