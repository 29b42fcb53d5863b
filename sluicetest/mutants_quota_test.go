package sluicetest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
)

// quotaMutant is a quota with one method replaced, Settle for each correction.
type quotaMutant struct {
	engine.Quota
	take   func(ctx context.Context, d engine.Draw) (engine.Grant, error)
	settle func(ctx context.Context, op, of engine.OpID, m engine.Meter, delta int64) error
	hold   func(ctx context.Context, m engine.Meter, d time.Duration) error
}

func (m *quotaMutant) Take(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	if m.take != nil {
		return m.take(ctx, d)
	}
	return m.Quota.Take(ctx, d)
}

func (m *quotaMutant) Settle(ctx context.Context, op engine.OpID, list []engine.Correction) error {
	if m.settle == nil || len(list) == 0 || len(list) > 1 && op != (engine.OpID{}) {
		return m.Quota.Settle(ctx, op, list)
	}
	for _, c := range list {
		if err := m.settle(ctx, op, c.Of, c.Meter, c.Delta); err != nil {
			return err
		}
	}
	return nil
}

func (m *quotaMutant) Hold(ctx context.Context, mm engine.Meter, d time.Duration) error {
	if m.hold != nil {
		return m.hold(ctx, mm, d)
	}
	return m.Quota.Hold(ctx, mm, d)
}

// settleOne is a Settle of one correction.
func settleOne(ctx context.Context, q engine.Quota, op, of engine.OpID, m engine.Meter, delta int64) error {
	return q.Settle(ctx, op, []engine.Correction{{Of: of, Meter: m, Delta: delta}})
}

func units(least, most int64, list ...engine.Meter) engine.Draw {
	return engine.Draw{Meters: list, Min: least, Max: most}
}

// fractions grants whole tokens and charges parts as well.
func fractions(d engine.Draw, state map[string]time.Time) (engine.Grant, error) {
	d, err := d.Normal()
	if err != nil {
		return engine.Grant{}, err
	}
	m, now := d.Meters[0], time.Now()
	last, ok := state[m.Key]
	tokens := float64(m.Burst)
	if ok {
		tokens = min(tokens, float64(now.Sub(last))*float64(m.N)/float64(m.Per))
	}
	if int64(tokens) < d.Min {
		return engine.Grant{Retry: time.Duration((float64(d.Min)-tokens)*float64(m.Per)/float64(m.N)) + 1}, nil
	}
	state[m.Key] = now
	return engine.Grant{Units: min(d.Max, int64(tokens))}, nil
}

// plain keeps for each key when it is full again, and moves that by whatever is settled.
type plain struct {
	mu   sync.Mutex
	full map[string]time.Time
	debt time.Duration // the most, beyond empty
}

func (p *plain) take(_ context.Context, d engine.Draw) (engine.Grant, error) {
	d, err := d.Normal()
	if err != nil {
		return engine.Grant{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now, g := time.Now(), engine.Grant{Units: d.Max}
	for _, m := range d.Meters {
		there := now.Add(time.Duration(m.Burst) * m.Every()).Sub(p.at(m.Key, now))
		units := max(0, int64(there/m.Every()))
		if g.Units = min(g.Units, units); g.Units < d.Min {
			return engine.Grant{Retry: time.Duration(d.Min)*m.Every() - there}, nil
		}
	}
	for _, m := range d.Meters {
		p.full[m.Key] = p.at(m.Key, now).Add(time.Duration(g.Units) * m.Every())
	}
	return g, nil
}

func (p *plain) at(key string, now time.Time) time.Time {
	if t := p.full[key]; t.After(now) {
		return t
	}
	return now
}

func (p *plain) settle(_ context.Context, _, _ engine.OpID, m engine.Meter, delta int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	t := p.at(m.Key, now).Add(time.Duration(max(-1<<20, min(delta, 1<<20))) * m.Every())
	if most := now.Add(time.Duration(m.Burst)*m.Every() + p.debt); t.After(most) {
		t = most
	}
	p.full[m.Key] = t
	return nil
}

func TestQuotaKitCatchesMutants(t *testing.T) {
	for _, c := range []struct {
		name, rule, why string
		mutate          func(m *quotaMutant)
	}{
		{"charges fractions", "Quota.NoFractionLoss", "round down before charging", func(m *quotaMutant) {
			state := map[string]time.Time{}
			var mu sync.Mutex
			m.take = func(_ context.Context, d engine.Draw) (engine.Grant, error) {
				mu.Lock()
				defer mu.Unlock()
				return fractions(d, state)
			}
		}},
		{"charges meter by meter", "Quota.AllOrNothing", "look at all before charging any", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				if len(d.Meters) == 1 || d.Meters[0].Key == d.Meters[1].Key {
					return m.Quota.Take(ctx, d)
				}
				var g engine.Grant
				for _, one := range d.Meters {
					part := d
					part.Meters = []engine.Meter{one}
					var err error
					if g, err = m.Quota.Take(ctx, part); err != nil || g.Units == 0 {
						return g, err
					}
				}
				return g, nil
			}
		}},
		{"charges a denial", "Quota.Range", "a denial must charge nothing", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				g, err := m.Quota.Take(ctx, d)
				if err == nil && g.Units == 0 {
					_ = m.Quota.Settle(ctx, engine.OpID{}, []engine.Correction{{Meter: d.Meters[0], Delta: 1}})
				}
				return g, err
			}
		}},
		{"counts fixed windows", "Quota.Exact", "at most B + r*W", func(m *quotaMutant) {
			var mu sync.Mutex
			used := map[string]int64{}
			m.take = func(_ context.Context, d engine.Draw) (engine.Grant, error) {
				d, err := d.Normal()
				if err != nil {
					return engine.Grant{}, err
				}
				mu.Lock()
				defer mu.Unlock()
				one := d.Meters[0]
				window := time.Duration(one.Burst) * one.Per / time.Duration(one.N)
				key := fmt.Sprint(one.Key, time.Now().UnixNano()/int64(window))
				g := engine.Grant{Units: min(d.Max, one.Burst-used[key]), Retry: time.Millisecond}
				if g.Units < d.Min {
					g.Units = 0
				}
				used[key] += g.Units
				return g, nil
			}
		}},
		{"books too early", "Quota.Booking", "before its time", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				g, err := m.Quota.Take(ctx, d)
				g.After /= 2
				return g, err
			}
		}},
		{"books a range too densely", "Quota.BookingRange", "before their time", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				g, err := m.Quota.Take(ctx, d)
				g.Every /= 2
				return g, err
			}
		}},
		{"does not book", "Quota.Booking", "was denied, and its unit comes in within", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				if d.MaxWait > 0 {
					d.MaxWait = 0
				}
				return m.Quota.Take(ctx, d)
			}
		}},
		{"grants more than was asked for", "Quota.Range", "must be zero or from", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				g, err := m.Quota.Take(ctx, d)
				if d.Min == 2 && d.Max == 4 {
					g.Units++
				}
				return g, err
			}
		}},
		{"keeps nothing", "Quota.Keep", "what it keeps is for others", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				if g, err := m.Quota.Take(ctx, d); err != nil || g.Units > 0 {
					return g, err
				}
				d.Keep = 0
				return m.Quota.Take(ctx, d)
			}
		}},
		{"charges what it keeps", "Quota.Keep", "what is kept is not charged", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				g, err := m.Quota.Take(ctx, d)
				if g.Units > 0 && d.Keep == 4 {
					_, _ = m.Quota.Take(ctx, units(d.Keep, d.Keep, d.Meters...))
				}
				return g, err
			}
		}},
		{"books without what it keeps", "Quota.KeepBooking", "before what it keeps is there", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				if d.MaxWait > 0 {
					d.Keep = 0
				}
				return m.Quota.Take(ctx, d)
			}
		}},
		{"denies with an error", "Quota.Burst", "a denial is an answer, not an error", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				g, err := m.Quota.Take(ctx, d)
				if err == nil && g.Units == 0 {
					err = engine.ErrRefused
				}
				return g, err
			}
		}},
		{"waits for what never comes", "Quota.Invalid", "Take with Min above Burst returned no error", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				g, err := m.Quota.Take(ctx, d)
				if err != nil && strings.Contains(err.Error(), "never come") {
					return engine.Grant{Retry: time.Second}, nil
				}
				return g, err
			}
		}},
		{"forgets draws", "Quota.OpID", "a repetition takes effect once", func(m *quotaMutant) {
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				d.Op = engine.OpID{}
				return m.Quota.Take(ctx, d)
			}
		}},
		{"forgets corrections", "Quota.OpID", "a repetition takes effect once", func(m *quotaMutant) {
			m.settle = func(ctx context.Context, _, of engine.OpID, mm engine.Meter, delta int64) error {
				return settleOne(ctx, m.Quota, engine.OpID{}, of, mm, delta)
			}
		}},
		{"answers a repetition with the old time", "Quota.OpID", "After counts from the answer", func(m *quotaMutant) {
			var mu sync.Mutex
			old := map[engine.OpID]engine.Grant{}
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				mu.Lock()
				defer mu.Unlock()
				if g, ok := old[d.Op]; ok {
					return g, nil
				}
				g, err := m.Quota.Take(ctx, d)
				if err == nil && !d.Op.IsZero() {
					old[d.Op] = g
				}
				return g, err
			}
		}},
		{"stops at zero", "Quota.SettleDebt", "a meter that owes 3 tokens", func(m *quotaMutant) {
			m.settle = func(ctx context.Context, op, of engine.OpID, mm engine.Meter, delta int64) error {
				return settleOne(ctx, m.Quota, op, of, mm, min(delta, 5))
			}
		}},
		{"gives nothing back", "Quota.SettleBack", "must be 4", func(m *quotaMutant) {
			m.settle = func(ctx context.Context, op, of engine.OpID, mm engine.Meter, delta int64) error {
				return settleOne(ctx, m.Quota, op, of, mm, max(delta, 0))
			}
		}},
		{"refunds late in full", "Quota.SettleLate", "the others are spent twice", func(m *quotaMutant) {
			p := &plain{full: map[string]time.Time{}, debt: 24 * time.Hour}
			m.take, m.settle = p.take, p.settle
		}},
		{"refunds what is partly late in full", "Quota.SettlePartlyLate", "cannot be more than", func(m *quotaMutant) {
			p := &plain{full: map[string]time.Time{}, debt: 24 * time.Hour}
			m.take, m.settle = p.take, p.settle
		}},
		{"refunds what has no name", "Quota.SettleUnnamed", "a Take without a name gave back something", func(m *quotaMutant) {
			p := &plain{full: map[string]time.Time{}, debt: 24 * time.Hour}
			m.take, m.settle = p.take, p.settle
		}},
		{"forgets debt", "Quota.SettleDebt", "a meter that owes 3 tokens", func(m *quotaMutant) {
			p := &plain{full: map[string]time.Time{}}
			m.take, m.settle = p.take, p.settle
		}},
		{"owes for ever", "Quota.SettleBound", "debt is bounded", func(m *quotaMutant) {
			p := &plain{full: map[string]time.Time{}, debt: 1 << 60}
			m.take, m.settle = p.take, p.settle
		}},
		{"refunds nothing late", "Quota.SettlePartlyLate", "must be at least", func(m *quotaMutant) {
			var mu sync.Mutex
			taken := map[engine.OpID]time.Time{}
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				mu.Lock()
				defer mu.Unlock()
				taken[d.Op] = time.Now()
				return m.Quota.Take(ctx, d)
			}
			m.settle = func(ctx context.Context, op, of engine.OpID, mm engine.Meter, delta int64) error {
				mu.Lock()
				defer mu.Unlock()
				if time.Since(taken[of]) > 0 {
					delta = max(delta, 0)
				}
				return settleOne(ctx, m.Quota, op, of, mm, delta)
			}
		}},
		{"charges an increase now", "Quota.SettleLate", "it counts from its own instant on", func(m *quotaMutant) {
			m.settle = func(ctx context.Context, op, of engine.OpID, mm engine.Meter, delta int64) error {
				if delta > 0 {
					of = engine.OpID{}
				}
				return settleOne(ctx, m.Quota, op, of, mm, delta)
			}
		}},
		{"stops at nothing in between", "Quota.SettleSum", "Settles add up", func(m *quotaMutant) {
			var mu sync.Mutex
			counts := map[engine.OpID]int64{}
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				mu.Lock()
				defer mu.Unlock()
				g, err := m.Quota.Take(ctx, d)
				counts[d.Op] = g.Units
				return g, err
			}
			m.settle = func(ctx context.Context, op, of engine.OpID, mm engine.Meter, delta int64) error {
				mu.Lock()
				defer mu.Unlock()
				delta = max(delta, -counts[of])
				counts[of] += delta
				return settleOne(ctx, m.Quota, op, of, mm, delta)
			}
		}},
		{"settles one by one until one is wrong", "Quota.SettleList", "none of a list that is refused", func(m *quotaMutant) {
			m.settle = func(ctx context.Context, op, of engine.OpID, mm engine.Meter, delta int64) error {
				return settleOne(ctx, m.Quota, op, of, mm, delta)
			}
		}},
		{"lets the last hold count", "Quota.Hold", "the one that ends last counts", func(m *quotaMutant) {
			m.hold = func(ctx context.Context, mm engine.Meter, d time.Duration) error {
				if err := m.Quota.Hold(ctx, mm, 0); err != nil {
					return err
				}
				return m.Quota.Hold(ctx, mm, d)
			}
		}},
		{"opens with all that came in", "Quota.Hold", "it opens with one at most", func(m *quotaMutant) {
			var mu sync.Mutex
			until := map[string]time.Time{}
			m.hold = func(ctx context.Context, mm engine.Meter, d time.Duration) error {
				if _, err := mm.Normal(); err != nil || d < 0 || ctx.Err() != nil {
					return engine.ErrRefused
				}
				mu.Lock()
				defer mu.Unlock()
				if at := time.Now().Add(d); at.After(until[mm.Key]) {
					until[mm.Key] = at
				}
				return nil
			}
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				mu.Lock()
				defer mu.Unlock()
				for _, mm := range d.Meters {
					if wait := time.Until(until[mm.Key]); wait > 0 {
						return engine.Grant{Retry: wait}, nil
					}
				}
				return m.Quota.Take(ctx, d)
			}
		}},
		{"books into a hold", "Quota.HoldBooking", "must not be before", func(m *quotaMutant) {
			m.hold = func(ctx context.Context, mm engine.Meter, d time.Duration) error {
				return m.Quota.Hold(ctx, mm, d-d/4)
			}
		}},
		{"holds what is slow to its last token", "Quota.Hold", "must have what it had", func(m *quotaMutant) {
			m.hold = func(ctx context.Context, mm engine.Meter, d time.Duration) error {
				if err := m.Quota.Hold(ctx, mm, d); err != nil || mm.Per < time.Hour {
					return err
				}
				return settleOne(ctx, m.Quota, engine.OpID{}, engine.OpID{}, mm, 3)
			}
		}},
		{"fills up what was held", "Quota.HoldEnds", "creates no tokens", func(m *quotaMutant) {
			var mu sync.Mutex
			held := map[string]int{}
			m.hold = func(ctx context.Context, mm engine.Meter, d time.Duration) error {
				mu.Lock()
				defer mu.Unlock()
				held[mm.Key]++
				return m.Quota.Hold(ctx, mm, d)
			}
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				mu.Lock()
				defer mu.Unlock()
				if len(d.Meters) == 1 && held[d.Meters[0].Key] == 3 {
					return engine.Grant{Units: d.Max}, nil
				}
				return m.Quota.Take(ctx, d)
			}
		}},
		{"settles units", "Quota.SettleBack", "each meter is settled by itself, in tokens", func(m *quotaMutant) {
			m.settle = func(ctx context.Context, op, of engine.OpID, mm engine.Meter, delta int64) error {
				return settleOne(ctx, m.Quota, op, of, mm, delta*max(mm.Each, 1))
			}
		}},
		{"fills beyond the burst", "Quota.SettleBack", "never filled beyond its burst", func(m *quotaMutant) {
			var extra atomic.Int64
			m.settle = func(ctx context.Context, op, of engine.OpID, mm engine.Meter, delta int64) error {
				if delta < -1<<50 {
					extra.Store(2)
				}
				return settleOne(ctx, m.Quota, op, of, mm, delta)
			}
			m.take = func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
				g, err := m.Quota.Take(ctx, d)
				g.Units += extra.Swap(0)
				return g, err
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memory(t)
				var r record
				sluicetest.Quota(&r, func() engine.Quota {
					q := &quotaMutant{Quota: m.Quota()}
					c.mutate(q)
					return q
				}, sluicetest.Options{Exact: true, Seed: 7})
				r.caught(t, c.rule, c.why)
			})
		})
	}
}
