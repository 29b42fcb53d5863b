package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// TestRun_CancelledInTheMiddle cancels 20,000 turns at any instant, on real goroutines: none has a hole.
func TestRun_CancelledInTheMiddle(t *testing.T) {
	cause := errors.New("the user left")
	for form, config := range around {
		t.Run(form, func(t *testing.T) {
			d := newDesk(t, config(limited(2, sluice.PrioritySchedulerConfig{MaxQueue: 2})...))
			register(d, "counts", sluice.Policy{}, func(ctx context.Context, in workIn) (int, error) { return in.Millis, nil })
			r := []*agent.Runner{d.runner(agent.Config{}), d.runner(agent.Config{Parallel: 3}), d.runner(agent.Config{FailFast: true})}
			calls := make([]sluice.Request, 8)
			for i := range calls {
				calls[i] = request("", "counts", i)
			}
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 1))
			for round := range 20_000 / len(around) {
				ctx, cancel := context.WithCancelCause(t.Context())
				spins, done := rnd.IntN(20_000), make(chan struct{})
				go func() {
					defer close(done)
					for n := 0; n < spins; n++ { // some microseconds
						if n%1000 == 0 && ctx.Err() != nil {
							return
						}
					}
					cancel(cause)
				}()
				var replies []agent.Reply
				if x := r[round%3]; round%2 == 0 {
					replies = x.Run(ctx, calls)
				} else {
					replies, _ = collected(t, x.Each(ctx, calls), len(calls))
				}
				for i, x := range replies {
					if x.Request.Tool != "counts" {
						t.Fatalf("round %d: no reply at %d", round, i)
					}
					if x.Err == nil && x.Result.Value != i || x.Err != nil && !errors.Is(x.Err, cause) && !errors.Is(x.Err, agent.ErrSiblingFailed) {
						t.Fatalf("round %d: call %d ended with %v, %v", round, i, x.Result.Value, x.Err)
					}
				}
				cancel(nil)
				<-done
			}
			d.close()
		})
	}
}

// TestStorm_OfTurns runs several turns at once, of all kinds of calls, some cancelled and some left early.
func TestStorm_OfTurns(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	tools := []string{"work", "other", "urgent", "idle", "fails", "panics", "exits", "late", "streams", "nobody's"}
	for round := range 150 {
		for form, config := range around {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, config(limited(1+rnd.IntN(4), sluice.PrioritySchedulerConfig{MaxQueue: 1 + rnd.IntN(6), Shed: rnd.IntN(3) == 0})...))
				turns := 1 + rnd.IntN(3)
				over := make(chan struct{}, turns)
				for turn := range turns {
					c := agent.Config{Parallel: rnd.IntN(4), FailFast: rnd.IntN(4) == 0}
					if rnd.IntN(4) == 0 {
						c.Deadline = time.Duration(1+rnd.IntN(200)) * time.Millisecond
					}
					calls := make([]sluice.Request, rnd.IntN(30))
					for i := range calls {
						calls[i] = request(fmt.Sprint(turn, "-", i), tools[rnd.IntN(len(tools))], rnd.IntN(30))
						if rnd.IntN(20) == 0 {
							calls[i].Args = json.RawMessage(`{"millis":1,"millis":2}`)
						}
					}
					ctx, cancel := context.WithCancel(d.ctx)
					if rnd.IntN(3) == 0 {
						time.AfterFunc(time.Duration(rnd.IntN(100))*time.Millisecond, cancel)
					}
					each, most, pause := rnd.IntN(2) == 0, rnd.IntN(60), time.Duration(rnd.IntN(10))*time.Millisecond
					x := d.runner(c)
					go func() {
						defer func() { over <- struct{}{} }()
						defer cancel()
						if !each {
							for i, r := range x.Run(ctx, calls) {
								if r.Request.ID != calls[i].ID {
									t.Errorf("%s, round %d: no reply at %d", form, round, i)
								}
							}
							return
						}
						n := 0
						for i, r := range x.Each(ctx, calls) {
							if r.Request.ID != calls[i].ID {
								t.Errorf("%s, round %d: another's reply at %d", form, round, i)
							}
							if time.Sleep(pause); n == most {
								return
							}
							n++
						}
						if n != len(calls) {
							t.Errorf("%s, round %d: %d replies of %d", form, round, n, len(calls))
						}
					}()
				}
				for range turns {
					for ended := false; !ended; {
						select {
						case <-over:
							ended = true
						case done := <-d.streamed:
							done()
						}
					}
				}
				for len(d.streamed) > 0 {
					(<-d.streamed)()
				}
				closed := make(chan struct{})
				go func() { d.close(); close(closed) }()
				for ended := false; !ended; {
					select {
					case <-closed:
						ended = true
					case done := <-d.streamed: // of a call that was left early
						done()
					}
				}
				require.Zero(t, d.running.Load())
			})
		}
	}
}
