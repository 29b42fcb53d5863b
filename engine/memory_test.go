package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newMemory(t testing.TB, c MemoryConfig) *Memory {
	t.Helper()
	m, err := NewMemory(c)
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

func TestPromise22_MemoryConfig(t *testing.T) {
	for _, c := range []struct {
		conf MemoryConfig
		want string
	}{
		{MemoryConfig{MaxKeys: -1}, "engine: MemoryConfig.MaxKeys is -1: must be zero (the default) or from 1 to 1<<30"},
		{MemoryConfig{MaxValue: 1<<30 + 1}, "engine: MemoryConfig.MaxValue is 1073741825: must be"},
		{MemoryConfig{MaxMeters: -2}, "engine: MemoryConfig.MaxMeters is -2: must be"},
		{MemoryConfig{MaxSlots: -2}, "engine: MemoryConfig.MaxSlots is -2: must be"},
		{MemoryConfig{MaxEvents: -2}, "engine: MemoryConfig.MaxEvents is -2: must be"},
		{MemoryConfig{MaxOps: -2}, "engine: MemoryConfig.MaxOps is -2: must be"},
		{MemoryConfig{MaxFollows: -2}, "engine: MemoryConfig.MaxFollows is -2: must be"},
		{MemoryConfig{MaxBytes: -3}, "engine: MemoryConfig.MaxBytes is -3: must be zero (256 MiB) or positive"},
		{MemoryConfig{OpMemory: -1}, "engine: MemoryConfig.OpMemory is -1ns: must be zero (2 minutes) or positive, at most a year"},
	} {
		_, err := NewMemory(c.conf)
		assert.ErrorContains(t, err, c.want)
	}
}

func TestPromises(t *testing.T) {
	for want, p := range map[string]Promise{
		"none": 0, "Atomic|EngineClock|Pushes": newMemory(t, MemoryConfig{}).Promises(), "FencedForever|Survives": FencedForever | Survives,
	} {
		assert.Equal(t, want, p.String())
	}
	if p := Atomic | Pushes; !p.Has(Atomic) || p.Has(Atomic|Survives) {
		t.Errorf("%v has the wrong promises", p)
	}
}

// TestErrors holds that every refusal is one, and that silence is not.
func TestErrors(t *testing.T) {
	for _, err := range []error{ErrConflict, ErrAbsent, ErrBusy, ErrFull, ErrClosed, ErrLost, ErrPoison, invalid("x", 1, "2"), ended(canceled())} {
		if !errors.Is(err, ErrRefused) || errors.Is(err, ErrUnsure) {
			t.Errorf("%v is no refusal", err)
		}
	}
	if err := unsure(context.Canceled); !errors.Is(err, ErrUnsure) || !errors.Is(err, context.Canceled) || errors.Is(err, ErrRefused) {
		t.Errorf("an error that says nothing became %v", err)
	}
	if unsure(nil) != nil || unsure(ErrBusy) != ErrBusy {
		t.Error("what was said changed")
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestFullStoreHarmsNothing: hitting a bound is an error that harms no record.
func TestFullStoreHarmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{MaxKeys: 2, MaxValue: 8, MaxBytes: 14})
		s, ctx := m.Store(), t.Context()
		a, err := s.Write(ctx, "a", 0, []byte("1234"), time.Second)
		require.NoError(t, err)
		if _, _, err := s.Add(ctx, NewOpID(), "b", 7, nil, 0); err != nil {
			t.Fatal(err)
		}
		_, err = s.Write(ctx, "c", 0, nil, 0)
		assert.ErrorIs(t, err, ErrFull)
		assert.ErrorContains(t, err, "MaxKeys is 2")
		_, _, err = s.Add(ctx, NewOpID(), "c", 1, nil, 0)
		assert.ErrorIs(t, err, ErrFull)
		assert.ErrorContains(t, err, "MaxKeys is 2")
		_, err = s.Write(ctx, "a", a, []byte("123456789"), 0)
		assert.ErrorIs(t, err, ErrRefused)
		assert.ErrorContains(t, err, "length of value is 9: must be at most 8")
		a, err = s.Write(ctx, "a", a, []byte("12345678"), time.Second)
		require.NoError(t, err)
		_, _, err = s.Add(ctx, NewOpID(), "b", 1_000_000, nil, 0)
		assert.ErrorIs(t, err, ErrFull)
		assert.ErrorContains(t, err, "MaxBytes is 14")
		if rec, err := s.Read(ctx, "b"); err != nil || string(rec.Value) != "7" {
			t.Errorf("a refused Add left %q, %v", rec.Value, err)
		}
		time.Sleep(time.Second) // "a" ends and makes room
		if _, err := s.Write(ctx, "c", 0, []byte("12345678"), 0); err != nil {
			t.Errorf("expiry made no room: %v", err)
		}
		_ = a
	})
}

// TestExpiredMemoryIsReclaimedWithoutAccess looks inside: nothing touches the store.
func TestExpiredMemoryIsReclaimedWithoutAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{})
		for i := range 1000 {
			_, err := m.Store().Write(t.Context(), fmt.Sprint(i), 0, []byte("v"), time.Duration(1+i)*time.Millisecond)
			require.NoError(t, err)
		}
		for i := range 10 {
			if n, want := m.store.size(), 1000-100*i; n != want {
				t.Errorf("after %d ms %d records are left: want %d", 100*i, n, want)
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		assert.Zero(t, m.store.bytes, "bytes are counted for no record")
	})
}

func (s *memoryStore) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

func TestOpMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{MaxOps: 3, OpMemory: time.Minute})
		s, ctx := m.Store(), t.Context()
		add := func(op OpID, want int64) {
			t.Helper()
			total, _, err := s.Add(ctx, op, "n", 1, nil, 0)
			require.NoError(t, err)
			assert.Equal(t, want, total)
		}
		var ops [5]OpID
		for i := range ops {
			ops[i] = NewOpID()
			add(ops[i], int64(i+1))
		}
		add(ops[4], 5)
		add(ops[2], 3)
		add(ops[1], 6) // forgotten: it counts again
		time.Sleep(time.Minute - 1)
		add(ops[4], 5)
		time.Sleep(time.Nanosecond)
		add(ops[4], 7) // a minute is over
		assert.Len(t, m.store.ops.found, 1, "operations are remembered")
		_, _, err := s.Add(ctx, ops[4], "other", 1, nil, 0)
		assert.ErrorIs(t, err, ErrRefused)
		assert.ErrorContains(t, err, "was another operation")
		d := Draw{Op: NewOpID(), Meters: []Meter{{Key: "m", N: 1, Per: time.Second}}}
		if _, err := m.Quota().Take(ctx, d); err != nil {
			t.Fatal(err)
		}
		err = m.Quota().Settle(ctx, d.Op, []Correction{{Meter: d.Meters[0], Delta: 1}})
		assert.ErrorIs(t, err, ErrRefused)
		assert.ErrorContains(t, err, "was another operation")
		d.Meters = []Meter{{Key: "other", N: 1, Per: time.Second}}
		_, err = m.Quota().Take(ctx, d)
		assert.ErrorIs(t, err, ErrRefused)
		assert.ErrorContains(t, err, "was another operation")
	})
}

func TestMaxMeters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{MaxMeters: 3})
		ctx := t.Context()
		take := func(keys ...string) error {
			var d Draw
			for _, k := range keys {
				d.Meters = append(d.Meters, Meter{Key: k, N: 1, Per: time.Second, Burst: 2})
			}
			_, err := m.Quota().Take(ctx, d)
			return err
		}
		require.NoError(t, errors.Join(take("a"), take("a", "b", "c")))
		err := take("d")
		assert.ErrorIs(t, err, ErrFull)
		assert.ErrorContains(t, err, "MaxMeters is 3")
		err = take("a", "d")
		assert.ErrorIs(t, err, ErrFull)
		assert.ErrorContains(t, err, "MaxMeters is 3")
		assert.NoError(t, take("a"), "a meter that is there")
		time.Sleep(time.Second) // b and c are full again, a is not
		assert.NoError(t, errors.Join(take("a", "d"), take("e")), "full meters made no room")
		err = take("b")
		assert.ErrorIs(t, err, ErrFull)
		assert.ErrorContains(t, err, "MaxMeters is 3")
	})
}

func TestReconfiguredMeterCreatesNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{})
		take := func(n, burst, most int64) int64 {
			g, err := m.Quota().Take(t.Context(), Draw{Meters: []Meter{{Key: "m", N: n, Per: time.Second, Burst: burst}}, Min: 1, Max: most})
			require.NoError(t, err)
			return g.Units
		}
		require.Equal(t, int64(7), take(10, 10, 7), "taken of 10")
		assert.Equal(t, int64(3), take(100, 50, 50), "a larger burst made 3 tokens into")
		time.Sleep(time.Hour)
		assert.Equal(t, int64(50), take(100, 50, 100), "want the new burst")
		assert.Zero(t, take(1, 5, 5), "an empty meter with another rate holds")
	})
}

func TestMaxSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{MaxSlots: 2})
		claim := func(key, holder string) Claim {
			return Claim{Key: key, Holder: holder, Limit: 1, TTL: time.Second}
		}
		if _, err := m.Slots().Acquire(t.Context(), claim("a", "1")); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Slots().Acquire(t.Context(), claim("b", "1")); err != nil {
			t.Fatal(err)
		}
		_, err := m.Slots().Acquire(t.Context(), claim("c", "1"))
		assert.ErrorIs(t, err, ErrFull)
		assert.ErrorContains(t, err, "MaxSlots is 2")
		time.Sleep(time.Second)
		if _, err := m.Slots().Acquire(t.Context(), claim("c", "1")); err != nil {
			t.Errorf("leases that ended made no room: %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(m.slots.keys); n != 0 || m.slots.count != 0 {
			t.Errorf("%d keys and a count of %d are left when nobody has anything", n, m.slots.count)
		}
	})
}

func TestHolderWaitsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{})
		c := Claim{Key: "k", Holder: "a", Limit: 1, TTL: time.Minute}
		if _, err := m.Slots().Acquire(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		wide := c
		wide.Limit, wide.Units = 2, 2
		_, err := m.Slots().Acquire(t.Context(), wide)
		assert.ErrorIs(t, err, ErrRefused)
		assert.ErrorContains(t, err, `"a" holds 1 units of "k" already`)
		c.Holder, c.MaxWait = "b", time.Second
		go func() { _, _ = m.Slots().Acquire(context.Background(), c) }()
		synctest.Wait()
		urgent := c
		urgent.Priority = 1
		_, err = m.Slots().Acquire(t.Context(), urgent)
		assert.ErrorIs(t, err, ErrRefused)
		assert.ErrorContains(t, err, `"b" waits for "k" already, with another claim`)
		time.Sleep(time.Second)
	})
}

func TestPublishedKeepsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{MaxEvents: 3, MaxValue: 4})
		for i := range 5 {
			n, err := m.Events().Publish(t.Context(), []Event{{ID: fmt.Sprint(i), Seq: uint32(i)}})
			require.Equal(t, 1, n)
			require.NoError(t, err)
		}
		events, dropped := m.Published()
		require.Len(t, events, 3)
		require.Equal(t, "2", events[0].ID)
		assert.Equal(t, "4", events[2].ID)
		assert.Equal(t, uint64(2), dropped)
		n, err := m.Events().Publish(t.Context(), []Event{{ID: "x"}, {ID: "y", Payload: []byte("12345")}, {ID: "z"}})
		assert.Equal(t, 1, n, "acknowledged %d before an event that is too large", n)
		assert.ErrorIs(t, err, ErrPoison)
		assert.ErrorContains(t, err, "length of Event.Payload is 5: must be at most 4")
	})
}

// TestFollowerThatFallsBehindIsTold: what is kept for one is bounded, loss is explicit.
func TestFollowerThatFallsBehindIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{MaxKeys: 2, MaxFollows: 1})
		s, ctx := m.Store(), t.Context()
		_, err := s.Write(ctx, "first", 0, nil, 0)
		require.NoError(t, err)
		n := 0
		for rec, err := range s.Follow(ctx, "") {
			if n++; n == 2 {
				assert.ErrorIs(t, err, ErrLost)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, "first", rec.Key)
			for _, err := range s.Follow(ctx, "") {
				assert.ErrorIs(t, err, ErrFull)
				assert.ErrorContains(t, err, "MaxFollows is 1")
			}
			for i := range 20 { // while it is not looking
				key := fmt.Sprint(i)
				rev, err := s.Write(ctx, key, 0, nil, 0)
				require.NoError(t, err)
				require.NoError(t, s.Erase(ctx, key, rev))
			}
		}
		assert.Equal(t, 2, n, "elements: want the record and the loss")
	})
}

// TestCloseEndsEverything: nothing waits, nothing runs, nothing is accepted after Close.
// The bubble would panic over a goroutine that is left.
func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMemory(MemoryConfig{})
		require.NoError(t, err)
		ctx := t.Context()
		claim := Claim{Key: "k", Holder: "a", Limit: 1, TTL: time.Hour}
		if _, err := m.Slots().Acquire(ctx, claim); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Store().Write(ctx, "k", 0, nil, time.Hour); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			claim := claim
			claim.Holder, claim.MaxWait = "b", 24*time.Hour
			_, err := m.Slots().Acquire(ctx, claim)
			assert.ErrorIs(t, err, ErrClosed, "a claim that waits")
		})
		wg.Go(func() {
			var last error
			for _, err := range m.Store().Follow(ctx, "") {
				last = err
			}
			assert.ErrorIs(t, last, ErrClosed, "a follower")
		})
		synctest.Wait()
		start := time.Now()
		assert.NoError(t, errors.Join(m.Close(), m.Close()))
		wg.Wait()
		assert.Zero(t, time.Since(start), "Close took")
		meter := Meter{Key: "m", N: 1, Per: time.Second}
		_, errRead := m.Store().Read(ctx, "k")
		_, errWrite := m.Store().Write(ctx, "k", 0, nil, 0)
		_, _, errAdd := m.Store().Add(ctx, NewOpID(), "k", 1, nil, 0)
		_, errTake := m.Quota().Take(ctx, Draw{Meters: []Meter{meter}})
		_, errAcquire := m.Slots().Acquire(ctx, claim)
		_, errRenew := m.Slots().Renew(ctx, 1, Lease{})
		_, errResize := m.Slots().Resize(ctx, Lease{}, 1, 1)
		_, errFetch := m.Store().Fetch(ctx, "k")
		_, errCommit := m.Store().Commit(ctx, NewOpID(), Change{Key: "k"})
		_, errPublish := m.Events().Publish(ctx, []Event{{ID: "a"}})
		for _, err := range []error{errRead, errWrite, errAdd, errTake, errAcquire, errRenew, errResize, errFetch, errCommit, errPublish,
			m.Store().Erase(ctx, "k", 1), m.Quota().Settle(ctx, OpID{}, []Correction{{Meter: meter, Delta: 1}}), m.Slots().Release(ctx, Lease{})} {
			assert.ErrorIs(t, err, ErrClosed, "a call after Close")
		}
		time.Sleep(2 * time.Hour)
	})
}

// TestPromise07_LeaseGivenToWhoLeftGoesOn: a lease and the end of the waiter's context meet.
// Either the waiter has it, or the slot is free.
func TestPromise07_LeaseGivenToWhoLeftGoesOn(t *testing.T) {
	left := 0
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, MemoryConfig{}).Slots()
		for i := range 300 {
			claim := func(holder string) Claim {
				return Claim{Key: fmt.Sprint(i), Holder: holder, Limit: 1, TTL: time.Hour, MaxWait: time.Hour}
			}
			first, err := s.Acquire(t.Context(), claim("first"))
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			var got error
			var wg sync.WaitGroup
			wg.Go(func() { _, got = s.Acquire(ctx, claim("second")) })
			synctest.Wait()
			require.NoError(t, s.Release(t.Context(), first))
			cancel()
			wg.Wait()
			third := claim("third")
			third.MaxWait = 0
			_, err = s.Acquire(t.Context(), third)
			switch {
			case got == nil && !errors.Is(err, ErrBusy):
				t.Fatalf("round %d: the waiter has the slot, and another got %v", i, err)
			case got != nil && err != nil:
				t.Fatalf("round %d: the waiter left with %v, and another got %v: the slot is lost", i, got, err)
			case got != nil:
				left++
			}
		}
	})
	assert.NotZero(t, left, "no waiter ever left with a lease on its way: the test says nothing")
}
