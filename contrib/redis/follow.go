package sluiceredis

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// follower is one Follow. The hub's lock guards what it is told.
type follower struct {
	prefix  string
	pending map[string]engine.Record // the latest of each key
	queue   []string                 // their keys, in the order that they came
	again   bool                     // what is there has to be read
	lost    bool
	wake    chan struct{}

	// Its own goroutine's.
	seen map[string]engine.Revision
	ends endHeap
}

// maxPending is how many records a follower may be behind.
const maxPending = 100_000

// push tells f of rec; the hub's lock is held.
func (f *follower) push(rec engine.Record) {
	if f.lost {
		return
	}
	if _, ok := f.pending[rec.Key]; !ok {
		if len(f.queue) >= maxPending {
			f.lost, f.pending, f.queue = true, nil, nil
			rouse(f.wake)
			return
		}
		f.queue = append(f.queue, rec.Key)
	}
	f.pending[rec.Key] = rec
	rouse(f.wake)
}

// parseChange reads what lua/record.lua tells.
func parseChange(text string) (engine.Record, bool) {
	f := strings.SplitN(text, " ", 4)
	if len(f) != 4 {
		return engine.Record{}, false
	}
	n, err := strconv.Atoi(f[2])
	if err != nil || n < 0 || n > len(f[3]) {
		return engine.Record{}, false
	}
	rec, err := record(f[3][:n], f[3][n:], f[0], f[1])
	if f[1] == "-1" {
		rec.Gone, rec.Value = true, nil
	}
	return rec, err == nil
}

// endOf is when a record ends, by this process's clock: nobody tells of that in time.
type endOf struct {
	at  time.Time
	key string
	rev engine.Revision
}

type endHeap []endOf

func (h endHeap) Len() int           { return len(h) }
func (h endHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h endHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *endHeap) Push(x any)        { *h = append(*h, x.(endOf)) }
func (h *endHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// Follow subscribes, then reads what is there, then tells what comes. If the subscription is
// cut it reads again what is there, and says so by another note. A server that loses its data without cutting it, as by
// FLUSHALL, tells nobody.
func (s store) Follow(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
	return func(yield func(engine.Record, error) bool) {
		if err := s.follow(ctx, prefix, func(rec engine.Record) bool { return yield(rec, nil) }); err != nil {
			yield(engine.Record{}, err)
		}
	}
}

// follow returns nil when deliver has had enough.
func (s store) follow(ctx context.Context, prefix string, deliver func(engine.Record) bool) error {
	if len(prefix) > engine.MaxKey {
		return fmt.Errorf("%w: length of prefix is %d: must be at most %d", engine.ErrRefused, len(prefix), engine.MaxKey)
	}
	if err := s.e.enter(ctx); err != nil {
		return err
	}
	h := s.e.hub
	if err := h.ready(ctx); err != nil {
		return err
	}
	f := &follower{prefix: prefix, pending: map[string]engine.Record{}, again: true, wake: make(chan struct{}, 1), seen: map[string]engine.Revision{}}
	h.mu.Lock()
	h.followers[f] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.followers, f)
	}()
	for {
		if err := s.e.enter(ctx); err != nil {
			return err
		}
		rec, what := h.next(f)
		switch what {
		case followLost:
			return engine.ErrLost
		case followRead:
			more, err := s.readAll(ctx, f, deliver)
			if err != nil { // the server is away: look again when it is back
				h.mu.Lock()
				f.again = true
				h.mu.Unlock()
				s.wait(ctx, nil, pause)
			} else if !more || !deliver(engine.Record{Caught: true}) {
				return nil
			}
		case followTell:
			if !f.tell(rec, deliver) {
				return nil
			}
		default:
			if len(f.ends) == 0 {
				s.wait(ctx, f.wake, time.Hour)
			} else if left := time.Until(f.ends[0].at); left > 0 {
				s.wait(ctx, f.wake, left)
			} else if !s.ended(ctx, f, deliver) {
				return nil
			}
		}
	}
}

const (
	followWait = iota
	followLost
	followRead
	followTell
)

// next says what f has to do, and takes out the record that it has to tell.
func (h *hub) next(f *follower) (rec engine.Record, what int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case f.lost:
		return rec, followLost
	case f.again:
		f.again = false
		return rec, followRead
	case len(f.queue) == 0:
		return rec, followWait
	}
	key := f.queue[0]
	f.queue = f.queue[1:]
	rec = f.pending[key]
	delete(f.pending, key)
	return rec, followTell
}

// wait ends with the first that happens.
func (s store) wait(ctx context.Context, wake chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	case <-ctx.Done():
	case <-s.e.quit.Done():
	}
}

// tell delivers rec unless f knows it already.
func (f *follower) tell(rec engine.Record, deliver func(engine.Record) bool) bool {
	last, known := f.seen[rec.Key]
	if rec.Gone {
		if !known || rec.Rev < last {
			return true
		}
		delete(f.seen, rec.Key)
		return deliver(rec)
	}
	if rec.Rev <= last {
		return true
	}
	f.seen[rec.Key] = rec.Rev
	if rec.Left > 0 {
		heap.Push(&f.ends, endOf{time.Now().Add(rec.Left), rec.Key, rec.Rev})
	}
	return deliver(rec)
}

// ended looks at the record that should have ended by now.
func (s store) ended(ctx context.Context, f *follower, deliver func(engine.Record) bool) bool {
	first := heap.Pop(&f.ends).(endOf)
	if f.seen[first.key] != first.rev {
		return true
	}
	rec, err := s.Read(ctx, first.key)
	switch {
	case errors.Is(err, engine.ErrAbsent):
		return f.tell(engine.Record{Key: first.key, Rev: first.rev, Gone: true}, deliver)
	case err != nil:
		first.at = time.Now().Add(pause)
	case rec.Rev != first.rev:
		return f.tell(rec, deliver)
	case rec.Left == 0: // it ends within a millisecond
		first.at = time.Now().Add(time.Millisecond)
	default:
		first.at = time.Now().Add(rec.Left)
	}
	heap.Push(&f.ends, first)
	return true
}

// page is how many records one script reads.
const page = 200

// readAll tells what is there and not known, and what is known and not there.
func (s store) readAll(ctx context.Context, f *follower, deliver func(engine.Record) bool) (more bool, err error) {
	from, to := "["+f.prefix, "("+f.prefix+"\xff"
	if f.prefix == "" {
		from, to = "-", "+"
	}
	there := map[string]bool{}
	for {
		out, err := s.e.exec(ctx, scanScript, []string{s.e.key("i", "")}, []string{from, to, s.records(), itoa(page)}).AsStrSlice()
		if err != nil {
			return true, outcome(err)
		}
		n := len(out) - 2
		if n < 0 || n%4 != 0 {
			return true, fmt.Errorf("%w: the script answered %d values", engine.ErrUnsure, len(out))
		}
		for i := 0; i < n; i += 4 {
			rec, err := record(out[i], out[i+1], out[i+2], out[i+3])
			if err != nil {
				return true, err
			}
			there[rec.Key] = true
			if !f.tell(rec, deliver) {
				return false, nil
			}
		}
		if count, _ := strconv.Atoi(out[n+1]); count < page {
			break
		}
		from = "(" + out[n]
	}
	for key, rev := range f.seen {
		if there[key] {
			continue
		}
		s.e.hub.mu.Lock()
		_, told := f.pending[key] // a newer state of it is on its way
		s.e.hub.mu.Unlock()
		if !told && !f.tell(engine.Record{Key: key, Rev: rev, Gone: true}, deliver) {
			return false, nil
		}
	}
	return true, nil
}
