package sluicetest_test

import (
	"testing"
	"testing/synctest"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

func memory(t testing.TB) *engine.Memory {
	t.Helper()
	m, err := engine.NewMemory(engine.MemoryConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

func TestMemoryStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sluicetest.Store(t, memory(t).Store, sluicetest.Options{Exact: true})
	})
}

func TestMemoryQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sluicetest.Quota(t, memory(t).Quota, sluicetest.Options{Exact: true})
	})
}

func TestMemorySlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sluicetest.Slots(t, memory(t).Slots, sluicetest.Options{Exact: true})
	})
}

func TestMemoryPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory(t)
		sluicetest.Publisher(t, func() (engine.Publisher, func() []engine.Event) {
			return m.Events(), func() []engine.Event { events, _ := m.Published(); return events }
		}, sluicetest.Options{Exact: true})
	})
}
