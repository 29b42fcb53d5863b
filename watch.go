package sluice

import (
	"context"
	"iter"
	"runtime"

	"github.com/sluice-go/sluice/internal/kv"
)

// StateEntry is the state of one key.
type StateEntry struct {
	Key     string
	Value   any    // nil if the key was deleted; json.RawMessage if it was restored and not yet written
	Version uint64 // of a deleted key: above all versions it had
	Lost    int    // of a Watch: changes not delivered since the entry before
}

// List walks the keys that start with prefix in sorted order. Each entry is current when
// it is yielded, but they need not have been there together; for that, take a snapshot.
// A key that is there during the whole walk is yielded once; one that comes or goes
// meanwhile may be. The body of the loop runs without any lock and may use the state.
func (s *SharedState) List(prefix string) iter.Seq[StateEntry] {
	return func(yield func(StateEntry) bool) {
		if s.check("") != nil {
			return
		}
		defer runtime.KeepAlive(s)
		for _, key := range s.store.Keys(s.scope, prefix) {
			v, version := s.store.Get(s.scope, key)
			if version != 0 && !yield(entryOf(kv.Entry{Key: key, Value: v, Version: version}, 0)) {
				return
			}
		}
	}
}

// Watch follows the keys that start with prefix. When the loop begins it yields the
// entries that are there, sorted by key, and then every change, until ctx ends or s is
// closed. The changes of one key come in the order of their versions, none twice, and
// expiry is a change like a deletion, at the instant when the lifetime ends.
//
// Writers never wait for a watch. It buffers 1,024 changes; a reader that falls behind
// by more gets those, and then of each key that has changed since, the latest state
// only, sorted by key. The first entry after such a gap says in Lost how many
// changes were left out. The body of the loop runs without any lock and may use the
// state. A watch remembers the keys it has yielded and not yet seen deleted.
func (s *SharedState) Watch(ctx context.Context, prefix string) iter.Seq[StateEntry] {
	return func(yield func(StateEntry) bool) {
		if s.check("") != nil {
			return
		}
		defer runtime.KeepAlive(s) // a view that is watched is in use
		s.store.Watch(ctx, s.scope, prefix, func(e kv.Entry, lost int) bool { return yield(entryOf(e, lost)) })
	}
}

func entryOf(e kv.Entry, lost int) StateEntry {
	out := StateEntry{Key: e.Key, Version: e.Version, Lost: lost}
	if e.Value.Box != nil {
		out.Value = e.Value.Box.Datum.(datum).load(e.Value.Bits)
	}
	return out
}
