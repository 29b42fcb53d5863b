package sluicetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sluice-go/sluice/engine"
)

// storeLinear tries short random histories of calls on one key and looks for an order in
// which they could have happened one by one, each between its call and its return (Wing
// and Gong, "Testing and verifying concurrent objects", 1993).
func storeLinear(r *run, s engine.Store) {
	for round := range r.Rounds {
		h := r.history(s, r.key("linear"), rand.New(rand.NewPCG(r.Seed, uint64(round))))
		for _, c := range h {
			r.must(c.err == nil, "%s returned %v", c.what, c.err)
		}
		r.must(linear(h), "this history of one key has no order in which its calls could have happened one by one (seed %d, round %d): something was done in two steps that others came between\n%s", r.Seed, round, describe(h))
	}
}

// what a call of a history does.
const (
	doRead = iota
	doWrite
	doErase
	doAdd
)

// call is one call of a history, with its answer.
type call struct {
	kind       int
	start, end int64 // order of events
	was        engine.Revision
	value      int64 // written, added
	ok         bool  // there, or applied
	rev        engine.Revision
	got        int64
	what       string
	err        error // neither an answer nor a refusal
}

// history lets a few clients call s at once.
func (r *run) history(s engine.Store, key string, rnd *rand.Rand) []call {
	const clients, calls = 4, 5
	var clock atomic.Int64
	var mu sync.Mutex
	var all []call
	seeds := make([]uint64, clients)
	for i := range seeds {
		seeds[i] = rnd.Uint64()
	}
	r.together(clients, func(i int) {
		rnd := rand.New(rand.NewPCG(seeds[i], 0))
		var seen engine.Revision
		for n := range calls {
			c := call{kind: rnd.IntN(4), was: seen}
			if n == 0 {
				c.kind = rnd.IntN(2) * doAdd
			}
			c.start = clock.Add(1)
			switch c.kind {
			case doRead:
				rec, err := s.Read(r.ctx, key)
				c.ok, c.rev = err == nil, rec.Rev
				c.got, _ = strconv.ParseInt(string(rec.Value), 10, 64)
				if err != nil && !errors.Is(err, engine.ErrAbsent) {
					c.err = err
				}
				seen = rec.Rev
				c.what = fmt.Sprintf("Read -> %d at %d, %v", c.got, c.rev, err)
			case doWrite:
				c.value = int64(1000*(i+1) + 100*n)
				rev, err := s.Write(r.ctx, key, c.was, strconv.AppendInt(nil, c.value, 10), 0)
				c.ok, c.rev = err == nil, rev
				if err != nil && !errors.Is(err, engine.ErrConflict) {
					c.err = err
				}
				if err == nil {
					seen = rev
				}
				c.what = fmt.Sprintf("Write(was %d, %d) -> %d, %v", c.was, c.value, rev, err)
			case doErase:
				err := s.Erase(r.ctx, key, c.was)
				c.ok = err == nil
				c.got = 1
				if errors.Is(err, engine.ErrAbsent) {
					c.got = 0
				} else if err != nil && !errors.Is(err, engine.ErrConflict) {
					c.err = err
				}
				if err == nil {
					seen = 0
				}
				c.what = fmt.Sprintf("Erase(was %d) -> %v", c.was, err)
			case doAdd:
				c.value = int64(1 + rnd.IntN(9))
				total, _, err := s.Add(r.ctx, engine.OpID{}, key, c.value, nil, 0)
				c.ok, c.got, c.err = err == nil, total, err
				c.what = fmt.Sprintf("Add(%d) -> %d, %v", c.value, total, err)
			}
			c.end = clock.Add(1)
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
		}
	})
	return all
}

func describe(h []call) string {
	var b strings.Builder
	for _, c := range h {
		fmt.Fprintf(&b, "  [%2d, %2d] %s\n", c.start, c.end, c.what)
	}
	return b.String()
}

// state is what one key holds. Add does not say its revision: rev is 0 until a call shows
// it, and then larger than last.
type state struct {
	there bool
	value int64
	rev   engine.Revision
	last  engine.Revision // the largest known
}

// apply is the state after c, false if c could not have answered so.
func (st state) apply(c *call) (state, bool) {
	is := func(rev engine.Revision) bool { return st.there && (st.rev == rev || st.rev == 0 && rev > st.last) }
	switch c.kind {
	case doRead:
		if !c.ok {
			return st, !st.there
		}
		if !is(c.rev) || st.value != c.got {
			return st, false
		}
		st.rev, st.last = c.rev, max(st.last, c.rev)
		return st, true
	case doWrite:
		if !c.ok {
			return st, st.there && (st.rev == 0 || st.rev != c.was) || !st.there && c.was != 0
		}
		if c.rev <= st.last || c.rev <= c.was || st.there && (c.was == 0 || !is(c.was)) || !st.there && c.was != 0 {
			return st, false
		}
		return state{true, c.value, c.rev, c.rev}, true
	case doErase:
		if !c.ok {
			if c.got == 0 {
				return st, !st.there
			}
			return st, st.there && (st.rev == 0 || st.rev != c.was)
		}
		if c.was == 0 || !is(c.was) {
			return st, false
		}
		return state{last: max(st.last, c.was)}, true
	default:
		next := state{there: true, value: c.value, last: st.last}
		if st.there {
			next.value += st.value
			next.last = max(next.last, st.rev)
		}
		return next, next.value == c.got
	}
}

// linear searches for an order. Histories have at most 64 calls.
func linear(h []call) bool {
	type place struct {
		done uint64
		st   state
	}
	seen := map[place]bool{}
	var search func(p place) bool
	search = func(p place) bool {
		if p.done == 1<<len(h)-1 {
			return true
		}
		if seen[p] {
			return false
		}
		seen[p] = true
		first := int64(1) << 62 // whoever returned first: nothing that began later goes before it
		for i := range h {
			if p.done&(1<<i) == 0 {
				first = min(first, h[i].end)
			}
		}
		for i := range h {
			if p.done&(1<<i) != 0 || h[i].start > first {
				continue
			}
			if next, ok := p.st.apply(&h[i]); ok && search(place{p.done | 1<<i, next}) {
				return true
			}
		}
		return false
	}
	return search(place{})
}
