package kv

import (
	"slices"
	"strings"
	"time"
)

// Entry is one key at one instant. Its key is relative to the scope it was read through.
type Entry struct {
	Key     string
	Value   Value // zero if the key was deleted
	Version uint64
	Left    time.Duration // until it expires; zero means it does not
	Err     error         // of a Far: why there are no more; nothing else is set then

	shard uint8 // of a change
}

// Keys returns the keys of sc that start with prefix, sorted. A key that is there all
// the time is among them; keys that come or go meanwhile may be.
func (s *Store) Keys(sc *Scope, prefix string) (keys []string) {
	full := sc.Prefix + prefix
	for i := range s.shards {
		for e := range s.shards[i].table.Load().under(full) {
			keys = append(keys, e.key[len(sc.Prefix):])
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// List yields the entries of sc that start with prefix, sorted, each as it is then.
func (s *Store) List(sc *Scope, prefix string, yield func(Entry) bool) {
	if s.far != nil {
		s.listFar(sc, prefix, yield)
		return
	}
	for _, key := range s.Keys(sc, prefix) {
		v, version, _ := s.outside(sc).Get(key)
		if version != 0 && !yield(Entry{Key: key, Value: v, Version: version}) {
			return
		}
	}
}

// Snapshot returns the keys under sc as they were together at one instant, sorted, and a
// version that none of the versions given before exceeds.
func (s *Store) Snapshot(sc *Scope) (list []Entry, highest uint64) {
	s.lockAll()
	for i := range s.shards {
		sh := &s.shards[i]
		highest = max(highest, sh.floor)
		for e := range sh.table.Load().entries {
			if !strings.HasPrefix(e.key, sc.Prefix) {
				_, version, _ := e.read(s)
				highest = max(highest, version)
				continue
			}
			v, version, ok := e.hold(s)
			highest = max(highest, version)
			if !ok {
				continue
			}
			n := Entry{Key: e.key[len(sc.Prefix):], Value: v, Version: version}
			if x := e.expires.Load(); x != 0 {
				n.Left = max(time.Duration(x-s.now()), 1)
			}
			list = append(list, n)
		}
	}
	s.unlockAll()
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	return list, highest
}
