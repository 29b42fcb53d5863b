package sluicetest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func chaos(t testing.TB, c sluicetest.ChaosConfig) *sluicetest.Chaos {
	t.Helper()
	if c.Open == nil {
		c.Open = func() (engine.Engine, error) { return engine.NewMemory(engine.MemoryConfig{}) }
	}
	x, err := sluicetest.NewChaos(c)
	require.NoError(t, err)
	t.Cleanup(func() { x.Close() })
	return x
}

// TestKitsTolerateASlowEngine runs the kits as a remote engine would: every call takes a
// while, and only the options' slack lets that pass.
func TestKitsTolerateASlowEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.ChaosConfig{Fault: sluicetest.Slow, Delay: 2 * time.Millisecond, Seed: 3})
		o := sluicetest.Options{Rounds: 10}
		sluicetest.Store(t, x.Store, o)
		sluicetest.Quota(t, x.Quota, o)
		sluicetest.Slots(t, x.Slots, o)
	})
}

// TestExactKitRefusesASlowEngine is the other side: with Exact nothing may be late.
func TestExactKitRefusesASlowEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.ChaosConfig{Fault: sluicetest.Slow, Delay: 2 * time.Millisecond, Seed: 3})
		var r record
		sluicetest.Quota(&r, x.Quota, sluicetest.Options{Exact: true})
		r.caught(t, "Quota.Booking", "late")
	})
}

func TestKitsCatchEveryFault(t *testing.T) {
	for _, f := range []sluicetest.Fault{sluicetest.Gone, sluicetest.Refusing, sluicetest.LosingAcks, sluicetest.Dropping, sluicetest.Restarting, sluicetest.Lying, sluicetest.Panicking} {
		t.Run(f.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := chaos(t, sluicetest.ChaosConfig{Fault: f, Seed: 5})
				for _, kit := range []func(r *record){
					func(r *record) { sluicetest.Store(r, x.Store, sluicetest.Options{Exact: true}) },
					func(r *record) { sluicetest.Quota(r, x.Quota, sluicetest.Options{Exact: true}) },
					func(r *record) { sluicetest.Slots(r, x.Slots, sluicetest.Options{Exact: true}) },
				} {
					var r record
					kit(&r)
					if len(r.errors) < 5 {
						t.Errorf("a kit complained %d times about an engine that is %v: %q", len(r.errors), f, r.errors)
					}
				}
			})
		})
	}
}

// TestChaosKeepsItsWord holds that a Chaos applies what it says it applies: no call it
// refused, each it was unsure of at most once.
func TestChaosKeepsItsWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, err := engine.NewMemory(engine.MemoryConfig{})
		require.NoError(t, err)
		x := chaos(t, sluicetest.ChaosConfig{Fault: sluicetest.Restarting, Seed: 11, Open: func() (engine.Engine, error) { return inner, nil }})
		ctx := context.Background()
		outcomes := map[string]int{}
		for i := range 400 {
			key, op := fmt.Sprint("k", i), engine.NewOpID()
			_, _, err := x.Store().Add(ctx, op, key, 1, nil, 0)
			rec, absent := inner.Store().Read(ctx, key)
			there := absent == nil
			switch {
			case err == nil:
				outcomes["applied"]++
				require.True(t, there, "call %d was acknowledged and is not there", i)
			case errors.Is(err, engine.ErrRefused):
				outcomes["refused"]++
				require.False(t, there, "call %d was refused and is there", i)
			case errors.Is(err, engine.ErrUnsure):
				outcomes[fmt.Sprint("unsure, there: ", there)]++
				for { // the same operation again, until somebody answers
					if _, _, err := x.Store().Add(ctx, op, key, 1, nil, 0); err == nil {
						break
					}
				}
				if rec, err = inner.Store().Read(ctx, key); err != nil || string(rec.Value) != "1" {
					t.Fatalf("call %d, repeated with its OpID, counts %q, %v: must be 1", i, rec.Value, err)
				}
			default:
				t.Fatalf("call %d returned %v", i, err)
			}
		}
		for _, o := range []string{"applied", "refused", "unsure, there: true", "unsure, there: false"} {
			if outcomes[o] < 30 {
				t.Errorf("outcome %q came %d times in 400: the test says little about it", o, outcomes[o])
			}
		}
	})
}

func TestChaosRestartForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.ChaosConfig{})
		ctx := context.Background()
		if _, err := x.Store().Write(ctx, "k", 0, []byte("v"), 0); err != nil {
			t.Fatal(err)
		}
		lease, err := x.Slots().Acquire(ctx, engine.Claim{Key: "s", Holder: "h", Limit: 1, TTL: time.Minute})
		require.NoError(t, err)
		waiting := make(chan error, 1)
		go func() {
			_, err := x.Slots().Acquire(ctx, engine.Claim{Key: "s", Holder: "i", Limit: 1, TTL: time.Minute, MaxWait: time.Hour})
			waiting <- err
		}()
		synctest.Wait()
		require.NoError(t, x.Restart())
		assert.ErrorIs(t, <-waiting, engine.ErrUnsure, "a call under way during a restart returned: must be unsure")
		if _, err := x.Store().Read(ctx, "k"); !errors.Is(err, engine.ErrAbsent) {
			t.Errorf("after a restart Read returned %v", err)
		}
		if _, err := x.Slots().Resize(ctx, lease, 1, 1); !errors.Is(err, engine.ErrLost) { // of the same instant as the new engine
			t.Errorf("after a restart Resize returned %v", err)
		}
	})
}

func TestChaosConfig(t *testing.T) {
	open := func() (engine.Engine, error) { return engine.NewMemory(engine.MemoryConfig{}) }
	broken := errors.New("broken")
	for _, c := range []struct {
		conf sluicetest.ChaosConfig
		want string
	}{
		{sluicetest.ChaosConfig{}, "ChaosConfig.Open is nil: must be a function"},
		{sluicetest.ChaosConfig{Open: open, Delay: -1}, "ChaosConfig.Delay is -1ns: must be zero (1s) or positive"},
		{sluicetest.ChaosConfig{Open: open, Fault: 99}, "ChaosConfig.Fault is Fault(99): must be one of the faults"},
		{sluicetest.ChaosConfig{Open: func() (engine.Engine, error) { return nil, broken }}, "broken"},
	} {
		_, err := sluicetest.NewChaos(c.conf)
		assert.ErrorContains(t, err, c.want)
	}
}
