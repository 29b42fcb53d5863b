package sluicenats_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	sluicenats "github.com/sluice-go/sluice/contrib/nats"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// BenchmarkTake: engines that take one unit each of one meter, as fast as they can.
func BenchmarkTake(b *testing.B) {
	for _, n := range []int{1, 4, 16} {
		b.Run(fmt.Sprint("engines=", n), func(b *testing.B) {
			s := start(b)
			d := engine.Draw{Meters: []engine.Meter{{Key: "m", N: 1 << 20, Per: time.Second}}}
			together(b, s, n, func(e *sluicenats.Engine) error {
				_, err := e.Quota().Take(b.Context(), d)
				return err
			})
		})
	}
}

// BenchmarkNamedTake is one Take with an OpID: a batch of two.
func BenchmarkNamedTake(b *testing.B) {
	d := engine.Draw{Meters: []engine.Meter{{Key: "m", N: 1 << 20, Per: time.Second}}}
	together(b, start(b), 1, func(e *sluicenats.Engine) error {
		d.Op = engine.NewOpID()
		_, err := e.Quota().Take(b.Context(), d)
		return err
	})
}

// BenchmarkAcquire: engines that acquire and release one of as many slots.
func BenchmarkAcquire(b *testing.B) {
	for _, n := range []int{1, 4} {
		b.Run(fmt.Sprint("engines=", n), func(b *testing.B) {
			together(b, start(b), n, func(e *sluicenats.Engine) error {
				l, err := e.Slots().Acquire(b.Context(), engine.Claim{Key: "k", Holder: engine.NewOpID().String(), Limit: n, TTL: time.Minute})
				if err != nil {
					return err
				}
				return e.Slots().Release(b.Context(), l)
			})
		})
	}
}

// BenchmarkWrite is one write to a key that others do not write.
func BenchmarkWrite(b *testing.B) {
	together(b, start(b), 1, func(e *sluicenats.Engine) error {
		_, err := e.Store().Write(b.Context(), "k", engine.AnyRevision, []byte("value"), 0)
		return err
	})
}

// BenchmarkPublish is one batch of 100 events of 200 bytes.
func BenchmarkPublish(b *testing.B) {
	payload := make([]byte, 200)
	together(b, start(b), 1, func(e *sluicenats.Engine) error {
		var list []engine.Event
		for range 100 {
			list = append(list, engine.Event{ID: engine.NewOpID().String(), Payload: payload})
		}
		_, err := e.Events().Publish(b.Context(), list)
		return err
	})
}

// together has n engines do it, b.N times in all.
func together(b *testing.B, s *child, n int, do func(e *sluicenats.Engine) error) {
	var list []*sluicenats.Engine
	for range n {
		e := open(b, s.addr(), sluicenats.Config{Memory: true})
		require.NoError(b, do(e))
		list = append(list, e)
	}
	var wg sync.WaitGroup
	b.ResetTimer()
	for i, e := range list {
		wg.Go(func() {
			for range (b.N + i) / n {
				if err := do(e); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
