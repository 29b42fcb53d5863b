package sluicetest_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
)

func TestSlotsKitCatchesMutantsOfLeases(t *testing.T) {
	for _, c := range []struct {
		name, rule, why string
		mutate          func(m *slotsMutant)
	}{
		{"ends a batch at the first that is lost", "Slots.Batch", "each is decided by itself", func(m *slotsMutant) {
			m.renew = func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				list, err := m.Slots.Renew(ctx, ttl, leases...)
				for i := 1; i < len(list); i++ {
					if list[i-1].Units == 0 {
						list[i].Units = 0
					}
				}
				return list, err
			}
		}},
		{"renews the first of a batch", "Slots.Batch", "each is decided by itself", func(m *slotsMutant) {
			m.renew = func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				if len(leases) == 0 || len(leases) > engine.MaxBatch {
					return m.Slots.Renew(ctx, ttl, leases...)
				}
				list, err := m.Slots.Renew(ctx, ttl, leases[0])
				return append(list, leases[1:]...), err
			}
		}},
		{"returns a batch in another order", "Slots.Batch", "in its place", func(m *slotsMutant) {
			m.renew = func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				list, err := m.Slots.Renew(ctx, ttl, leases...)
				for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
					list[i], list[j] = list[j], list[i]
				}
				return list, err
			}
		}},
		{"releases the first of a batch", "Slots.Batch", "Acquire of a free slot returned", func(m *slotsMutant) {
			m.release = func(ctx context.Context, leases ...engine.Lease) error {
				return m.Slots.Release(ctx, leases[:min(len(leases), 1)]...)
			}
		}},
		{"takes batches of any size", "Slots.Batch", "more than MaxBatch", func(m *slotsMutant) {
			m.renew = func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				return m.Slots.Renew(ctx, ttl, leases[:min(len(leases), engine.MaxBatch)]...)
			}
		}},
		{"does not ask to yield", "Slots.Wanted", "a holder must learn what others wait for", func(m *slotsMutant) {
			m.renew = func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				list, err := m.Slots.Renew(ctx, ttl, leases...)
				for i := range list {
					list[i].Wanted = 0
				}
				return list, err
			}
		}},
		{"counts claims, not units", "Slots.Wanted", "claims of 1 and 2 units wait", func(m *slotsMutant) {
			m.renew = func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				list, err := m.Slots.Renew(ctx, ttl, leases...)
				for i := range list {
					list[i].Wanted = (list[i].Wanted + 1) / 2
				}
				return list, err
			}
		}},
		{"asks to yield to those who have left", "Slots.Wanted", "have got their slots or left", func(m *slotsMutant) {
			most := map[string]int{}
			m.renew = func(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
				list, err := m.Slots.Renew(ctx, ttl, leases...)
				for i := range list {
					if most[list[i].Key] = max(most[list[i].Key], list[i].Wanted); list[i].Wanted == 0 {
						list[i].Wanted = most[list[i].Key]
					}
				}
				return list, err
			}
		}},
		{"resizes by a new lease", "Slots.Resize", "it changes units alone", func(m *slotsMutant) {
			m.resize = func(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
				if next, err := m.Slots.Resize(ctx, l, units, limit); err != nil {
					return next, err
				}
				if err := m.Slots.Release(ctx, l); err != nil {
					return l, err
				}
				return m.Slots.Acquire(ctx, engine.Claim{Key: l.Key, Holder: l.Holder, Units: units, Limit: limit, TTL: time.Hour})
			}
		}},
		{"grows past who waits", "Slots.Resize", "nobody passes who waits", func(m *slotsMutant) {
			m.resize = func(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
				next, err := m.Slots.Resize(ctx, l, units, limit)
				if errors.Is(err, engine.ErrBusy) && units == 4 {
					return l, nil
				}
				return next, err
			}
		}},
		{"shrinks in its answer alone", "Slots.Resize", "kept 1 of 3 units", func(m *slotsMutant) {
			m.resize = func(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
				if units >= 2 || units < 1 || limit < 1 {
					return m.Slots.Resize(ctx, l, units, limit)
				}
				l.Units = units
				return l, nil
			}
		}},
		{"checks, then grows", "Slots.ResizeStorm", "units were held at once", func(m *slotsMutant) {
			m.resize = func(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
				next, err := m.Slots.Resize(ctx, l, units, limit)
				if errors.Is(err, engine.ErrBusy) && strings.HasSuffix(l.Key, "resizes") {
					l.Units = units
					return l, nil
				}
				return next, err
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

func TestStoreKitCatchesMutantsOfCommits(t *testing.T) {
	one := func(ctx context.Context, s engine.Store, c engine.Change) (rev engine.Revision, err error) {
		switch {
		case c.Check:
			rec, _ := s.Read(ctx, c.Key)
			if rec.Rev != c.Was {
				err = engine.ErrConflict
			}
			return rec.Rev, err
		case c.Erase:
			if err = s.Erase(ctx, c.Key, c.Was); errors.Is(err, engine.ErrAbsent) && (c.Was == 0 || c.Was == engine.AnyRevision) {
				err = nil
			}
			return 0, err
		default:
			return s.Write(ctx, c.Key, c.Was, c.Value, c.TTL)
		}
	}
	for _, c := range []struct {
		name, rule, why string
		mutate          func(m *storeMutant)
	}{
		{"reads numbers as it likes", "Store.Numbers", "no number in its one decimal form", func(m *storeMutant) {
			m.add = func(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (int64, int64, error) {
				if rec, err := m.Store.Read(ctx, key); err == nil && strings.HasPrefix(string(rec.Value), "+") {
					return 6, delta, nil
				}
				return m.Store.Add(ctx, op, key, delta, within, ttl)
			}
		}},
		{"leaves out what is not there", "Store.Fetch", "Fetch of 4 keys returned 3 records", func(m *storeMutant) {
			m.fetch = func(ctx context.Context, keys ...string) (out []engine.Record, err error) {
				list, err := m.Store.Fetch(ctx, keys...)
				for _, rec := range list {
					if rec.Rev != 0 {
						out = append(out, rec)
					}
				}
				return out, err
			}
		}},
		{"fetches one after the other", "Store.CommitTogether", "Fetch returns what was there at one instant", func(m *storeMutant) {
			m.fetch = func(ctx context.Context, keys ...string) (out []engine.Record, err error) {
				for _, key := range keys {
					list, err := m.Store.Fetch(ctx, key)
					if err != nil {
						return nil, err
					}
					out = append(out, list...)
					time.Sleep(time.Microsecond)
				}
				return out, nil
			}
		}},
		{"commits one after the other", "Store.AllOrNothing", "all changes or none", func(m *storeMutant) {
			m.commit = func(ctx context.Context, op engine.OpID, changes ...engine.Change) (revs []engine.Revision, err error) {
				if len(changes) != 3 {
					return m.Store.Commit(ctx, op, changes...)
				}
				for _, c := range changes {
					rev, err := one(ctx, m.Store, c)
					if err != nil {
						return nil, err
					}
					revs = append(revs, rev)
				}
				return revs, nil
			}
		}},
		{"checks, then commits", "Store.CommitTogether", "a change was lost", func(m *storeMutant) {
			m.commit = func(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
				if len(changes) != 2 || op.IsZero() || !strings.Contains(changes[0].Key, "bank/") {
					return m.Store.Commit(ctx, op, changes...)
				}
				for i, c := range changes {
					if rec, _ := m.Store.Read(ctx, c.Key); rec.Rev != c.Was {
						return nil, engine.ErrConflict
					}
					changes[i].Was = engine.AnyRevision
				}
				runtime.Gosched()
				time.Sleep(time.Microsecond)
				return m.Store.Commit(ctx, op, changes...)
			}
		}},
		{"does not check what it does not write", "Store.AllOrNothing", "Commit with a check", func(m *storeMutant) {
			m.commit = func(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
				if len(changes) != 3 {
					return m.Store.Commit(ctx, op, changes...)
				}
				for i, c := range changes {
					if c.Check {
						_, err := m.Store.Commit(ctx, op, append(append([]engine.Change(nil), changes[:i]...), changes[i+1:]...)...)
						return []engine.Revision{1, 2, 3}, err
					}
				}
				return m.Store.Commit(ctx, op, changes...)
			}
		}},
		{"leaves records without their end", "Store.Commit", "its ttl is over", func(m *storeMutant) {
			m.commit = func(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
				for i := range changes {
					if changes[i].TTL > 0 {
						changes[i].TTL *= 2
					}
				}
				return m.Store.Commit(ctx, op, changes...)
			}
		}},
		{"forgets what it committed", "Store.CommitOnce", "Commit of 2 changes, all based on the current revisions, returned", func(m *storeMutant) {
			m.commit = func(ctx context.Context, _ engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
				return m.Store.Commit(ctx, engine.OpID{}, changes...)
			}
		}},
		{"remembers the name alone", "Store.CommitOnce", "Commit with the OpID of another one", func(m *storeMutant) {
			var mu sync.Mutex
			done := map[engine.OpID][]engine.Revision{}
			m.commit = func(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
				mu.Lock()
				defer mu.Unlock()
				if revs := done[op]; revs != nil {
					return revs, nil
				}
				revs, err := m.Store.Commit(ctx, op, changes...)
				if err == nil && !op.IsZero() {
					done[op] = revs
				}
				return revs, err
			}
		}},
		{"remembers what it refused", "Store.CommitOnce", "Commit of 1 changes", func(m *storeMutant) {
			var mu sync.Mutex
			refused := map[engine.OpID]bool{}
			m.commit = func(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
				mu.Lock()
				defer mu.Unlock()
				if refused[op] {
					return nil, engine.ErrConflict
				}
				revs, err := m.Store.Commit(ctx, op, changes...)
				refused[op] = errors.Is(err, engine.ErrConflict)
				return revs, err
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			storeMutantIsCaught(t, c.rule, c.why, c.mutate)
		})
	}
}

func TestStoreKitCatchesMutantsOfCaught(t *testing.T) {
	for _, c := range []struct {
		name, why string
		change    func(rec engine.Record, n int) []engine.Record
	}{
		{"never says it", "did not say Caught", func(rec engine.Record, _ int) []engine.Record {
			if rec.Caught {
				return nil
			}
			return []engine.Record{rec}
		}},
		{"says it at once", "all that was there comes before", func(rec engine.Record, n int) []engine.Record {
			switch {
			case rec.Caught && n > 0:
				return nil
			case n == 0 && !rec.Caught:
				return []engine.Record{{Caught: true}, rec}
			}
			return []engine.Record{rec}
		}},
		{"says it only when there was something", "nobody can tell that nothing is there", func(rec engine.Record, n int) []engine.Record {
			if rec.Caught && n == 0 {
				return nil
			}
			return []engine.Record{rec}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			storeMutantIsCaught(t, "Store.Caught", c.why, func(m *storeMutant) {
				m.follow = changed(m, c.change)
			})
		})
	}
}
