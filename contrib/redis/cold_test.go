package sluiceredis_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// TestColdSlots: a server comes back empty, again and again, within the time of a lease, and
// those who hold slots and those who wait for them never use more than there are.
func TestColdSlots(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const limit, ttl = 8, 1200 * time.Millisecond
	s := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
	defer cancel()
	var mu sync.Mutex
	used, most, given := 0, 0, 0
	add := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		used += n
		most = max(most, used)
		given += max(n, 0)
	}
	var group sync.WaitGroup
	for i := range 4 {
		e := open(t, sluiceredis.Config{Client: client(t, s.addr), Prefix: "cold"})
		for j := range 4 {
			rnd := rand.New(rand.NewPCG(seed, uint64(10*i+j)))
			group.Go(func() {
				for ctx.Err() == nil {
					l, err := e.Slots().Acquire(ctx, engine.Claim{Key: "k", Holder: engine.NewOpID().String(), Units: 1 + rnd.IntN(2), Limit: limit, TTL: ttl, MaxWait: ttl, Cold: true})
					if err != nil {
						time.Sleep(20 * time.Millisecond)
						continue
					}
					if l.Left(time.Now()) <= 0 {
						continue
					}
					add(l.Units)
					for n := rnd.IntN(10); n > 0 && ctx.Err() == nil; n-- {
						// A tenth of the lease is kept for waking late on a busy machine.
						left := l.Left(time.Now()) - ttl/10
						if left < ttl/2 {
							short, stop := context.WithTimeout(ctx, left)
							list, err := e.Slots().Renew(short, ttl, l)
							stop()
							if err == nil && list[0].Units > 0 {
								l = list[0]
							} else if err == nil || l.Left(time.Now()) < ttl/5 {
								break
							}
						}
						time.Sleep(max(0, min(ttl/10, l.Left(time.Now())-ttl/10)))
					}
					add(-l.Units)
					short, stop := context.WithTimeout(context.WithoutCancel(ctx), 100*time.Millisecond)
					_ = e.Slots().Release(short, l)
					stop()
				}
			})
		}
	}
	rnd := rand.New(rand.NewPCG(seed, 99))
	for ctx.Err() == nil {
		time.Sleep(time.Duration(1500+rnd.IntN(1500)) * time.Millisecond)
		s.kill()
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		s.run()
	}
	group.Wait()
	t.Logf("%d units given, at most %d used at once", given, most)
	require.LessOrEqual(t, most, limit)
	require.Greater(t, given, limit)
}
