package sluicetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// Store checks what an [engine.Store] must do. open is called once per rule and may
// return the same store every time.
func Store(t T, open func() engine.Store, o Options) {
	t.Helper()
	each(t, "Store", o, open, storeRules)
}

var storeRules = []rule[engine.Store]{
	{"Absent", storeAbsent},
	{"Write", storeWrite},
	{"Conflict", storeConflict},
	{"AnyRevision", storeAnyRevision},
	{"Erase", storeErase},
	{"Revisions", storeRevisions},
	{"Owned", storeOwned},
	{"TTL", storeTTL},
	{"Add", storeAdd},
	{"Bound", storeBound},
	{"OpID", storeOpID},
	{"NotNumber", storeNotNumber},
	{"EndedContext", storeEndedContext},
	{"NoLostAdd", storeNoLostAdd},
	{"OneWinner", storeOneWinner},
	{"BoundTogether", storeBoundTogether},
	{"OpIDTogether", storeOpIDTogether},
	{"Linear", storeLinear},
	{"Follow", storeFollow},
	{"FollowEnds", storeFollowEnds},
	{"FollowTogether", storeFollowTogether},
	{"Numbers", storeNumbers},
	{"Fetch", storeFetch},
	{"Commit", storeCommit},
	{"AllOrNothing", storeAllOrNothing},
	{"CommitOnce", storeCommitOnce},
	{"CommitTogether", storeCommitTogether},
	{"Caught", storeCaught},
}

func (r *run) read(s engine.Store, key string) engine.Record {
	r.t.Helper()
	rec, err := s.Read(r.ctx, key)
	r.must(err == nil, "Read of a record that is there returned %v", err)
	r.must(rec.Key == key, "Read of %q returned the record of %q", key, rec.Key)
	r.must(rec.Rev != 0, "Read returned revision 0: that means that there is no record")
	return rec
}

func (r *run) write(s engine.Store, key string, was engine.Revision, value string, ttl time.Duration) engine.Revision {
	r.t.Helper()
	rev, err := s.Write(r.ctx, key, was, []byte(value), ttl)
	r.must(err == nil, "Write with the current revision (%d) returned %v", was, err)
	r.must(rev > was, "Write returned revision %d after %d: revisions grow with every write", rev, was)
	return rev
}

func (r *run) absent(s engine.Store, key, why string) {
	r.t.Helper()
	rec, err := s.Read(r.ctx, key)
	r.must(errors.Is(err, engine.ErrAbsent), "Read returned %q and %v, not ErrAbsent: %s", rec.Value, err, why)
}

func (r *run) refused(err error, what string) {
	r.t.Helper()
	r.must(err != nil, "%s returned no error", what)
	r.must(errors.Is(err, engine.ErrRefused), "%s returned %q, which does not match ErrRefused: a refusal says that nothing was applied, so that the caller need not wonder", what, err)
}

func storeAbsent(r *run, s engine.Store) {
	key := r.key("absent")
	r.absent(s, key, "nobody has written it")
	err := s.Erase(r.ctx, key, 1)
	r.must(errors.Is(err, engine.ErrAbsent), "Erase of a key without a record returned %v, not ErrAbsent", err)
	_, err = s.Write(r.ctx, key, 1, []byte("x"), 0)
	r.must(errors.Is(err, engine.ErrConflict), "Write with revision 1 to a key without a record returned %v, not ErrConflict", err)
	r.absent(s, key, "a refused Write must not create a record")
	for _, bad := range []string{"", string(make([]byte, engine.MaxKey+1))} {
		_, err := s.Write(r.ctx, bad, 0, []byte("x"), 0)
		r.refused(err, fmt.Sprintf("Write to a key of %d bytes", len(bad)))
	}
	_, err = s.Write(r.ctx, key, 0, []byte("x"), -1)
	r.refused(err, "Write with a negative ttl")
}

func storeWrite(r *run, s engine.Store) {
	key := r.key("write")
	first := r.write(s, key, 0, "one", 0)
	rec := r.read(s, key)
	r.must(string(rec.Value) == "one" && rec.Rev == first, "Read after Write returned %q at revision %d: must be what was written, %q at %d", rec.Value, rec.Rev, "one", first)
	r.must(rec.Left == 0, "Read of a record without an end says that %v are left", rec.Left)
	second := r.write(s, key, first, "two", 0)
	rec = r.read(s, key)
	r.must(string(rec.Value) == "two" && rec.Rev == second, "Read after the second Write returned %q at %d: must be %q at %d", rec.Value, rec.Rev, "two", second)
	third := r.write(s, key, second, "", 0)
	rec = r.read(s, key)
	r.must(len(rec.Value) == 0 && rec.Rev == third, "an empty value came back as %q: empty is not absent", rec.Value)
	big := bytes.Repeat([]byte{0, 255, '\n'}, 1000)
	r.write(s, key, third, string(big), 0)
	r.must(bytes.Equal(r.read(s, key).Value, big), "a value of any bytes did not come back as it was")
}

func storeConflict(r *run, s engine.Store) {
	key := r.key("conflict")
	first := r.write(s, key, 0, "one", 0)
	second := r.write(s, key, first, "two", 10*r.Tick)
	for _, was := range []engine.Revision{0, first, second + 1000} {
		_, err := s.Write(r.ctx, key, was, []byte("lost"), 0)
		rec := r.read(s, key)
		changed := string(rec.Value) != "two" || rec.Rev != second
		r.must(err != nil || !changed, "Write with revision %d overwrote the record at %d: a writer that has not seen the current revision must get ErrConflict", was, second)
		r.must(errors.Is(err, engine.ErrConflict), "Write with revision %d, while %d is current, returned %v, not ErrConflict", was, second, err)
		r.must(errors.Is(err, engine.ErrRefused), "ErrConflict does not match ErrRefused")
		r.must(!changed, "Write returned ErrConflict but changed the value: a refused write must change nothing")
		r.must(rec.Left > 0, "Write returned ErrConflict but took the record's end away: a refused write must change nothing")
	}
}

func storeAnyRevision(r *run, s engine.Store) {
	key := r.key("any")
	first, err := s.Write(r.ctx, key, engine.AnyRevision, []byte("one"), 0)
	r.must(err == nil && first != 0 && first != engine.AnyRevision, "Write with AnyRevision to a key without a record returned %d, %v: it writes whatever is there, nothing too", first, err)
	second, err := s.Write(r.ctx, key, engine.AnyRevision, []byte("two"), 10*r.Tick)
	r.must(err == nil && second > first, "Write with AnyRevision over revision %d returned %d, %v: it writes whatever is there", first, second, err)
	rec := r.read(s, key)
	r.must(string(rec.Value) == "two" && rec.Rev == second && rec.Left > 0, "Read after a Write with AnyRevision returned %q at %d, ending in %v: must be what was written, %q at %d, with its end", rec.Value, rec.Rev, rec.Left, "two", second)
	third, err := s.Write(r.ctx, key, engine.AnyRevision, []byte("three"), 0)
	r.must(err == nil && third > second, "Write with AnyRevision over revision %d returned %d, %v", second, third, err)
	rec = r.read(s, key)
	r.must(rec.Left == 0, "a record written without an end in place of one with it ends in %v", rec.Left)
	_, err = s.Write(r.ctx, key, second, []byte("lost"), 0)
	r.must(errors.Is(err, engine.ErrConflict), "Write with an old revision after one with AnyRevision returned %v, not ErrConflict", err)
	err = s.Erase(r.ctx, key, engine.AnyRevision)
	r.must(err == nil, "Erase with AnyRevision of a record that is there returned %v", err)
	r.absent(s, key, "it was erased")
	err = s.Erase(r.ctx, key, engine.AnyRevision)
	r.must(errors.Is(err, engine.ErrAbsent), "Erase with AnyRevision of a key without a record returned %v, not ErrAbsent", err)
}

func storeErase(r *run, s engine.Store) {
	key := r.key("erase")
	rev := r.write(s, key, 0, "one", 0)
	for _, was := range []engine.Revision{0, rev + 1000} {
		err := s.Erase(r.ctx, key, was)
		r.must(errors.Is(err, engine.ErrConflict), "Erase with revision %d, while %d is current, returned %v, not ErrConflict", was, rev, err)
		_, err = s.Read(r.ctx, key)
		r.must(err == nil, "Erase returned ErrConflict but the record is gone: a refused erase must change nothing")
	}
	err := s.Erase(r.ctx, key, rev)
	r.must(err == nil, "Erase with the current revision returned %v", err)
	r.absent(s, key, "it was erased")
	err = s.Erase(r.ctx, key, rev)
	r.must(errors.Is(err, engine.ErrAbsent), "the second Erase returned %v, not ErrAbsent", err)
}

func storeRevisions(r *run, s engine.Store) {
	key := r.key("revisions")
	last := engine.Revision(0)
	for i := range 5 {
		rev := r.write(s, key, 0, "again", 0)
		r.must(rev > last, "after Erase, Write number %d returned revision %d, and %d had been given before: a revision must never come again, or a late writer overwrites what it has not seen", i+1, rev, last)
		last = rev
		if i%2 == 1 {
			_, _, err := s.Add(r.ctx, engine.OpID{}, key, 1, nil, 0)
			r.refused(err, "Add to a value that is no number")
			last = r.write(s, key, last, "1", 0)
			_, _, err = s.Add(r.ctx, engine.OpID{}, key, 1, nil, 0)
			r.must(err == nil, "Add to a value that is a number returned %v", err)
			now := r.read(s, key).Rev
			r.must(now > last, "Add changed the value and left revision %d as it was: a writer with that revision would undo it unseen", last)
			last = now
		}
		err := s.Erase(r.ctx, key, last)
		r.must(err == nil, "Erase with the current revision returned %v", err)
	}
}

func storeOwned(r *run, s engine.Store) {
	key := r.key("owned")
	value := []byte("mine")
	_, err := s.Write(r.ctx, key, 0, value, 0)
	r.must(err == nil, "Write returned %v", err)
	copy(value, "THEY")
	rec := r.read(s, key)
	r.must(string(rec.Value) == "mine", "the caller changed its slice after Write, and the store's value changed with it: the store must keep a copy")
	copy(rec.Value, "OURS")
	r.must(string(r.read(s, key).Value) == "mine", "the caller changed the slice it got from Read, and the store's value changed with it: Read must return a copy")
}

func storeTTL(r *run, s engine.Store) {
	key, just, ttl := r.key("ttl"), r.just(), 4*r.Tick
	written := r.Now()
	first := r.write(s, key, 0, "short", ttl)
	rec := r.read(s, key)
	r.must(rec.Left > 0 && rec.Left <= ttl, "Read says that %v of %v are left just after Write", rec.Left, ttl)
	r.Sleep(ttl - just)
	rec, err := s.Read(r.ctx, key)
	there := err == nil && string(rec.Value) == "short"
	r.must(there || r.Now().Sub(written) >= ttl, "Read returned %v when %v of %v were left: the record must be there until its end", err, just, ttl)
	r.Sleep(just + r.Slack)
	r.absent(s, key, fmt.Sprintf("its ttl of %v is over: a record is there in [written, written+ttl) and not at its end", ttl))
	_, err = s.Write(r.ctx, key, first, []byte("late"), 0)
	r.must(errors.Is(err, engine.ErrConflict), "Write with the revision of an expired record returned %v, not ErrConflict", err)
	again := r.write(s, key, 0, "new", ttl)
	r.must(again > first, "after expiry, Write returned revision %d, and %d had been given before: a revision must never come again", again, first)

	written = r.Now()
	longer := r.write(s, key, again, "longer", 2*ttl)
	r.Sleep(ttl + r.Slack)
	rec, err = s.Read(r.ctx, key)
	there = err == nil && string(rec.Value) == "longer"
	if !there && r.Now().Sub(written) >= 2*ttl {
		longer = 0 // this test slept too long
	}
	r.must(there || longer == 0, "a record written again with %v was gone after %v: the end of the first write must not end the second", 2*ttl, ttl)
	r.write(s, key, longer, "forever", 0)
	r.Sleep(2 * ttl)
	rec, err = s.Read(r.ctx, key)
	r.must(err == nil && rec.Left == 0, "a record written with ttl 0 returned %v and %v left after a while: zero means no end, whatever was before", err, rec.Left)
}

func (r *run) add(s engine.Store, op engine.OpID, key string, delta int64, b *engine.Bound, wantTotal, wantApplied int64, why string) {
	r.t.Helper()
	total, applied, err := s.Add(r.ctx, op, key, delta, b, 0)
	r.must(err == nil, "Add(%d) returned %v", delta, err)
	r.must(total == wantTotal && applied == wantApplied, "Add(%d) returned total %d, applied %d: must be %d, %d: %s", delta, total, applied, wantTotal, wantApplied, why)
}

func (r *run) counter(s engine.Store, key string, want int64, why string) {
	r.t.Helper()
	rec := r.read(s, key)
	got, err := strconv.ParseInt(string(rec.Value), 10, 64)
	r.must(err == nil, "Read of a counter returned %q: must be its decimal number", rec.Value)
	r.must(got == want, "Read says that the counter is %d: must be %d: %s", got, want, why)
}

func storeAdd(r *run, s engine.Store) {
	key, none := r.key("add"), engine.OpID{}
	r.add(s, none, key, 5, nil, 5, 5, "a key without a record counts from zero")
	r.add(s, none, key, -7, nil, -2, -7, "without a bound all of delta is added")
	r.counter(s, key, -2, "5 - 7")
	r.write(s, key, r.read(s, key).Rev, "40", 0)
	r.add(s, none, key, 2, nil, 42, 2, "a number that was written counts on")

	big := r.key("big")
	r.add(s, none, big, math.MaxInt64, nil, math.MaxInt64, math.MaxInt64, "int64 is the range")
	_, _, err := s.Add(r.ctx, none, big, 1, nil, 0)
	r.refused(err, "Add beyond the largest int64")
	r.counter(s, big, math.MaxInt64, "an Add that was refused must change nothing")

	short, ttl, just := r.key("short"), 4*r.Tick, r.just()
	for range 2 {
		_, _, err := s.Add(r.ctx, none, short, 1, nil, ttl)
		r.must(err == nil, "Add with a ttl returned %v", err)
		r.Sleep(ttl/2 - just)
	}
	r.counter(s, short, 2, "its time is not over")
	r.Sleep(2*just + r.Slack)
	r.absent(s, short, "the ttl of the Add that created the counter is over, and a later Add must not move its end")
}

func storeBound(r *run, s engine.Store) {
	key, none := r.key("bound"), engine.OpID{}
	b := &engine.Bound{Floor: -3, Ceil: 10}
	r.add(s, none, key, 8, b, 8, 8, "all of it fits")
	r.add(s, none, key, 8, b, 10, 2, "as much as fits below Ceil is added")
	before := r.read(s, key)
	r.add(s, none, key, 1, b, 10, 0, "nothing fits at Ceil")
	after := r.read(s, key)
	r.must(string(after.Value) == "10", "Add at Ceil answered that it added nothing but moved the counter to %q: check the bound before adding, not after", after.Value)
	r.must(after.Rev == before.Rev, "Add added nothing and raised the revision: an Add that adds nothing changes nothing")
	r.add(s, none, key, -100, b, -3, -13, "as much as fits above Floor is taken away")
	r.add(s, none, key, -1, b, -3, 0, "nothing fits at Floor")
	r.counter(s, key, -3, "it stands at Floor")
	r.add(s, none, key, 3, &engine.Bound{Floor: -50, Ceil: -40}, -3, 0, "a counter outside of the bound is not moved further out")
	r.add(s, none, key, math.MinInt64, &engine.Bound{Floor: math.MinInt64, Ceil: 0}, math.MinInt64, math.MinInt64+3, "the ends of int64 are bounds like others")
	_, _, err := s.Add(r.ctx, none, key, 1, &engine.Bound{Floor: 1, Ceil: 0}, 0)
	r.refused(err, "Add with Floor above Ceil")
	fresh := r.key("fresh")
	r.add(s, none, fresh, 5, &engine.Bound{Floor: -9, Ceil: 0}, 0, 0, "nothing fits")
	r.absent(s, fresh, "an Add that adds nothing must not create a record")
}

func storeOpID(r *run, s engine.Store) {
	key, a, b := r.key("op"), engine.NewOpID(), engine.NewOpID()
	r.add(s, a, key, 5, nil, 5, 5, "it is the first")
	r.add(s, a, key, 5, nil, 5, 5, "it is the same operation again: a repetition with the same OpID takes effect once and is answered like the first")
	r.counter(s, key, 5, "an operation repeated with its OpID takes effect once")
	r.add(s, b, key, 5, nil, 10, 5, "another OpID is another operation")
	r.add(s, a, key, 5, nil, 5, 5, "it is the first operation again, after another one")
	r.add(s, engine.OpID{}, key, 1, nil, 11, 1, "the zero OpID is no name")
	r.add(s, engine.OpID{}, key, 1, nil, 12, 1, "the zero OpID is no name: nothing is remembered of it")
}

func storeNotNumber(r *run, s engine.Store) {
	key := r.key("text")
	rev := r.write(s, key, 0, "a few", 0)
	_, _, err := s.Add(r.ctx, engine.OpID{}, key, 1, nil, 0)
	r.refused(err, "Add to a value that is no number")
	rec := r.read(s, key)
	r.must(string(rec.Value) == "a few" && rec.Rev == rev, "Add was refused and left %q at revision %d: must change nothing", rec.Value, rec.Rev)
}

func storeEndedContext(r *run, s engine.Store) {
	key, ctx := r.key("ended"), endedContext()
	_, err := s.Write(ctx, key, 0, []byte("late"), 0)
	r.must(err != nil, "Write with a context that had ended returned no error")
	_, _, errAdd := s.Add(ctx, engine.OpID{}, key, 1, nil, 0)
	r.must(errAdd != nil, "Add with a context that had ended returned no error")
	r.Sleep(r.Tick) // a request that was sent after all has arrived by then
	_, gone := s.Read(r.ctx, key)
	if errors.Is(err, engine.ErrRefused) && errors.Is(errAdd, engine.ErrRefused) {
		r.must(errors.Is(gone, engine.ErrAbsent), "Write and Add returned ErrRefused, and one of them was applied: ErrRefused means certainly not, now or later")
	}
}

func storeNoLostAdd(r *run, s engine.Store) {
	const clients, times = 8, 25
	key := r.key("sum")
	var mu sync.Mutex
	seen := map[int64]int{}
	r.together(clients, func(int) {
		for range times {
			total, _, err := s.Add(r.ctx, engine.OpID{}, key, 1, nil, 0)
			if err != nil {
				r.fail("Add returned %v", err)
				return
			}
			mu.Lock()
			seen[total]++
			mu.Unlock()
		}
	})
	rec := r.read(s, key)
	r.must(string(rec.Value) == strconv.Itoa(clients*times), "%d times 1 was added at once, and the counter is %q: an Add was lost between reading and writing", clients*times, rec.Value)
	for total, n := range seen {
		r.must(n == 1, "%d Adds of 1 returned the same total, %d: each must see the counter after itself alone", n, total)
	}
}

func storeOneWinner(r *run, s engine.Store) {
	const clients = 8
	key := r.key("winner")
	rev := r.write(s, key, 0, "start", 0)
	for round := range 20 {
		var mu sync.Mutex
		var won []string
		var next engine.Revision
		r.together(clients, func(i int) {
			value := fmt.Sprintf("%d of round %d", i, round)
			got, err := s.Write(r.ctx, key, rev, []byte(value), 0)
			switch {
			case err == nil:
				mu.Lock()
				won, next = append(won, value), got
				mu.Unlock()
			case !errors.Is(err, engine.ErrConflict):
				r.fail("Write returned %v", err)
			}
		})
		r.must(len(won) == 1, "%d of %d writers with the same revision succeeded: exactly one must; reading and writing have to be one step", len(won), clients)
		rec := r.read(s, key)
		r.must(string(rec.Value) == won[0] && rec.Rev == next, "the writer of %q succeeded and the record is %q", won[0], rec.Value)
		rev = next
	}
}

func storeBoundTogether(r *run, s engine.Store) {
	const clients, ceil = 8, 50
	key := r.key("ceil")
	var sum gauge
	r.together(clients, func(int) {
		for range 20 {
			total, applied, err := s.Add(r.ctx, engine.OpID{}, key, 1, &engine.Bound{Floor: 0, Ceil: ceil}, 0)
			if err != nil {
				r.fail("Add returned %v", err)
				return
			}
			if total > ceil {
				r.fail("Add within a Ceil of %d returned total %d", ceil, total)
				return
			}
			sum.add(int(applied))
		}
	})
	r.must(sum.now.Load() == ceil, "concurrent Adds within a Ceil of %d say that they added %d: checking and adding have to be one step", ceil, sum.now.Load())
	r.counter(s, key, ceil, "that is the Ceil")
}

func storeOpIDTogether(r *run, s engine.Store) {
	for range 10 {
		key, op := r.key("same"), engine.NewOpID()
		r.together(8, func(int) {
			if total, applied, err := s.Add(r.ctx, op, key, 3, nil, 0); err != nil || total != 3 || applied != 3 {
				r.fail("Add returned %d, %d, %v: repetitions at once must all be answered like the first: 3, 3", total, applied, err)
			}
		})
		r.counter(s, key, 3, "an operation repeated at once with its OpID takes effect once")
	}
}

func storeFollow(r *run, s engine.Store) {
	prefix := r.key("follow/")
	a, b, other := prefix+"a", prefix+"b", r.key("elsewhere")
	ra := r.write(s, a, 0, "a1", 0)
	r.write(s, other, 0, "x", 0)
	f := r.follow(s, prefix)
	defer f.stop()
	r.must(f.sees(a, ra, false), "Follow did not deliver the record that was there when it began: the current one comes first")
	ra = r.write(s, a, ra, "a2", 0)
	r.must(f.sees(a, ra, false), "Follow did not deliver a Write that came after it began")
	rb := r.write(s, b, 0, "b1", 3*r.Tick)
	r.must(f.sees(b, rb, false), "Follow did not deliver a new record")
	_, _, err := s.Add(r.ctx, engine.OpID{}, prefix+"n", 4, nil, 0)
	r.must(err == nil, "Add returned %v", err)
	r.must(f.sees(prefix+"n", r.read(s, prefix+"n").Rev, false), "Follow did not deliver an Add")
	err = s.Erase(r.ctx, a, ra)
	r.must(err == nil, "Erase returned %v", err)
	r.must(f.sees(a, ra, true), "Follow did not tell of an Erase: a record with Gone set must come, its revision at least that of the last record")
	r.Sleep(3 * r.Tick)
	r.must(f.sees(b, rb, true), "Follow did not tell that a record expired: a record with Gone set must come")
	f.check(prefix)
}

func storeFollowEnds(r *run, s engine.Store) {
	prefix := r.key("ends/")
	rev := r.write(s, prefix+"a", 0, "1", 0)
	f := r.follow(s, prefix)
	r.must(f.sees(prefix+"a", rev, false), "Follow did not deliver the current record")
	f.stop()
	r.must(r.until(f.over), "Follow did not end when its context did")
	r.must(f.err() != nil, "Follow ended without an error: the last element says why")
	n := 0
	for _, err := range s.Follow(endedContext(), prefix) {
		n++
		r.must(err != nil, "Follow with a context that had ended delivered a record")
	}
	r.must(n == 1, "Follow with a context that had ended delivered %d elements: must be one, the error", n)
	for range s.Follow(r.ctx, prefix) {
		break
	}
	r.write(s, prefix+"a", rev, "2", 0) // nobody may be waited for
}

func storeFollowTogether(r *run, s engine.Store) {
	prefix := r.key("storm/")
	const writers, times = 3, 30
	f := r.follow(s, prefix)
	var late *follow
	r.together(writers+1, func(i int) {
		if i == writers {
			r.Sleep(r.Tick / 10)
			f.stop() // one that begins in mid-stream has to end up with the same
			late = r.follow(s, prefix)
			return
		}
		key := prefix + strconv.Itoa(i)
		rev := engine.Revision(0)
		for n := range times {
			got, err := s.Write(r.ctx, key, rev, []byte(strconv.Itoa(n)), 0)
			if err != nil {
				r.fail("Write by the only writer of a key returned %v", err)
				return
			}
			rev = got
			if n%10 == 9 && n < times-1 {
				if err := s.Erase(r.ctx, key, rev); err != nil {
					r.fail("Erase by the only writer of a key returned %v", err)
					return
				}
				rev = 0
			}
			if n%3 == 0 {
				r.Sleep(r.Tick / 50)
			}
		}
	})
	defer late.stop()
	for i := range writers {
		key := prefix + strconv.Itoa(i)
		want := r.read(s, key)
		r.must(late.sees(key, want.Rev, false), "a follower that began in mid-stream did not end up with the latest record of %q", key)
		got := late.last(key)
		r.must(bytes.Equal(got.Value, want.Value), "a follower ended up with %q, the store has %q", got.Value, want.Value)
	}
	f.check(prefix)
	late.check(prefix)
}

// follow is a Follow under way, and what it has delivered.
type follow struct {
	r      *run
	cancel context.CancelFunc
	mu     sync.Mutex
	got    []engine.Record
	notes  []int // how many records came before each that says Caught
	fail   error
	ended  bool
}

func (r *run) follow(s engine.Store, prefix string) *follow {
	ctx, cancel := context.WithCancel(r.ctx)
	f := &follow{r: r, cancel: cancel}
	go func() {
		defer func() {
			f.mu.Lock()
			f.ended = true
			f.mu.Unlock()
		}()
		defer r.caught()
		for rec, err := range s.Follow(ctx, prefix) {
			f.mu.Lock()
			switch {
			case err != nil:
				f.fail = err
			case rec.Caught:
				f.notes = append(f.notes, len(f.got))
			default:
				f.got = append(f.got, rec)
			}
			f.mu.Unlock()
		}
	}()
	return f
}

func (f *follow) stop() {
	f.cancel()
	f.r.until(f.over)
}

func (f *follow) over() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

func (f *follow) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail
}

func (f *follow) last(key string) (last engine.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, rec := range f.got {
		if rec.Key == key {
			last = rec
		}
	}
	return last
}

// sees waits until the last delivered of key is at rev, or gone since.
func (f *follow) sees(key string, rev engine.Revision, gone bool) bool {
	return f.r.until(func() bool {
		rec := f.last(key)
		return rec.Gone == gone && (rec.Rev == rev || gone && rec.Rev >= rev)
	})
}

// check holds what must be true of everything delivered.
func (f *follow) check(prefix string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	revs := map[string]engine.Revision{}
	for _, rec := range f.got {
		f.r.must(len(rec.Key) >= len(prefix) && rec.Key[:len(prefix)] == prefix, "Follow of %q delivered %q", prefix, rec.Key)
		last := revs[rec.Key]
		f.r.must(rec.Rev > last || rec.Gone && rec.Rev == last, "Follow delivered %q at revision %d after %d: each key comes in the order of its revisions, none twice", rec.Key, rec.Rev, last)
		revs[rec.Key] = rec.Rev
	}
}
