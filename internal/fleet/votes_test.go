package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// callee is a tool of several processes: what has reached it, and how.
type callee struct {
	mu      sync.Mutex
	begin   time.Time
	dead    bool
	takes   time.Duration
	reached []time.Duration // when each call began
	by      []int           // of which process
	now     int
	most    int // at once
	mostOf  map[int]int
	at      map[int]int
}

func newCallee() *callee {
	return &callee{begin: time.Now(), dead: true, at: map[int]int{}, mostOf: map[int]int{}}
}

var errDead = errors.New("dead")

func (x *callee) call(who int) error {
	x.mu.Lock()
	x.reached = append(x.reached, time.Since(x.begin))
	x.by = append(x.by, who)
	x.now++
	x.at[who]++
	x.most, x.mostOf[who] = max(x.most, x.now), max(x.mostOf[who], x.at[who])
	takes := x.takes
	x.mu.Unlock()
	if takes > 0 {
		time.Sleep(takes)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now--
	x.at[who]--
	if x.dead {
		return errDead
	}
	return nil
}

func (x *callee) set(dead bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dead = dead
}

// since is how many calls have begun from that instant on.
func (x *callee) since(d time.Duration) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, at := range x.reached {
		if at >= d {
			n++
		}
	}
	return n
}

// judge is a process with a breaker that it has with others.
type judge struct {
	fleet   *sluice.Fleet
	breaker *sluice.CircuitBreaker
	exec    *sluice.Executor
	tool    func(context.Context, struct{}) (int, error)
	heard   *sluice.Recorder
}

func newJudge(e engine.Engine, x *callee, who int, c sluice.CircuitBreakerConfig) *judge {
	p := &judge{heard: new(sluice.Recorder)}
	if e != nil {
		p.fleet = sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: e, Origin: fmt.Sprintf("process%d", who)}))
		c.Fleet = p.fleet
	}
	p.breaker = sluice.Must(sluice.NewCircuitBreaker(c))
	p.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{p.breaker}, Sink: p.heard}))
	p.tool = sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "work"}, func(context.Context, struct{}) (int, error) { return 0, x.call(who) }))
	return p
}

func (p *judge) close(t *testing.T) {
	require.NoError(t, p.exec.Close(context.Background()))
	if p.fleet != nil {
		require.NoError(t, p.fleet.Close(context.Background()))
	}
}

// paced has p call every so often until ctx ends, one call after the other.
func (p *judge) paced(ctx context.Context, every time.Duration) {
	for ctx.Err() == nil {
		_, _ = p.tool(ctx, struct{}{})
		select {
		case <-time.After(every):
		case <-ctx.Done():
		}
	}
}

// Two processes with 20 calls a second and six with 2 call a tool that is dead for a minute. Alone each of them has its
// threshold of failures and its probes. Together they have those of the first two, and one probe in each round.
func TestFleet_BreakersVote(t *testing.T) {
	for _, quorum := range []int{0, 1, 2} { // 0: alone
		t.Run(fmt.Sprint(quorum), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const processes, threshold = 8, 5
				e := memory(t)
				x := newCallee()
				var list []*judge
				for i := range processes {
					var of engine.Engine = e
					if quorum == 0 {
						of = nil
					}
					list = append(list, newJudge(of, x, i, sluice.CircuitBreakerConfig{Failures: threshold, Quorum: quorum, Cooldown: time.Second}))
				}
				ctx, stop := context.WithTimeout(context.Background(), time.Minute)
				defer stop()
				var group sync.WaitGroup
				for i, p := range list {
					group.Go(func() {
						every := 50 * time.Millisecond
						time.Sleep(time.Duration(i) * time.Millisecond)
						if i >= 2 {
							every = 500 * time.Millisecond
							time.Sleep(every)
						}
						p.paced(ctx, every)
					})
				}
				group.Wait()
				t.Logf("quorum %d: %d calls, by %v at %v", quorum, len(x.reached), x.by, x.reached)
				const rounds = 5 // of open times of 1, 2, 4, 8, 16 and 32 seconds
				switch quorum {
				case 0:
					require.Len(t, x.reached, processes*(threshold+rounds))
				default:
					require.LessOrEqual(t, len(x.reached), quorum*threshold+rounds+(2-quorum)*(threshold-1))
					require.Equal(t, rounds, x.since(time.Second), "one probe in each round")
				}
				require.Equal(t, 1, x.most)
				for _, p := range list {
					p.close(t)
				}
				_ = e.Close()
			})
		})
	}
}
