package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCommitsAreAModel: random calls against a plain map, in a store that is nearly full: a
// refused Commit changes nothing, and its bounds count what is there.
func TestCommitsAreAModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range 60 {
		synctest.Test(t, func(t *testing.T) { replayCommits(t, seed, uint64(round)) })
	}
}

func replayCommits(t *testing.T, seed, round uint64) {
	type entry struct {
		value string
		rev   Revision
		end   time.Time
	}
	type named struct {
		op      OpID
		changes []Change
		revs    []Revision
	}
	const maxKeys, maxBytes = 5, 60
	rnd := rand.New(rand.NewPCG(seed, round))
	m := newMemory(t, MemoryConfig{MaxKeys: maxKeys, MaxBytes: maxBytes})
	s, ctx := m.Store(), t.Context()
	model := map[string]entry{}
	var done []named
	keys := make([]string, 8)
	for i := range keys {
		keys[i] = "k" + strconv.Itoa(i)
	}
	full := 0
	for step := range 300 {
		at := fmt.Sprintf("seed %d, round %d, step %d", seed, round, step)
		time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond)
		now := time.Now()
		for key, e := range model {
			if !e.end.IsZero() && !e.end.After(now) {
				delete(model, key)
			}
		}
		if len(done) > 0 && rnd.IntN(6) == 0 {
			x := done[rnd.IntN(len(done))]
			revs, err := s.Commit(ctx, x.op, x.changes...)
			require.NoError(t, err, at)
			require.Equal(t, x.revs, revs, at)
		} else {
			var list []Change
			for _, i := range rnd.Perm(len(keys))[:1+rnd.IntN(5)] {
				c := Change{Key: keys[i], Was: model[keys[i]].rev}
				switch rnd.IntN(12) {
				case 0:
					c.Was += 1000
				case 1, 2:
					c.Was = AnyRevision
				}
				switch kind := rnd.IntN(6); {
				case kind == 0 && c.Was != AnyRevision:
					c.Check = true
				case kind <= 2:
					c.Erase = true
				default:
					c.Value = make([]byte, rnd.IntN(20))
					c.TTL = time.Duration(rnd.IntN(3)) * time.Second
				}
				list = append(list, c)
			}
			next, bytes, conflict := map[string]entry{}, 0, false
			for key, e := range model {
				next[key] = e
			}
			for _, c := range list {
				conflict = conflict || c.Was != AnyRevision && c.Was != model[c.Key].rev
				switch {
				case c.Erase:
					delete(next, c.Key)
				case !c.Check:
					e := entry{value: string(c.Value)}
					if c.TTL > 0 {
						e.end = now.Add(c.TTL)
					}
					next[c.Key] = e
				}
			}
			for key, e := range next {
				bytes += len(key) + len(e.value)
			}
			op := NewOpID()
			revs, err := s.Commit(ctx, op, slices.Clone(list)...)
			switch {
			case conflict:
				require.ErrorIs(t, err, ErrConflict, at)
			case len(next) > max(maxKeys, len(model)) || errors.Is(err, ErrFull):
				require.ErrorIs(t, err, ErrFull, at)
				require.True(t, len(next) > maxKeys || bytes > maxBytes, "%s: refused with %d keys and %d bytes", at, len(next), bytes)
				full++
			default:
				require.NoError(t, err, at)
				require.LessOrEqual(t, bytes, maxBytes, at)
				for i, c := range list {
					if e, ok := next[c.Key]; ok {
						if !c.Check {
							require.Greater(t, revs[i], model[c.Key].rev, at)
						}
						e.rev = revs[i]
						next[c.Key] = e
					} else {
						require.Zero(t, revs[i], at)
					}
				}
				model = next
				done = append(done, named{op, list, revs})
			}
		}
		if len(done) > 50 {
			done = done[1:]
		}
		got, err := s.Fetch(ctx, keys...)
		require.NoError(t, err, at)
		for i, rec := range got {
			e, ok := model[keys[i]]
			require.Equal(t, e.rev, rec.Rev, "%s: %s", at, keys[i])
			require.Equal(t, e.value, string(rec.Value), at)
			if ok && !e.end.IsZero() {
				require.Equal(t, time.Until(e.end), rec.Left, at)
			} else {
				require.Zero(t, rec.Left, at)
			}
		}
	}
	require.Positive(t, full, "the store was never full: seed %d, round %d", seed, round)
}
