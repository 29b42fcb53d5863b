package sluicetest_test

import (
	"context"
	"iter"
	"os"
	"sync"
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
func (l link) Store() engine.Store { return linkStore{l.Engine.Store(), l.d} }

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

func (s linkSlots) Renew(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
	until := time.Now().Add(ttl)
	list, err := over(ctx, s.d, func() ([]engine.Lease, error) { return s.Slots.Renew(ctx, ttl, leases...) })
	for i := range list {
		list[i].Until = until
	}
	return list, err
}

type linkStore struct {
	engine.Store
	d time.Duration
}

func (s linkStore) Commit(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
	return over(ctx, s.d, func() ([]engine.Revision, error) {
		return s.Store.Commit(context.WithoutCancel(ctx), op, changes...)
	})
}

// pushed is an engine whose followers, and waiting claims, can be cut off: for an hour they
// are told nothing. Then they look what is there, unless they are deaf.
type pushed struct {
	engine.Engine
	deaf bool
	mu   sync.Mutex
	cuts chan struct{} // closed with the next cut
}

func (p *pushed) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.cuts)
	p.cuts = make(chan struct{})
}

func (p *pushed) next() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

func (p *pushed) Store() engine.Store {
	s := p.Engine.Store()
	return &storeMutant{Store: s, follow: func(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
		return func(yield func(engine.Record, error) bool) {
			seen := map[string]engine.Revision{}
			for {
				mine, cancel := context.WithCancel(ctx)
				cut := p.next()
				go func() {
					select {
					case <-cut:
						cancel()
					case <-mine.Done():
					}
				}()
				there := map[string]bool{}
				for rec, err := range s.Follow(mine, prefix) {
					if err != nil {
						break
					}
					if rec.Caught {
						for key, rev := range seen {
							if !there[key] && !yield(engine.Record{Key: key, Rev: rev, Gone: true}, nil) {
								cancel()
								return
							}
						}
					} else if there[rec.Key] = true; rec.Rev == seen[rec.Key] && !rec.Gone {
						continue
					} else if seen[rec.Key] = rec.Rev; rec.Gone {
						delete(seen, rec.Key)
					}
					if !yield(rec, nil) {
						cancel()
						return
					}
				}
				cancel()
				if ctx.Err() != nil || p.deaf {
					<-ctx.Done()
					yield(engine.Record{}, ctx.Err())
					return
				}
				time.Sleep(time.Millisecond)
			}
		}
	}}
}

func (p *pushed) Slots() engine.Slots {
	s := p.Engine.Slots()
	return &slotsMutant{Slots: s, acquire: func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
		if c.MaxWait == 0 || !p.deaf {
			return s.Acquire(ctx, c)
		}
		cut := p.next()
		l, err := s.Acquire(ctx, c)
		select {
		case <-cut:
			time.Sleep(c.MaxWait)
		default:
		}
		return l, err
	}}
}

// setup is a Memory, near and far, that can lose what it knows.
func setup(t testing.TB) sluicetest.Setup {
	x := chaos(t, sluicetest.ChaosConfig{})
	p := &pushed{Engine: x, cuts: make(chan struct{})}
	return sluicetest.Setup{
		Open: func() engine.Engine { return p },
		Far:  func(d time.Duration) engine.Engine { return link{x, d} },
		Lose: func() { _ = x.Restart() },
		Cut:  p.cut,
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
	store  func() engine.Store
}

func (m *engineMutant) Store() engine.Store {
	if m.store != nil {
		return m.store()
	}
	return m.Engine.Store()
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
	slots := func(mutate func(s engine.Slots, m *slotsMutant)) func(m *engineMutant) {
		return func(m *engineMutant) {
			s := m.Engine.Slots()
			x := &slotsMutant{Slots: s}
			mutate(s, x)
			m.slots = func() engine.Slots { return x }
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
				return &slotsMutant{Slots: s, renew: func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
					list, err := s.Renew(ctx, ttl, leases...)
					for i := range list {
						list[i].Until = time.Now().Add(ttl)
					}
					return list, err
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
		{"commits without the name", "Engine.FarCommit", "it takes effect once", nil, func(m *engineMutant) {
			m.store = func() engine.Store {
				s := m.Engine.Store()
				return &storeMutant{Store: s, commit: func(ctx context.Context, _ engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
					for i := range changes {
						changes[i].Was = engine.AnyRevision
					}
					return s.Commit(ctx, engine.OpID{}, changes...)
				}}
			}
		}},
		{"says that a commit was refused when it does not know", "Engine.FarCommit", "ErrRefused means certainly not", nil, func(m *engineMutant) {
			m.store = func() engine.Store {
				s := m.Engine.Store()
				return &storeMutant{Store: s, commit: func(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
					revs, err := s.Commit(ctx, op, changes...)
					if ctx.Err() != nil {
						err = engine.ErrRefused
					}
					return revs, err
				}}
			}
		}},
		{"gives slots as soon as it is back", "Engine.LostSlots", "those to whom it had given its slots go on", slots(func(s engine.Slots, m *slotsMutant) {
			young := true
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				_, err := s.Acquire(ctx, c)
				if young && c.Cold {
					young = false
					return engine.Lease{}, err
				}
				c.Cold = false
				return s.Acquire(ctx, c)
			}
		}), nil},
		{"gives slots when it begins", "Engine.LostSlots", "answered a Cold claim", slots(func(s engine.Slots, m *slotsMutant) {
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				c.Cold = false
				return s.Acquire(ctx, c)
			}
		}), nil},
		{"does not learn", "Engine.LostSlots", "it learns from its holders what is held", slots(func(s engine.Slots, m *slotsMutant) {
			m.renew = func(_ context.Context, _ time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				list := append([]engine.Lease(nil), leases...)
				for i := range list {
					list[i].Units = 0
				}
				return list, nil
			}
		}), nil},
		{"learns of a lease that was released", "Engine.LostSlots", "it was released", slots(func(s engine.Slots, m *slotsMutant) {
			m.renew = func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				list, err := s.Renew(ctx, ttl, leases...)
				for i := range list {
					if list[i].Units == 0 && leases[i].Units == 3 {
						list[i] = leases[i]
						list[i].Until = time.Now().Add(ttl)
					}
				}
				return list, err
			}
		}), nil},
		{"does not look when it is back", "Engine.CutFollow", "it has to look what is there", func(m *engineMutant) { m.Engine.(*pushed).deaf = true }, nil},
		{"leaves a claim that was not told", "Engine.CutSlots", "it has not got it", func(m *engineMutant) { m.Engine.(*pushed).deaf = true }, nil},
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
