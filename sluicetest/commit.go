package sluicetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strconv"
	"sync/atomic"

	"github.com/sluice-go/sluice/engine"
)

// storeNumbers: what is no number in its one decimal form is not added to.
func storeNumbers(r *run, s engine.Store) {
	key := r.key("number")
	var none engine.OpID
	for _, text := range []string{"", "007", "+5", "-0", "00", " 5", "5 ", "5\n", "1e3", "0x1f", "1_000", "5.0", "-", "--5", "9223372036854775808", "-9223372036854775809", "99999999999999999999", "\u0665"} {
		rev, err := s.Write(r.ctx, key, engine.AnyRevision, []byte(text), 0)
		r.must(err == nil, "Write returned %v", err)
		for _, b := range []*engine.Bound{nil, {Floor: 0, Ceil: 3}} {
			_, _, err = s.Add(r.ctx, none, key, 1, b, 0)
			r.refused(err, fmt.Sprintf("Add to %q, which is no number in its one decimal form,", text))
		}
		rec := r.read(s, key)
		r.must(string(rec.Value) == text && rec.Rev == rev, "Add was refused and left %q at revision %d: must change nothing", rec.Value, rec.Rev)
	}
	for text, want := range map[string]int64{"0": 1, "-7": -6, "-1": 0, "9223372036854775806": 9223372036854775807, "-9223372036854775808": -9223372036854775807, "100000000000000": 100000000000001} {
		_, err := s.Write(r.ctx, key, engine.AnyRevision, []byte(text), 0)
		r.must(err == nil, "Write returned %v", err)
		r.add(s, none, key, 1, nil, want, 1, "it stood at "+text)
		r.must(string(r.read(s, key).Value) == strconv.FormatInt(want, 10), "a counter at %d reads %q", want, r.read(s, key).Value)
	}
}

func (r *run) fetch(s engine.Store, keys ...string) []engine.Record {
	r.t.Helper()
	list, err := s.Fetch(r.ctx, keys...)
	r.must(err == nil, "Fetch of %d keys returned %v", len(keys), err)
	r.must(len(list) == len(keys), "Fetch of %d keys returned %d records", len(keys), len(list))
	for i, rec := range list {
		r.must(rec.Key == keys[i], "Fetch returned the record of %q in place of %q: they are in the order of keys", rec.Key, keys[i])
	}
	return list
}

func storeFetch(r *run, s engine.Store) {
	prefix := r.key("fetch/")
	a, b, none := prefix+"a", prefix+"b", prefix+"none"
	ra := r.write(s, a, 0, "one", 0)
	rb := r.write(s, b, 0, "", 10*r.Tick)
	list := r.fetch(s, none, b, a, a)
	r.must(list[0].Rev == 0 && list[0].Value == nil, "Fetch returned revision %d and %q of a key without a record: must be zero and nothing", list[0].Rev, list[0].Value)
	r.must(list[1].Rev == rb && len(list[1].Value) == 0 && list[1].Left > 0, "Fetch returned revision %d, %q and %v left of an empty record: must be %d and its end", list[1].Rev, list[1].Value, list[1].Left, rb)
	for _, rec := range list[2:] {
		r.must(rec.Rev == ra && string(rec.Value) == "one" && rec.Left == 0, "Fetch returned %q at revision %d, %v left: must be what was written, %q at %d, without an end", rec.Value, rec.Rev, rec.Left, "one", ra)
	}
	copy(list[2].Value, "ONE")
	r.must(string(r.read(s, a).Value) == "one" && string(list[3].Value) == "one", "the caller changed a value that it got from Fetch, and another changed with it: Fetch must return copies")
	empty, err := s.Fetch(r.ctx)
	r.must(err == nil && len(empty) == 0, "Fetch of no keys returned %d records, %v", len(empty), err)
	_, err = s.Fetch(r.ctx, make([]string, engine.MaxBatch+1)...)
	r.refused(err, "Fetch of more than MaxBatch keys")
	_, err = s.Fetch(r.ctx, a, "")
	r.refused(err, "Fetch of an empty key")
	_, err = s.Fetch(endedContext(), a)
	r.must(err != nil, "Fetch with a context that had ended returned no error")
}

func (r *run) commit(s engine.Store, op engine.OpID, changes ...engine.Change) []engine.Revision {
	r.t.Helper()
	revs, err := s.Commit(r.ctx, op, changes...)
	r.must(err == nil, "Commit of %d changes, all based on the current revisions, returned %v", len(changes), err)
	r.must(len(revs) == len(changes), "Commit of %d changes returned %d revisions", len(changes), len(revs))
	return revs
}

// storeCommit: each kind of change, on what is there and on what is not.
func storeCommit(r *run, s engine.Store) {
	prefix := r.key("commit/")
	old, brief, gone, fresh, seen, absent := prefix+"old", prefix+"brief", prefix+"gone", prefix+"fresh", prefix+"seen", prefix+"absent"
	r1, r2, r3, r4 := r.write(s, old, 0, "1", 10*r.Tick), r.write(s, brief, 0, "2", 0), r.write(s, gone, 0, "3", 0), r.write(s, seen, 0, "4", 10*r.Tick)
	var none engine.OpID
	value := []byte("one")
	revs := r.commit(s, none,
		engine.Change{Key: old, Was: r1, Value: value},
		engine.Change{Key: brief, Was: engine.AnyRevision, Value: []byte("two"), TTL: 3 * r.Tick},
		engine.Change{Key: gone, Was: r3, Erase: true},
		engine.Change{Key: fresh, Value: nil},
		engine.Change{Key: seen, Was: r4, Check: true},
		engine.Change{Key: absent, Check: true},
	)
	copy(value, "ONE")
	list := r.fetch(s, old, brief, gone, fresh, seen, absent)
	for i, rec := range list {
		r.must(rec.Rev == revs[i], "Commit says that change number %d is at revision %d, and Fetch says %d", i+1, revs[i], rec.Rev)
	}
	r.must(string(list[0].Value) == "one" && list[0].Rev > r1 && list[0].Left == 0, "Commit wrote %q without an end, and the record is %q with %v left", "one", list[0].Value, list[0].Left)
	r.must(string(list[1].Value) == "two" && list[1].Rev > r2 && list[1].Left > 0, "Commit wrote %q with an end, and the record is %q with %v left", "two", list[1].Value, list[1].Left)
	r.must(list[2].Rev == 0, "Commit erased a record, and it is there")
	r.must(list[3].Rev != 0 && len(list[3].Value) == 0, "Commit wrote an empty value, and there is %q at revision %d", list[3].Value, list[3].Rev)
	r.must(list[4].Rev == r4 && string(list[4].Value) == "4" && list[4].Left > 0, "Commit checked a record and left %q at revision %d, %v to go: it changes nothing", list[4].Value, list[4].Rev, list[4].Left)
	r.must(list[5].Rev == 0, "Commit checked that there is no record, and made one")
	r.Sleep(3*r.Tick + r.Slack)
	r.absent(s, brief, "its ttl is over")

	revs = r.commit(s, none, engine.Change{Key: absent, Was: engine.AnyRevision, Erase: true}, engine.Change{Key: old, Was: engine.AnyRevision, Erase: true}, engine.Change{Key: gone, Value: []byte("again")})
	r.must(revs[0] == 0 && revs[1] == 0 && revs[2] > r3, "Commit erased one that was not there, one that was, and wrote one that had been at %d, and returned revisions %v: zero where there is no record, and none that comes again", r3, revs)
	r.absent(s, old, "it was erased")

	empty, err := s.Commit(r.ctx, engine.NewOpID())
	r.must(err == nil && len(empty) == 0, "Commit of no changes returned %v, %v", empty, err)
	for what, list := range map[string][]engine.Change{
		"an empty key":               {{Key: fresh, Was: engine.AnyRevision, Value: []byte("x")}, {}},
		"one key twice":              {{Key: fresh, Was: engine.AnyRevision}, {Key: fresh, Was: engine.AnyRevision}},
		"a negative TTL":             {{Key: fresh, Was: engine.AnyRevision, TTL: -1}},
		"both Erase and Check":       {{Key: fresh, Erase: true, Check: true}},
		"a Value to erase":           {{Key: fresh, Was: engine.AnyRevision, Erase: true, Value: []byte("x")}},
		"a Check of AnyRevision":     {{Key: fresh, Was: engine.AnyRevision, Check: true}},
		"more than MaxBatch changes": make([]engine.Change, engine.MaxBatch+1),
	} {
		_, err := s.Commit(r.ctx, none, list...)
		r.refused(err, "Commit with "+what)
	}
	rec := r.read(s, fresh)
	r.must(rec.Rev == list[3].Rev, "a Commit that was refused changed a record")
	_, err = s.Commit(endedContext(), none, engine.Change{Key: fresh, Was: engine.AnyRevision})
	r.must(err != nil, "Commit with a context that had ended returned no error")
}

// storeAllOrNothing: one change that does not fit, and nothing is changed.
func storeAllOrNothing(r *run, s engine.Store) {
	prefix := r.key("all/")
	a, b, fresh := prefix+"a", prefix+"b", prefix+"fresh"
	ra, rb := r.write(s, a, 0, "a", 10*r.Tick), r.write(s, b, 0, "b", 10*r.Tick)
	good := []engine.Change{{Key: a, Was: ra, Value: []byte("lost")}, {Key: fresh, Value: []byte("lost")}}
	for what, bad := range map[string]engine.Change{
		"a write based on an old revision":      {Key: b, Was: rb + 1000, Value: []byte("lost")},
		"a write of what must not be there":     {Key: b, Value: []byte("lost")},
		"an erasure based on an old revision":   {Key: b, Was: rb + 1000, Erase: true},
		"a check of an old revision":            {Key: b, Was: rb + 1000, Check: true},
		"a check that nothing is there":         {Key: b, Check: true},
		"a write based on a record that is not": {Key: prefix + "none", Was: 1, Value: []byte("lost")},
		"a check of a record that is not":       {Key: prefix + "none", Was: 1, Check: true},
	} {
		for at := range 3 { // whatever comes first
			list := append([]engine.Change(nil), good...)
			list = append(list[:at], append([]engine.Change{bad}, list[at:]...)...)
			op := engine.NewOpID()
			_, err := s.Commit(r.ctx, op, list...)
			now := r.fetch(s, a, b, fresh)
			same := now[0].Rev == ra && string(now[0].Value) == "a" && now[0].Left > 0 && now[1].Rev == rb && now[2].Rev == 0
			r.must(errors.Is(err, engine.ErrConflict), "Commit with %s returned %v, not ErrConflict", what, err)
			r.must(same, "Commit with %s, as number %d of 3, returned ErrConflict and changed something: it makes all changes or none", what, at+1)
		}
	}
}

// storeCommitOnce: whoever does not know whether its Commit took effect repeats it.
func storeCommitOnce(r *run, s engine.Store) {
	prefix := r.key("once/")
	a, b := prefix+"a", prefix+"b"
	ra := r.write(s, a, 0, "before", 0)
	op := engine.NewOpID()
	changes := []engine.Change{{Key: a, Was: ra, Value: []byte("mine")}, {Key: b, Was: engine.AnyRevision, Value: []byte("mine")}}
	first := r.commit(s, op, changes...)
	theirs := r.write(s, b, first[1], "theirs", 0)
	again := r.commit(s, op, changes...)
	r.must(fmt.Sprint(again) == fmt.Sprint(first), "Commit repeated with its OpID returned revisions %v after %v: it is answered like the first", again, first)
	list := r.fetch(s, a, b)
	r.must(list[0].Rev == first[0] && list[1].Rev == theirs && string(list[1].Value) == "theirs", "a Commit repeated with its OpID wrote %q over what another had written since: it takes effect once", list[1].Value)
	changes[0].Value = []byte("other")
	_, err := s.Commit(r.ctx, op, changes...)
	r.refused(err, "Commit with the OpID of another one")
	_, _, err = s.Add(r.ctx, op, prefix+"n", 1, nil, 0)
	r.refused(err, "Add with the OpID of a Commit")
	add := engine.NewOpID()
	r.add(s, add, prefix+"n", 1, nil, 1, 1, "it is the first")
	_, err = s.Commit(r.ctx, add, engine.Change{Key: a, Was: first[0], Value: []byte("lost")})
	r.refused(err, "Commit with the OpID of an Add")

	late := engine.NewOpID()
	change := engine.Change{Key: a, Was: first[0] + 1000, Value: []byte("late")}
	_, err = s.Commit(r.ctx, late, change)
	r.must(errors.Is(err, engine.ErrConflict), "Commit based on another revision returned %v, not ErrConflict", err)
	change.Was = first[0]
	r.commit(s, late, change) // what was refused is not remembered

	key := prefix + "together"
	start := r.write(s, key, 0, "0", 0)
	same := engine.NewOpID()
	var rev atomic.Uint64
	r.together(8, func(int) {
		revs, err := s.Commit(r.ctx, same, engine.Change{Key: key, Was: start, Value: []byte("1")})
		if err != nil || len(revs) != 1 {
			r.fail("a Commit repeated at once returned %v, %v: all are answered like the first", revs, err)
			return
		}
		if old := rev.Swap(uint64(revs[0])); old != 0 && old != uint64(revs[0]) {
			r.fail("a Commit repeated at once returned revision %d, and %d: it takes effect once", old, revs[0])
		}
	})
}

// storeCommitTogether: money goes to and fro among accounts, and none comes or goes.
func storeCommitTogether(r *run, s engine.Store) {
	const accounts, clients, times, sum = 4, 5, 15, 400
	prefix := r.key("bank/")
	var keys []string
	for i := range accounts {
		keys = append(keys, prefix+strconv.Itoa(i))
		r.write(s, keys[i], 0, strconv.Itoa(sum/accounts), 0)
	}
	total := func(list []engine.Record) (sum int) {
		for _, rec := range list {
			n, err := strconv.Atoi(string(rec.Value))
			r.must(err == nil, "a record that was written as a number reads %q", rec.Value)
			sum += n
		}
		return sum
	}
	var conflicts atomic.Int64
	r.together(clients, func(i int) {
		rnd := rand.New(rand.NewPCG(r.Seed, uint64(i)))
		for n := range times {
			if got := total(r.fetch(s, keys...)); got != sum {
				r.fail("%d accounts have %d together, not %d: Fetch returns what was there at one instant (seed %d)", accounts, got, sum, r.Seed)
				return
			}
			two := rnd.Perm(accounts)[:2]
			sort.Ints(two)
			for tries := 0; ; tries++ {
				if tries > 10_000 {
					r.fail("Commit met a conflict 10,000 times in a row")
					return
				}
				list, err := s.Fetch(r.ctx, keys[two[0]], keys[two[1]])
				if err != nil {
					r.fail("Fetch returned %v", err)
					return
				}
				from, to, amount := total(list[:1]), total(list[1:]), rnd.IntN(9)-4
				_, err = s.Commit(r.ctx, engine.NewOpID(),
					engine.Change{Key: list[0].Key, Was: list[0].Rev, Value: strconv.AppendInt(nil, int64(from-amount), 10)},
					engine.Change{Key: list[1].Key, Was: list[1].Rev, Value: strconv.AppendInt(nil, int64(to+amount), 10)})
				if err == nil {
					break
				}
				if !errors.Is(err, engine.ErrConflict) {
					r.fail("Commit returned %v", err)
					return
				}
				conflicts.Add(1)
			}
			if n%5 == 0 {
				r.Sleep(r.Tick / 50)
			}
		}
	})
	got := total(r.fetch(s, keys...))
	r.must(got == sum, "%d transfers were made at once between %d accounts, and they have %d together, not %d: a change was lost (seed %d)", clients*times, accounts, got, sum, r.Seed)
}

// storeCaught: whoever follows learns when it knows all that was there.
func storeCaught(r *run, s engine.Store) {
	prefix := r.key("caught/")
	caught := func(f *follow) func() bool {
		return func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.notes) > 0
		}
	}
	before := func(f *follow) int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.notes[0]
	}
	f := r.follow(s, prefix)
	r.must(r.until(caught(f)), "Follow of what is not there did not say Caught: nobody can tell that nothing is there from that it was not read yet")
	r.must(before(f) == 0, "Follow of what is not there delivered %d records", before(f))
	const n = 20
	for i := range n {
		r.write(s, prefix+strconv.Itoa(i), 0, "x", 0)
	}
	r.must(f.sees(prefix+strconv.Itoa(n-1), r.read(s, prefix+strconv.Itoa(n-1)).Rev, false), "Follow did not deliver a Write after it had said Caught")
	f.stop()
	f = r.follow(s, prefix)
	defer f.stop()
	r.must(r.until(caught(f)), "Follow did not say Caught when all that was there had been told")
	r.must(before(f) == n, "Follow said Caught after %d of %d records: all that was there comes before", before(f), n)
	rev := r.write(s, prefix+"later", 0, "x", 0)
	r.must(f.sees(prefix+"later", rev, false), "Follow did not deliver a Write after it had said Caught")
	f.check(prefix)
}
