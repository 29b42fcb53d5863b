package resilience

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// What becomes of a key, by what is known of the execution.
func TestOnceFacts_Verdict(t *testing.T) {
	ran := func(o sluice.Outcome) sluice.Attempt { return sluice.Attempt{N: 1, Ran: true, Outcome: o} }
	failure, success := ran(sluice.OutcomeFailure), ran(sluice.OutcomeSuccess)
	goesOn := sluice.Attempt{N: 1, Ran: true, Running: true, Outcome: sluice.OutcomeFailure}
	for _, tt := range []struct {
		name string
		f    onceFacts
		want onceVerdict
	}{
		{"a result", onceFacts{normal: true, attempt: success}, onceKeep},
		{"a result of a layer further in", onceFacts{normal: true}, onceKeep},
		{"a result, and other code goes on", onceFacts{normal: true, attempt: success, entered: true, inside: 1}, onceKeep},
		{"another's, nobody looks", onceFacts{normal: true, instead: true}, onceUnsure},
		{"another's, nothing has run", onceFacts{normal: true, instead: true, listed: true}, onceIdle},
		{"another's, code goes on", onceFacts{normal: true, instead: true, listed: true, entered: true, inside: 1}, onceUnsure},
		{"another's, code has failed", onceFacts{normal: true, instead: true, listed: true, entered: true}, onceOver},
		{"another's, code has succeeded", onceFacts{normal: true, instead: true, listed: true, entered: true, value: true}, onceRescue},
		{"a failing result", onceFacts{normal: true, attempt: failure}, onceOver},
		{"an error", onceFacts{normal: true, failed: true, attempt: failure}, onceOver},
		{"an error after a result, of a layer further in", onceFacts{normal: true, failed: true, entered: true, value: true, listed: true}, onceOver},
		{"a timeout, code goes on", onceFacts{normal: true, failed: true, timedOut: true, attempt: goesOn}, onceUnsure},
		{"a timeout, code goes on, seen", onceFacts{normal: true, failed: true, timedOut: true, attempt: goesOn, entered: true, inside: 1}, onceUnsure},
		{"a timeout, code ended since", onceFacts{normal: true, failed: true, timedOut: true, attempt: failure}, onceUnsure},
		{"a timeout, code ended since, with an error", onceFacts{normal: true, failed: true, timedOut: true, attempt: failure, entered: true}, onceOver},
		{"a timeout, code ended since, with a result", onceFacts{normal: true, failed: true, timedOut: true, attempt: failure, entered: true, value: true}, onceRescue},
		{"a timeout, code just ended, with a result", onceFacts{normal: true, failed: true, timedOut: true, attempt: goesOn, entered: true, value: true}, onceRescue},
		{"a timeout, cooperative", onceFacts{normal: true, failed: true, timedOut: true, attempt: failure, cooperative: true}, onceOver},
		{"its caller left a layer that had a result", onceFacts{normal: true, failed: true, left: true, entered: true, value: true}, onceRescue},
		{"a layer left code behind", onceFacts{normal: true, failed: true, entered: true, inside: 1}, onceUnsure},
		{"a refusal", onceFacts{normal: true, failed: true, rejected: true, attempt: sluice.Attempt{N: 1}}, onceIdle},
		{"a refusal without an attempt", onceFacts{normal: true, failed: true, rejected: true}, onceIdle},
		{"a denial, unseen", onceFacts{normal: true, failed: true}, onceUnsure},
		{"a denial", onceFacts{normal: true, failed: true, listed: true}, onceIdle},
		{"an exit", onceFacts{}, onceOver},
		{"an exit, no code seen", onceFacts{listed: true}, onceIdle},
		{"an exit, code seen", onceFacts{listed: true, entered: true}, onceOver},
		{"an exit, code goes on", onceFacts{listed: true, entered: true, inside: 1}, onceUnsure},
	} {
		require.Equal(t, tt.want, tt.f.verdict(), tt.name)
	}
}

// run is an execution on a store of its own, which has not begun.
func onceRunFor(t *testing.T, c OnceConfig) *onceRun {
	t.Helper()
	c.Key = func(sluice.Call) (string, bool) { return "k", true }
	o, err := NewOnce(c)
	require.NoError(t, err)
	state, err := sluice.NewSharedState(sluice.SharedStateConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, state.Close()) })
	id := onceID{OnceKey{"t", "x", "k"}, state}
	return &onceRun{once: o, id: id, record: recordOf(id), args: "a"}
}

// An execution elsewhere that ends just before a call begins to watch it is found by looking again.
func TestOnceRecord_EndsBeforeTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := onceRunFor(t, OnceConfig{})
		shared, err := r.begin(t.Context())
		require.NoError(t, err)
		require.Nil(t, shared)
		seen, taken, err := r.record.add(onceEntry{}, time.Hour)
		require.NoError(t, err)
		require.True(t, taken)
		r.end(onceFacts{normal: true, failed: true, attempt: sluice.Attempt{N: 1}}, sluice.Result{}, errors.New("refused"))
		began := time.Now()
		require.NoError(t, r.record.await(t.Context(), &seen))
		require.Equal(t, onceLook, time.Since(began))
		seen.Lease = time.Now().Add(time.Millisecond)
		require.NoError(t, r.record.await(t.Context(), &seen))
		require.Equal(t, onceLook+time.Millisecond, time.Since(began), "nor longer than the lease")

		other := onceRunFor(t, OnceConfig{}) // with another entry there it does not wait
		_, err = other.begin(t.Context())
		require.NoError(t, err)
		began = time.Now()
		require.NoError(t, other.record.await(t.Context(), &seen))
		require.Zero(t, time.Since(began))
		other.free()
	})
}

// A renewal of the lease that meets the end changes nothing that the end has said.
func TestOnceRun_RenewalMeetsTheEnd(t *testing.T) {
	for name, end := range map[string]struct {
		facts onceFacts
		want  string
	}{
		"a result": {onceFacts{normal: true, attempt: sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeSuccess}}, onceDone},
		"doubt":    {onceFacts{normal: true, failed: true, attempt: sluice.Attempt{N: 1, Ran: true, Running: true}}, onceDoubt},
		"free":     {onceFacts{normal: true, failed: true, attempt: sluice.Attempt{N: 1}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for range 300 {
					r := onceRunFor(t, OnceConfig{Lease: 30 * ms})
					_, err := r.begin(t.Context())
					require.NoError(t, err)
					time.Sleep(10 * ms) // the instant of the renewal
					r.end(end.facts, sluice.Result{Value: 1}, nil)
					time.Sleep(time.Second)
					e, _, err := r.record.key.Get(r.record.ctx)
					require.Equal(t, end.want, e.State)
					require.Equal(t, end.want == "", errors.Is(err, sluice.ErrAbsent))
				}
			})
		})
	}
}

// A call that leaves as it is told to lead hands that on: whoever waits behind it leads, and nobody waits for ever.
func TestOnce_LeavesAsItIsToLead(t *testing.T) {
	o := onceRunFor(t, OnceConfig{}).once
	for i := range 2000 {
		id := onceID{OnceKey: OnceKey{Key: "k"}}
		f, w, err := o.join(id, "a")
		require.NoError(t, err)
		require.Nil(t, w)
		ctx, cancel := context.WithCancel(t.Context())
		_, first, err := o.join(id, "a")
		require.NoError(t, err)
		_, second, err := o.join(id, "a")
		require.NoError(t, err)
		var wg sync.WaitGroup
		if i%2 == 0 {
			wg.Go(cancel)
			wg.Go(func() { o.release(f, nil) })
		} else {
			wg.Go(func() { o.release(f, nil) })
			wg.Go(cancel)
		}
		x, cause := o.wait(ctx, f, first)
		require.Nil(t, x)
		if cause == nil {
			o.release(f, nil)
		}
		x, cause = o.wait(t.Context(), f, second)
		require.Nil(t, x)
		require.NoError(t, cause)
		wg.Wait()
		o.release(f, nil)
		require.Empty(t, o.flights)
	}
}

// Code that is refused at the last moment has not run, and the rule for errors is not asked.
func TestOnceRun_CodeThatDoesNotBegin(t *testing.T) {
	for _, late := range []bool{false, true} {
		r := onceRunFor(t, OnceConfig{Errors: func(error) bool { return true }})
		r.once.Inner()
		_, err := r.begin(t.Context())
		require.NoError(t, err)
		c := sluice.Call{ID: "1", Tool: "x"}
		refusal := &sluice.Error{Tool: "x", CallID: "1", Reason: sluice.ErrRejected}
		left := onceFacts{normal: true, failed: true, timedOut: true, attempt: sluice.Attempt{N: 1}}
		r.enter()
		if late {
			require.Equal(t, "once_in_doubt", sluice.CodeOf(r.end(left, sluice.Result{}, context.DeadlineExceeded).err))
			r.leave(context.Background(), c, sluice.Result{}, refusal)
		} else {
			r.leave(context.Background(), c, sluice.Result{}, refusal)
			require.Nil(t, r.end(left, sluice.Result{}, context.DeadlineExceeded))
		}
		_, _, err = r.record.key.Get(r.record.ctx)
		require.ErrorIs(t, err, sluice.ErrAbsent)
	}
}

// An error's text is cut, and stays text.
func TestCutText(t *testing.T) {
	require.Equal(t, "short", cutText("short"))
	require.Equal(t, strings.Repeat("x", maxErrorText), cutText(strings.Repeat("x", maxErrorText+1)))
	require.Equal(t, "\uFFFDa", cutText("\xffa"))
}

// A lease is renewed in a third of what the entry says, though the configuration says a day by now: also the first time,
// and after a renewal that could not be.
func TestOnceRun_RenewalAfterAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := onceRunFor(t, OnceConfig{Lease: 30 * ms, DoubtTTL: 1})
		began, day := time.Now(), 24*time.Hour
		r.by = "x"
		first := onceEntry{V: onceVersion, State: onceRunning, By: r.by, Lease: wall(began.Add(30 * ms))}
		_, taken, err := r.record.add(first, 30*ms+1)
		require.NoError(t, err)
		require.False(t, taken)
		require.NoError(t, sluice.Reconfigure("a test", r.once.Change(OnceConfig{Lease: day, DoubtTTL: 1}))) // just then
		r.keep(30 * ms)

		time.Sleep(9 * ms)
		_, err = sluice.Key[int](r.id.name()).Set(r.record.ctx, 7) // which nobody can renew
		require.NoError(t, err)
		time.Sleep(2 * ms)
		_, err = r.record.key.Set(r.record.ctx, first, sluice.TTL(19*ms+1))
		require.NoError(t, err)
		lease := func() time.Duration {
			e, there, err := r.record.look()
			require.NoError(t, err)
			require.True(t, there)
			return e.Lease.Sub(began)
		}
		require.Equal(t, 30*ms, lease())
		time.Sleep(9*ms + 1)
		synctest.Wait()
		require.Equal(t, day+20*ms, lease())
		time.Sleep(day / 3)
		synctest.Wait()
		require.Equal(t, day+day/3+20*ms, lease())
		require.NoError(t, sluice.Reconfigure("a test", r.once.Change(OnceConfig{Lease: 30 * ms, DoubtTTL: 1})))
		time.Sleep(day/3 + time.Second) // the short ones follow at once
		synctest.Wait()
		require.InDelta(t, time.Since(began)+30*ms, lease(), float64(10*ms))
		r.end(onceFacts{normal: true, failed: true, attempt: sluice.Attempt{N: 1}}, sluice.Result{}, errors.New("refused"))
		_, there, err := r.record.look()
		require.NoError(t, err)
		require.False(t, there)
	})
}
