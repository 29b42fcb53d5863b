package sluicetest_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
)

// record is a T that keeps what a kit complains about.
type record struct {
	mu     sync.Mutex
	errors []string
}

func (r *record) Helper()             {}
func (r *record) Logf(string, ...any) {}
func (r *record) Errorf(f string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(f, args...))
}

// caught fails unless a complaint is of rule and says why.
func (r *record) caught(t *testing.T, rule, why string) {
	t.Helper()
	for _, e := range r.errors {
		if strings.HasPrefix(e, rule+": ") && strings.Contains(e, why) {
			return
		}
	}
	t.Errorf("no complaint of %s that says %q, but:\n%s", rule, why, strings.Join(r.errors, "\n"))
}

// storeMutant is a store with one method replaced.
type storeMutant struct {
	engine.Store
	read   func(ctx context.Context, key string) (engine.Record, error)
	write  func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error)
	erase  func(ctx context.Context, key string, was engine.Revision) error
	add    func(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (int64, int64, error)
	follow func(ctx context.Context, prefix string) iter.Seq2[engine.Record, error]
	fetch  func(ctx context.Context, keys ...string) ([]engine.Record, error)
	commit func(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error)
}

func (m *storeMutant) Fetch(ctx context.Context, keys ...string) ([]engine.Record, error) {
	if m.fetch != nil {
		return m.fetch(ctx, keys...)
	}
	return m.Store.Fetch(ctx, keys...)
}

func (m *storeMutant) Commit(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
	if m.commit != nil {
		return m.commit(ctx, op, changes...)
	}
	return m.Store.Commit(ctx, op, changes...)
}

func (m *storeMutant) Read(ctx context.Context, key string) (engine.Record, error) {
	if m.read != nil {
		return m.read(ctx, key)
	}
	return m.Store.Read(ctx, key)
}

func (m *storeMutant) Write(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
	if m.write != nil {
		return m.write(ctx, key, was, value, ttl)
	}
	return m.Store.Write(ctx, key, was, value, ttl)
}

func (m *storeMutant) Erase(ctx context.Context, key string, was engine.Revision) error {
	if m.erase != nil {
		return m.erase(ctx, key, was)
	}
	return m.Store.Erase(ctx, key, was)
}

func (m *storeMutant) Add(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (int64, int64, error) {
	if m.add != nil {
		return m.add(ctx, op, key, delta, within, ttl)
	}
	return m.Store.Add(ctx, op, key, delta, within, ttl)
}

func (m *storeMutant) Follow(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
	if m.follow != nil {
		return m.follow(ctx, prefix)
	}
	return m.Store.Follow(ctx, prefix)
}

// force writes whatever is there.
func force(ctx context.Context, s engine.Store, key string, value []byte, ttl time.Duration) (engine.Revision, error) {
	for {
		rec, _ := s.Read(ctx, key)
		rev, err := s.Write(ctx, key, rec.Rev, value, ttl)
		if !errors.Is(err, engine.ErrConflict) {
			return rev, err
		}
	}
}

func TestStoreKitCatchesMutants(t *testing.T) {
	for _, c := range []struct {
		name, rule, why string
		mutate          func(m *storeMutant)
	}{
		{"writes without comparing", "Store.Conflict", "overwrote the record", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				return force(ctx, m.Store, key, value, ttl)
			}
		}},
		{"knows no AnyRevision", "Store.AnyRevision", "it writes whatever is there", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				if was == engine.AnyRevision {
					return 0, engine.ErrConflict
				}
				return m.Store.Write(ctx, key, was, value, ttl)
			}
		}},
		{"keeps the end of what any write replaces", "Store.AnyRevision", "without an end in place of one with it", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				if rec, err := m.Store.Read(ctx, key); was == engine.AnyRevision && err == nil && ttl == 0 {
					ttl = rec.Left
				}
				return m.Store.Write(ctx, key, was, value, ttl)
			}
		}},
		{"refuses and writes all the same", "Store.Conflict", "a refused write must change nothing", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				rev, err := m.Store.Write(ctx, key, was, value, ttl)
				if errors.Is(err, engine.ErrConflict) {
					_, _ = force(ctx, m.Store, key, value, ttl)
				}
				return rev, err
			}
		}},
		{"refuses and takes the end away", "Store.Conflict", "took the record's end away", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				return m.Store.Write(ctx, key, was, value, 0)
			}
		}},
		{"gets, then sets", "Store.OneWinner", "exactly one must", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				if rec, _ := m.Store.Read(ctx, key); rec.Rev != was {
					return 0, engine.ErrConflict
				}
				runtime.Gosched()
				return force(ctx, m.Store, key, value, ttl)
			}
		}},
		{"gets, then sets, in a history", "Store.Linear", "has no order in which its calls could have happened one by one", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				if rec, _ := m.Store.Read(ctx, key); rec.Rev != was {
					return 0, engine.ErrConflict
				}
				runtime.Gosched()
				return force(ctx, m.Store, key, value, ttl)
			}
		}},
		{"reads what was before", "Store.Linear", "has no order", func(m *storeMutant) {
			var mu sync.Mutex
			old := map[string]engine.Record{}
			m.read = func(ctx context.Context, key string) (engine.Record, error) {
				rec, err := m.Store.Read(ctx, key)
				mu.Lock()
				defer mu.Unlock()
				if was, ok := old[key]; ok && strings.HasSuffix(key, "linear") && rec.Rev%3 == 0 {
					return was, nil
				}
				if err == nil {
					old[key] = rec
				}
				return rec, err
			}
		}},
		{"adds by reading and writing", "Store.NoLostAdd", "was lost between reading and writing", func(m *storeMutant) {
			m.add = func(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (int64, int64, error) {
				if within != nil || !op.IsZero() {
					return m.Store.Add(ctx, op, key, delta, within, ttl)
				}
				rec, _ := m.Store.Read(ctx, key)
				n, _ := strconv.ParseInt(string(rec.Value), 10, 64)
				runtime.Gosched()
				_, err := force(ctx, m.Store, key, strconv.AppendInt(nil, n+delta, 10), ttl)
				return n + delta, delta, err
			}
		}},
		{"adds before it checks", "Store.Bound", "check the bound before adding", func(m *storeMutant) {
			m.add = func(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (int64, int64, error) {
				total, applied, err := m.Store.Add(ctx, op, key, delta, within, ttl)
				if err == nil && within != nil && applied == 0 && delta == 1 {
					_, _, _ = m.Store.Add(ctx, op, key, delta, nil, ttl)
				}
				return total, applied, err
			}
		}},
		{"forgets operations", "Store.OpID", "takes effect once", func(m *storeMutant) {
			m.add = func(ctx context.Context, _ engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (int64, int64, error) {
				return m.Store.Add(ctx, engine.OpID{}, key, delta, within, ttl)
			}
		}},
		{"moves a counter's end", "Store.Add", "must not move its end", func(m *storeMutant) {
			m.add = func(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (int64, int64, error) {
				total, applied, err := m.Store.Add(ctx, op, key, delta, within, ttl)
				if err == nil && ttl > 0 {
					_, err = force(ctx, m.Store, key, strconv.AppendInt(nil, total, 10), ttl)
				}
				return total, applied, err
			}
		}},
		{"counts revisions anew", "Store.Revisions", "a revision must never come again", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				rev, err := m.Store.Write(ctx, key, was, value, ttl)
				if was == 0 && err == nil && strings.HasSuffix(key, "revisions") {
					rev = 1
				}
				return rev, err
			}
			m.erase = func(ctx context.Context, key string, was engine.Revision) error {
				if was == 1 {
					rec, _ := m.Store.Read(ctx, key)
					was = rec.Rev
				}
				return m.Store.Erase(ctx, key, was)
			}
		}},
		{"keeps a record at its end", "Store.TTL", "not at its end", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				if ttl > 0 {
					ttl++
				}
				return m.Store.Write(ctx, key, was, value, ttl)
			}
			m.read = func(ctx context.Context, key string) (engine.Record, error) {
				rec, err := m.Store.Read(ctx, key)
				rec.Left = max(0, rec.Left-1)
				return rec, err
			}
		}},
		{"keeps the caller's slice", "Store.Owned", "the store must keep a copy", func(m *storeMutant) {
			var mu sync.Mutex
			kept := map[string][]byte{}
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				mu.Lock()
				kept[key] = value
				mu.Unlock()
				return m.Store.Write(ctx, key, was, value, ttl)
			}
			m.read = func(ctx context.Context, key string) (engine.Record, error) {
				rec, err := m.Store.Read(ctx, key)
				mu.Lock()
				defer mu.Unlock()
				if strings.HasSuffix(key, "owned") {
					rec.Value = kept[key]
				}
				return rec, err
			}
		}},
		{"says refused and applies later", "Store.EndedContext", "certainly not, now or later", func(m *storeMutant) {
			m.write = func(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
				if ctx.Err() == nil {
					return m.Store.Write(ctx, key, was, value, ttl)
				}
				time.AfterFunc(time.Millisecond, func() { _, _ = m.Store.Write(context.Background(), key, was, value, ttl) })
				return 0, engine.ErrRefused
			}
		}},
		{"follows without the current records", "Store.Follow", "the current one comes first", func(m *storeMutant) {
			m.follow = func(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
				return func(yield func(engine.Record, error) bool) {
					skip := strings.Contains(prefix, "follow/")
					for rec, err := range m.Store.Follow(ctx, prefix) {
						if skip && err == nil {
							skip = false
							continue
						}
						if !yield(rec, err) {
							return
						}
					}
				}
			}
		}},
		{"does not tell of erasures", "Store.Follow", "did not tell of an Erase", func(m *storeMutant) {
			m.follow = func(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
				return func(yield func(engine.Record, error) bool) {
					for rec, err := range m.Store.Follow(ctx, prefix) {
						if !rec.Gone && !yield(rec, err) {
							return
						}
					}
				}
			}
		}},
		{"follows on when the context ends", "Store.FollowEnds", "did not end when its context did", func(m *storeMutant) {
			m.follow = func(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
				return func(yield func(engine.Record, error) bool) {
					for rec, err := range m.Store.Follow(ctx, prefix) {
						if err != nil && strings.Contains(prefix, "ends/") {
							time.Sleep(time.Hour)
						}
						if !yield(rec, err) {
							return
						}
					}
				}
			}
		}},
		{"delivers a record twice", "Store.Follow", "none twice", func(m *storeMutant) {
			m.follow = func(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
				return func(yield func(engine.Record, error) bool) {
					for rec, err := range m.Store.Follow(ctx, prefix) {
						if !yield(rec, err) || err == nil && !yield(rec, err) {
							return
						}
					}
				}
			}
		}},
		{"panics", "Store.Write", "the engine panicked: broken", func(m *storeMutant) {
			m.write = func(context.Context, string, engine.Revision, []byte, time.Duration) (engine.Revision, error) {
				panic("broken")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			storeMutantIsCaught(t, c.rule, c.why, c.mutate)
		})
	}
}

// storeMutantIsCaught fails unless the kit complains of what mutate does to a store.
func storeMutantIsCaught(t *testing.T, rule, why string, mutate func(m *storeMutant)) {
	synctest.Test(t, func(t *testing.T) {
		m := memory(t)
		var r record
		sluicetest.Store(&r, func() engine.Store {
			s := &storeMutant{Store: m.Store()}
			mutate(s)
			return s
		}, sluicetest.Options{Exact: true, Rounds: 200, Seed: 7})
		r.caught(t, rule, why)
		time.Sleep(2 * time.Hour) // what the mutant has left behind
	})
}

// changed follows with what change makes of each record; n is its number.
func changed(m *storeMutant, change func(rec engine.Record, n int) []engine.Record) func(context.Context, string) iter.Seq2[engine.Record, error] {
	return func(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
		return func(yield func(engine.Record, error) bool) {
			n := 0
			for rec, err := range m.Store.Follow(ctx, prefix) {
				list := []engine.Record{rec}
				if err == nil {
					list = change(rec, n)
					n++
				}
				for _, rec := range list {
					if !yield(rec, err) {
						return
					}
				}
			}
		}
	}
}

// slotsMutant is slots with one method replaced.
type slotsMutant struct {
	engine.Slots
	acquire func(ctx context.Context, c engine.Claim) (engine.Lease, error)
	renew   func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error)
	resize  func(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error)
	release func(ctx context.Context, leases ...engine.Lease) error
}

func (m *slotsMutant) Resize(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
	if m.resize != nil {
		return m.resize(ctx, l, units, limit)
	}
	return m.Slots.Resize(ctx, l, units, limit)
}

func (m *slotsMutant) Acquire(ctx context.Context, c engine.Claim) (engine.Lease, error) {
	if m.acquire != nil {
		return m.acquire(ctx, c)
	}
	return m.Slots.Acquire(ctx, c)
}

func (m *slotsMutant) Renew(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
	if m.renew != nil {
		return m.renew(ctx, ttl, leases...)
	}
	return m.Slots.Renew(ctx, ttl, leases...)
}

func (m *slotsMutant) Release(ctx context.Context, leases ...engine.Lease) error {
	if m.release != nil {
		return m.release(ctx, leases...)
	}
	return m.Slots.Release(ctx, leases...)
}

func TestSlotsKitCatchesMutants(t *testing.T) {
	claims := func(change func(c *engine.Claim)) func(m *slotsMutant) {
		return func(m *slotsMutant) {
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				change(&c)
				return m.Slots.Acquire(ctx, c)
			}
		}
	}
	for _, c := range []struct {
		name, rule, why string
		mutate          func(m *slotsMutant)
	}{
		{"fences that go back", "Slots.Fence", "fences must grow", func(m *slotsMutant) {
			n := 0
			var mu sync.Mutex
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				l, err := m.Slots.Acquire(ctx, c)
				mu.Lock()
				defer mu.Unlock()
				if strings.HasSuffix(c.Key, "fence") && err == nil {
					if n++; n > 11 { // a failover
						l.Fence -= 1 << 40
					}
				}
				return l, err
			}
		}},
		{"one slot too many", "Slots.Limit", "three of three slots are taken", claims(func(c *engine.Claim) { c.Limit++ })},
		{"ignores units", "Slots.Units", "3 more do not fit", func(m *slotsMutant) {
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				units := max(c.Units, 1)
				if c.Units <= c.Limit && c.Units > 0 {
					c.Units = 1
				}
				l, err := m.Slots.Acquire(ctx, c)
				if err == nil {
					l.Units = units
				}
				return l, err
			}
		}},
		{"never ends a lease", "Slots.Crash", "a lease ends by itself after its TTL", func(m *slotsMutant) {
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				ttl := c.TTL
				if ttl > 0 {
					c.TTL = 8000 * time.Hour
				}
				l, err := m.Slots.Acquire(ctx, c)
				l.Until = l.Until.Add(ttl - 8000*time.Hour)
				return l, err
			}
		}},
		{"promises too much", "Slots.Limit", "Until must not be later than the engine's own end", func(m *slotsMutant) {
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				l, err := m.Slots.Acquire(ctx, c)
				l.Until = l.Until.Add(time.Nanosecond)
				return l, err
			}
		}},
		{"does not renew", "Slots.Heartbeat", "the holder has renewed its lease", func(m *slotsMutant) {
			m.renew = func(_ context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				list := append([]engine.Lease(nil), leases...)
				for i := range list {
					list[i].Until = time.Now().Add(ttl)
				}
				return list, nil
			}
		}},
		{"renews what is lost", "Slots.Stale", "must learn that its slot is gone", func(m *slotsMutant) {
			m.renew = func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				renewed, err := m.Slots.Renew(ctx, ttl, leases...)
				for i := range renewed {
					if renewed[i].Units == 0 {
						renewed[i] = leases[i]
					}
				}
				return renewed, err
			}
		}},
		{"releases by key", "Slots.Release", "freed the slot of somebody else", func(m *slotsMutant) {
			var mu sync.Mutex
			last := map[string]engine.Lease{}
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				l, err := m.Slots.Acquire(ctx, c)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					last[c.Key] = l
				}
				return l, err
			}
			m.release = func(ctx context.Context, leases ...engine.Lease) error {
				mu.Lock()
				defer mu.Unlock()
				for _, l := range leases {
					if err := m.Slots.Release(ctx, last[l.Key]); err != nil {
						return err
					}
				}
				return nil
			}
		}},
		{"ignores the fence", "Slots.Stale", "the fence tells them apart", func(m *slotsMutant) {
			var mu sync.Mutex
			last := map[string]engine.Lease{}
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				l, err := m.Slots.Acquire(ctx, c)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					last[c.Key+c.Holder] = l
				}
				return l, err
			}
			m.release = func(ctx context.Context, leases ...engine.Lease) error {
				mu.Lock()
				defer mu.Unlock()
				return m.Slots.Release(ctx, last[leases[0].Key+leases[0].Holder])
			}
		}},
		{"a second lease for one holder", "Slots.Holder", "it must find the lease it has", func(m *slotsMutant) {
			var n atomic.Int64
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				holder := c.Holder
				if holder != "" {
					c.Holder += fmt.Sprint(n.Add(1))
				}
				l, err := m.Slots.Acquire(ctx, c)
				l.Holder = holder
				return l, err
			}
		}},
		{"gives up early", "Slots.MaxWait", "Acquire gave up after", claims(func(c *engine.Claim) { c.MaxWait /= 2 })},
		{"forgets who waits", "Slots.HandOver", "the claim that waits", func(m *slotsMutant) {
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				wait := c.MaxWait
				c.MaxWait = 0
				l, err := m.Slots.Acquire(ctx, c)
				if errors.Is(err, engine.ErrBusy) {
					time.Sleep(max(wait, 0))
				}
				return l, err
			}
		}},
		{"gives slots to the dead", "Slots.Cancel", "whoever leaves must hold nothing", func(m *slotsMutant) {
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				if c.MaxWait == 0 || ctx.Err() != nil {
					return m.Slots.Acquire(ctx, c)
				}
				type answer struct {
					l   engine.Lease
					err error
				}
				got := make(chan answer, 1)
				go func() {
					l, err := m.Slots.Acquire(context.WithoutCancel(ctx), c)
					got <- answer{l, err}
				}()
				select {
				case a := <-got:
					return a.l, a.err
				case <-ctx.Done():
					return engine.Lease{}, ctx.Err()
				}
			}
		}},
		{"ignores priority", "Slots.Priority", "the highest priority is", claims(func(c *engine.Claim) { c.Priority = 0 })},
		{"ignores weights", "Slots.FairShare", "tenants of weight 3 and 1", claims(func(c *engine.Claim) { c.Weight = min(c.Weight, 1) })},
		{"ignores tenants", "Slots.FairShare", "tenants of weight 3 and 1", claims(func(c *engine.Claim) { c.Tenant = "" })},
		{"lets a holder wait twice", "Slots.HolderTwice", "the second one waits in its place", func(m *slotsMutant) {
			var n atomic.Int64
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				holder := c.Holder
				if c.MaxWait > 0 {
					c.Holder += fmt.Sprint(n.Add(1))
				}
				l, err := m.Slots.Acquire(ctx, c)
				l.Holder = holder
				return l, err
			}
		}},
		{"lets a holder wait once", "Slots.HolderTwice", "goes on to wait", func(m *slotsMutant) {
			var mu sync.Mutex
			waits := map[string]bool{}
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				mu.Lock()
				twice := c.MaxWait > 0 && waits[c.Holder]
				waits[c.Holder] = c.MaxWait > 0
				mu.Unlock()
				if twice {
					return engine.Lease{}, engine.ErrRefused
				}
				return m.Slots.Acquire(ctx, c)
			}
		}},
		{"sends a holder that asks again to the end", "Slots.HolderTwice", "it keeps the place that it had", func(m *slotsMutant) {
			var mu sync.Mutex
			waits := map[string]context.CancelCauseFunc{}
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				if c.MaxWait == 0 {
					return m.Slots.Acquire(ctx, c)
				}
				mine, cancel := context.WithCancelCause(ctx)
				defer cancel(nil)
				mu.Lock()
				if old := waits[c.Holder]; old != nil && c.Priority == 0 {
					old(engine.ErrLost)
				}
				if c.Priority == 0 {
					waits[c.Holder] = cancel
				}
				mu.Unlock()
				time.Sleep(time.Nanosecond)
				return m.Slots.Acquire(mine, c)
			}
		}},
		{"checks, then gives", "Slots.Storm", "leases were live at once", func(m *slotsMutant) {
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				if strings.HasSuffix(c.Key, "storm") {
					c.Limit += 2
				}
				return m.Slots.Acquire(ctx, c)
			}
		}},
		{"lets the narrow pass", "Slots.Wide", "passed a wide one", func(m *slotsMutant) {
			m.acquire = func(ctx context.Context, c engine.Claim) (engine.Lease, error) {
				for strings.HasSuffix(c.Key, "wide") && c.Units == 2 && ctx.Err() == nil {
					now := c
					now.MaxWait = 0
					if l, err := m.Slots.Acquire(ctx, now); !errors.Is(err, engine.ErrBusy) {
						return l, err
					}
					time.Sleep(time.Millisecond)
				}
				return m.Slots.Acquire(ctx, c)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memory(t)
				var r record
				s := &slotsMutant{Slots: m.Slots()}
				c.mutate(s)
				sluicetest.Slots(&r, func() engine.Slots { return s }, sluicetest.Options{Exact: true, Seed: 7})
				r.caught(t, c.rule, c.why)
				m.Close()
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

// log is a publisher that a test can break.
type log struct {
	mu      sync.Mutex
	events  []engine.Event
	seen    map[string]bool
	publish func(l *log, events []engine.Event) (int, error)
}

func (l *log) Publish(ctx context.Context, events []engine.Event) (int, error) {
	if ctx.Err() != nil {
		return 0, errors.Join(engine.ErrRefused, ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.publish(l, events)
}

func (l *log) read() []engine.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]engine.Event(nil), l.events...)
}

// add stores e once.
func (l *log) add(e engine.Event) {
	if !l.seen[e.ID] {
		l.seen[e.ID] = true
		e.Payload = append([]byte(nil), e.Payload...)
		l.events = append(l.events, e)
	}
}

func TestPublisherKitCatchesMutants(t *testing.T) {
	for _, c := range []struct {
		name, rule, why string
		publish         func(l *log, events []engine.Event) (int, error)
	}{
		{"stores repetitions", "Publisher.Once", "each ID once", func(l *log, events []engine.Event) (int, error) {
			l.events = append(l.events, events...)
			return len(events), nil
		}},
		{"stores backwards", "Publisher.All", "in their order", func(l *log, events []engine.Event) (int, error) {
			for i := len(events); i > 0; i-- {
				l.add(events[i-1])
			}
			return len(events), nil
		}},
		{"keeps payloads", "Publisher.Owned", "the engine must keep a copy", func(l *log, events []engine.Event) (int, error) {
			for _, e := range events {
				if !l.seen[e.ID] {
					l.seen[e.ID] = true
					l.events = append(l.events, e)
				}
			}
			return len(events), nil
		}},
		{"acknowledges what it skips", "Publisher.All", "stored are", func(l *log, events []engine.Event) (int, error) {
			for i, e := range events {
				if i != 2 {
					l.add(e)
				}
			}
			return len(events), nil
		}},
		{"acknowledges too little", "Publisher.All", "without an error it is all of them", func(l *log, events []engine.Event) (int, error) {
			for _, e := range events {
				l.add(e)
			}
			return max(0, len(events)-1), nil
		}},
		{"acknowledges beyond an error", "Publisher.Prefix", "must be those before it, 1", func(l *log, events []engine.Event) (int, error) {
			for i, e := range events {
				if e.ID == "" {
					return i + 1, engine.ErrPoison
				}
				l.add(e)
			}
			return len(events), nil
		}},
		{"stores beyond what it acknowledges", "Publisher.Prefix", "acknowledged event 1 alone", func(l *log, events []engine.Event) (int, error) {
			for i, e := range events {
				if e.ID == "" {
					for _, e := range events[i+1:] {
						l.add(e)
					}
					return i, engine.ErrPoison
				}
				l.add(e)
			}
			return len(events), nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r record
				sluicetest.Publisher(&r, func() (engine.Publisher, func() []engine.Event) {
					l := &log{seen: map[string]bool{}, publish: c.publish}
					return l, l.read
				}, sluicetest.Options{Exact: true})
				r.caught(t, c.rule, c.why)
			})
		})
	}
}
