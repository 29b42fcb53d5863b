package cow

import (
	"sync"
	"sync/atomic"
)

// Map is values by name, for many readers, who take no lock, and few writers, who take turns. The zero
// value is empty; it must not be copied.
type Map[V any] struct {
	mu    sync.Mutex                  // held by writers
	now   atomic.Pointer[Snapshot[V]] // nil before the first change
	empty Snapshot[V]                 // what there is until then
}

// Snapshot is a [Map] as it was at one time. It never changes.
type Snapshot[V any] struct {
	All  map[string]*V
	Seq  uint64 // of the map's snapshots; that without a number was empty
	Name string // of the one value that was another, or not there, in the one before
}

// Now is the latest snapshot: the same one until the next change.
func (m *Map[V]) Now() *Snapshot[V] {
	if s := m.now.Load(); s != nil {
		return s
	}
	return &m.empty
}

// Change asks f, whose turn it is among the writers, what is to have that name in place of was, which
// may be nil. If f fails, or answers nil or was itself, nothing changes.
func (m *Map[V]) Change(name string, f func(was *V) (*V, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.Now()
	was := old.All[name]
	v, err := f(was)
	if err == nil && v != nil && v != was {
		m.now.Store(&Snapshot[V]{With(old.All, name, v), old.Seq + 1, name})
	}
	return err
}

// Remove takes out what has that name, and reports whether there was something.
func (m *Map[V]) Remove(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.Now()
	if old.All[name] == nil {
		return false
	}
	m.now.Store(&Snapshot[V]{Without(old.All, name), old.Seq + 1, name})
	return true
}
