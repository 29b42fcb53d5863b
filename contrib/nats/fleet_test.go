package sluicenats_test

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sluicenats "github.com/sluice-go/sluice/contrib/nats"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fleet is four engines, each with a connection of its own, that take turns: what one call does
// the next finds, by the server alone.
type fleet struct {
	engines []*sluicenats.Engine
	turn    atomic.Uint64
}

func newFleet(t *testing.T, addr string, c sluicenats.Config) *fleet {
	f := &fleet{}
	for range 4 {
		f.engines = append(f.engines, open(t, addr, c))
	}
	return f
}

func (f *fleet) next() *sluicenats.Engine {
	return f.engines[f.turn.Add(1)%uint64(len(f.engines))]
}

func (f *fleet) Take(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	return f.next().Quota().Take(ctx, d)
}

func (f *fleet) Settle(ctx context.Context, op engine.OpID, list []engine.Correction) error {
	return f.next().Quota().Settle(ctx, op, list)
}

func (f *fleet) Hold(ctx context.Context, m engine.Meter, d time.Duration) error {
	return f.next().Quota().Hold(ctx, m, d)
}

func (f *fleet) Acquire(ctx context.Context, c engine.Claim) (engine.Lease, error) {
	return f.next().Slots().Acquire(ctx, c)
}

func (f *fleet) Renew(ctx context.Context, ttl time.Duration, l ...engine.Lease) ([]engine.Lease, error) {
	return f.next().Slots().Renew(ctx, ttl, l...)
}

func (f *fleet) Resize(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
	return f.next().Slots().Resize(ctx, l, units, limit)
}

func (f *fleet) Release(ctx context.Context, l ...engine.Lease) error {
	return f.next().Slots().Release(ctx, l...)
}

func (f *fleet) Read(ctx context.Context, key string) (engine.Record, error) {
	return f.next().Store().Read(ctx, key)
}

func (f *fleet) Write(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
	return f.next().Store().Write(ctx, key, was, value, ttl)
}

func (f *fleet) Erase(ctx context.Context, key string, was engine.Revision) error {
	return f.next().Store().Erase(ctx, key, was)
}

func (f *fleet) Fetch(ctx context.Context, keys ...string) ([]engine.Record, error) {
	return f.next().Store().Fetch(ctx, keys...)
}

func (f *fleet) Commit(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
	return f.next().Store().Commit(ctx, op, changes...)
}

func (f *fleet) Add(ctx context.Context, op engine.OpID, key string, delta int64, b *engine.Bound, ttl time.Duration) (total, applied int64, err error) {
	return f.next().Store().Add(ctx, op, key, delta, b, ttl)
}

func (f *fleet) Follow(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
	return f.next().Store().Follow(ctx, prefix)
}

// TestFleet: all that concerns decisions, by four engines that are in each other's way.
func TestFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, start(t).addr(), sluicenats.Config{Bucket: "fleet", Memory: true})
	t.Run("quota", func(t *testing.T) {
		t.Parallel()
		sluicetest.Quota(t, func() engine.Quota { return f }, inTime)
	})
	t.Run("slots", func(t *testing.T) {
		t.Parallel()
		sluicetest.Slots(t, func() engine.Slots { return f }, inTime)
	})
	t.Run("store", func(t *testing.T) {
		t.Parallel()
		sluicetest.Store(t, func() engine.Store { return f }, inTime)
	})
}

// TestSameOperation: an operation that several engines repeat at once takes effect once, and all
// are answered like the first, also those that see half of what it did.
func TestSameOperation(t *testing.T) {
	t.Parallel()
	f := newFleet(t, start(t).addr(), sluicenats.Config{Memory: true})
	for round := range 40 {
		key, op, m := fmt.Sprint(round), engine.NewOpID(), slow(3)
		rev, err := f.Write(bg(t), key, 0, []byte("before"), 0)
		require.NoError(t, err)
		draw := engine.Draw{Op: engine.NewOpID(), Meters: []engine.Meter{m}, Min: 3}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, err := f.Commit(bg(t), op, engine.Change{Key: key, Was: rev, Value: []byte("after")})
				assert.NoError(t, err, "round %d", round)
			})
			wg.Go(func() {
				g, err := f.Take(bg(t), draw)
				assert.NoError(t, err, "round %d", round)
				assert.Equal(t, int64(3), g.Units, "round %d", round)
			})
		}
		wg.Wait()
	}
}
