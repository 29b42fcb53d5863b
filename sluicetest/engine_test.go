package sluicetest_test

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
)

// link is an engine that is d away: what is asked takes that long, and so does each answer.
// A caller whose context ends does not wait for the answer.
type link struct {
	engine.Engine
	d time.Duration
}

func (l link) Quota() engine.Quota { return linkQuota{l.Engine.Quota(), l.d} }
func (l link) Slots() engine.Slots { return linkSlots{l.Engine.Slots(), l.d} }

type answer[V any] struct {
	v   V
	err error
}

func over[V any](ctx context.Context, d time.Duration, call func() (V, error)) (V, error) {
	got := make(chan answer[V], 1)
	go func() {
		time.Sleep(d)
		v, err := call()
		time.Sleep(d)
		got <- answer[V]{v, err}
	}()
	select {
	case a := <-got:
		return a.v, a.err
	case <-ctx.Done():
		var none V
		return none, engine.ErrUnsure
	}
}

type linkQuota struct {
	engine.Quota
	d time.Duration
}

func (q linkQuota) Take(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	return over(ctx, q.d, func() (engine.Grant, error) { return q.Quota.Take(context.WithoutCancel(ctx), d) })
}

// linkSlots counts a lease from before it was asked for, as a client has to.
type linkSlots struct {
	engine.Slots
	d time.Duration
}

func (s linkSlots) Acquire(ctx context.Context, c engine.Claim) (engine.Lease, error) {
	until := time.Now().Add(c.TTL)
	l, err := over(ctx, s.d, func() (engine.Lease, error) { return s.Slots.Acquire(ctx, c) })
	l.Until = until
	return l, err
}

func (s linkSlots) Renew(ctx context.Context, l engine.Lease, ttl time.Duration) (engine.Lease, error) {
	until := time.Now().Add(ttl)
	l, err := over(ctx, s.d, func() (engine.Lease, error) { return s.Slots.Renew(ctx, l, ttl) })
	l.Until = until
	return l, err
}

// setup is a Memory, near and far, that can lose what it knows.
func setup(t testing.TB) sluicetest.Setup {
	x := chaos(t, sluicetest.ChaosConfig{})
	return sluicetest.Setup{
		Open: func() engine.Engine { return x },
		Far:  func(d time.Duration) engine.Engine { return link{x, d} },
		Lose: func() { _ = x.Restart() },
	}
}

func TestMemoryEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sluicetest.Engine(t, setup(t), sluicetest.Options{Exact: true})
	})
}

// engineMutant is an engine with one thing replaced.
type engineMutant struct {
	engine.Engine
	limits func() engine.Limits
	epoch  func(ctx context.Context) (uint64, time.Duration, error)
	quota  func() engine.Quota
	slots  func() engine.Slots
}

func (m *engineMutant) Limits() engine.Limits {
	if m.limits != nil {
		return m.limits()
	}
	return m.Engine.Limits()
}

func (m *engineMutant) Epoch(ctx context.Context) (uint64, time.Duration, error) {
	if m.epoch != nil {
		return m.epoch(ctx)
	}
	return m.Engine.Epoch(ctx)
}

func (m *engineMutant) Quota() engine.Quota {
	if m.quota != nil {
		return m.quota()
	}
	return m.Engine.Quota()
}

func (m *engineMutant) Slots() engine.Slots {
	if m.slots != nil {
		return m.slots()
	}
	return m.Engine.Slots()
}

func TestEngineKitCatchesMutants(t *testing.T) {
	warm := func(m *engineMutant) {
		m.quota = func() engine.Quota {
			q := m.Engine.Quota()
			return &quotaMutant{Quota: q, take: func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				if len(d.Meters) == 1 {
					d.Meters = []engine.Meter{d.Meters[0]}
					d.Meters[0].Cold = false
				}
				return q.Take(ctx, d)
			}}
		}
	}
	for _, c := range []struct {
		name, rule, why string
		near, far       func(m *engineMutant)
	}{
		{"promises larger values than it takes", "Engine.Limits", "Write of MaxValue bytes", func(m *engineMutant) {
			m.limits = func() engine.Limits { l := m.Engine.Limits(); l.MaxValue++; return l }
		}, nil},
		{"forgets names early", "Engine.Limits", "an OpID is remembered for OpMemory", func(m *engineMutant) {
			m.limits = func() engine.Limits { l := m.Engine.Limits(); l.OpMemory *= 2; return l }
		}, nil},
		{"says nothing of its limits", "Engine.Limits", "none of them is zero", func(m *engineMutant) {
			m.limits = func() engine.Limits { return engine.Limits{} }
		}, nil},
		{"has a new epoch with every question", "Engine.Epoch", "nothing was lost", func(m *engineMutant) {
			n := uint64(0)
			m.epoch = func(ctx context.Context) (uint64, time.Duration, error) {
				_, age, err := m.Engine.Epoch(ctx)
				n++
				return n, age, err
			}
		}, nil},
		{"does not age", "Engine.Epoch", "an engine's age grew by", func(m *engineMutant) {
			m.epoch = func(ctx context.Context) (uint64, time.Duration, error) {
				id, _, err := m.Engine.Epoch(ctx)
				return id, 0, err
			}
		}, nil},
		{"does not know that it lost its data", "Engine.Lost", "has the same epoch", func(m *engineMutant) {
			m.epoch = func(ctx context.Context) (uint64, time.Duration, error) {
				_, age, err := m.Engine.Epoch(ctx)
				return 1, age, err
			}
		}, nil},
		{"begins with full meters", "Engine.Cold", "as if it had been empty when the engine began", warm, nil},
		{"fills meters up when it loses them", "Engine.LostMeters", "it fills from empty", warm, nil},
		{"counts a lease from its answer", "Engine.FarLease", "Until counts from before the request was sent", nil, func(m *engineMutant) {
			m.slots = func() engine.Slots {
				s := m.Engine.Slots()
				return &slotsMutant{Slots: s, acquire: func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
					l, err := s.Acquire(ctx, c)
					l.Until = time.Now().Add(c.TTL)
					return l, err
				}}
			}
		}},
		{"counts a renewal from its answer", "Engine.FarLease", "Renew over a link", nil, func(m *engineMutant) {
			m.slots = func() engine.Slots {
				s := m.Engine.Slots()
				return &slotsMutant{Slots: s, renew: func(ctx context.Context, l engine.Lease, ttl time.Duration) (engine.Lease, error) {
					l, err := s.Renew(ctx, l, ttl)
					l.Until = time.Now().Add(ttl)
					return l, err
				}}
			}
		}},
		{"takes the way of the answer off", "Engine.FarBooking", "before its time", nil, func(m *engineMutant) {
			m.quota = func() engine.Quota {
				q := m.Engine.Quota()
				return &quotaMutant{Quota: q, take: func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
					sent := time.Now()
					g, err := q.Take(ctx, d)
					g.After = max(0, g.After-time.Since(sent))
					return g, err
				}}
			}
		}},
		{"says refused when it does not know", "Engine.FarUnsure", "ErrRefused means certainly not", nil, func(m *engineMutant) {
			m.quota = func() engine.Quota {
				q := m.Engine.Quota()
				return &quotaMutant{Quota: q, take: func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
					g, err := q.Take(ctx, d)
					if ctx.Err() != nil {
						err = engine.ErrRefused
					}
					return g, err
				}}
			}
		}},
		{"repeats without the name", "Engine.FarUnsure", "it takes effect once", nil, func(m *engineMutant) {
			m.quota = func() engine.Quota {
				q := m.Engine.Quota()
				return &quotaMutant{Quota: q, take: func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
					d.Op = engine.OpID{}
					return q.Take(ctx, d)
				}}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r := setup(t), new(record)
				mutate := func(e engine.Engine, change func(*engineMutant)) engine.Engine {
					if change == nil {
						return e
					}
					m := &engineMutant{Engine: e}
					change(m)
					return m
				}
				open, far := s.Open, s.Far
				near := mutate(open(), c.near)
				s.Open = func() engine.Engine { return near }
				s.Far = func(d time.Duration) engine.Engine { return mutate(far(d), c.far) }
				sluicetest.Engine(r, s, sluicetest.Options{Exact: true, Seed: 7})
				r.caught(t, c.rule, c.why)
				time.Sleep(time.Hour)
			})
		})
	}
}

// TestProcessesKitCatchesAQuotaOfEach: a quota that each process has for itself is none. The
// processes are real, and so is their time.
func TestProcessesKitCatchesAQuotaOfEach(t *testing.T) {
	var r named
	r.name = t.Name()
	sluicetest.Processes(&r, memory(t).Quota, []string{"SLUICETEST_OTHER=1"}, sluicetest.Options{Tick: 20 * time.Millisecond, Slack: 10 * time.Millisecond, Seed: 7})
	if os.Getenv("SLUICETEST_OTHER") == "" {
		r.caught(t, "Processes", "at most B + r*W")
	}
}

// named is a record of a test's name.
type named struct {
	record
	name string
}

func (n *named) Name() string { return n.name }
