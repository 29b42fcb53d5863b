package kv

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
)

// WatchBuffer is how many changes a watch holds for a reader that is behind. Behind them
// come the latest values alone.
const WatchBuffer = 1024

// watcher is one running watch.
type watcher struct {
	scope  *Scope
	prefix string        // whole
	wake   chan struct{} // holds one
	mu     sync.Mutex
	ended  bool
	events []Entry         // of whole keys, in the order of the writes
	behind bool            // the buffer was full: nothing is buffered until the reader has caught up
	missed [shardCount]int // changes that were not buffered
}

func (w *watcher) push(e Entry) {
	w.mu.Lock()
	switch {
	case w.behind:
		w.missed[e.shard]++
	case len(w.events) == WatchBuffer:
		w.behind = true
		w.missed[e.shard]++
	default:
		w.events = append(w.events, e)
	}
	w.mu.Unlock()
	w.signal()
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.signal()
}

// publishLocked tells the watches of key, and returns the flag with which its entry goes on: it is
// shut while somebody watches. It runs under the mutex of the key's shard, so that changes of a key
// arrive in the order of their versions.
func (s *Store) publishLocked(sh *shard, key string, v Value, version uint64) (flag uint64) {
	for _, w := range *s.watchers.Load() {
		if strings.HasPrefix(key, w.prefix) {
			w.push(Entry{Key: key, Value: v, Version: version, shard: sh.id})
			flag = shut
		}
	}
	return flag
}

func (s *Store) register(w *watcher) {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	list := append(slices.Clone(*s.watchers.Load()), w)
	s.watchers.Store(&list)
}

func (s *Store) unregister(w *watcher) {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	list := slices.DeleteFunc(slices.Clone(*s.watchers.Load()), func(o *watcher) bool { return o == w })
	s.watchers.Store(&list)
}

// endWatches ends the watches within sc.
func (s *Store) endWatches(sc *Scope) {
	for _, w := range *s.watchers.Load() {
		if w.scope.within(sc) {
			w.end()
		}
	}
}

// Watch yields the current entries under prefix and then every change, until ctx or sc
// ends or yield returns false. lost is how many changes were not delivered since the
// last entry. yield runs without any lock.
func (s *Store) Watch(ctx context.Context, sc *Scope, prefix string, yield func(e Entry, lost int) bool) {
	if s.far != nil {
		s.watchFar(ctx, sc, prefix, yield)
		return
	}
	w := &watcher{scope: sc, prefix: sc.Prefix + prefix, wake: make(chan struct{}, 1)}
	s.register(w)
	defer s.unregister(w)
	if sc.Closed() { // closed before the watch was registered, and so not told
		return
	}
	r := &reader{store: s, watcher: w, seen: make(map[string]uint64)}
	batch := r.resync()
	r.owed = 0 // the changes before the first entries are no loss
	for {
		for i := range batch {
			if ctx.Err() != nil || w.isEnded() {
				return
			}
			e := batch[i]
			batch[i] = Entry{}
			r.note(e)
			e.Key = e.Key[len(sc.Prefix):]
			lost := r.owed
			r.owed = 0
			if !yield(e, lost) {
				return
			}
		}
		var done bool
		if batch, done = r.next(ctx, batch); done {
			return
		}
	}
}

func (w *watcher) isEnded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// reader is the reading side of a watch.
type reader struct {
	store   *Store
	watcher *watcher
	seen    map[string]uint64 // the versions of the keys that the reader believes to be there
	owed    int               // losses to be told with the next entry
}

func (r *reader) note(e Entry) {
	if e.Value.Box == nil {
		delete(r.seen, e.Key)
	} else {
		r.seen[e.Key] = e.Version
	}
}

// next waits for entries. It takes over the array of the last batch.
func (r *reader) next(ctx context.Context, spare []Entry) (batch []Entry, done bool) {
	w := r.watcher
	for {
		w.mu.Lock()
		if w.ended {
			w.mu.Unlock()
			return nil, true
		}
		if len(w.events) > 0 {
			if cap(spare) > 2*WatchBuffer { // from a resync
				spare = nil
			}
			batch, w.events = w.events, spare[:0]
			w.mu.Unlock()
			return batch, false
		}
		behind := w.behind
		w.mu.Unlock()
		if behind {
			if batch = r.resync(); len(batch) > 0 {
				return batch, false
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, true
		case <-w.wake:
		}
	}
}

// resync reads the store and returns, sorted by key, what differs from what the reader
// has seen. All buffered changes must have been delivered. It counts what is thereby
// skipped as owed, less the one change that each entry it returns stands for.
func (r *reader) resync() (list []Entry) {
	s, w := r.store, r.watcher
	w.mu.Lock()
	w.behind = false
	w.mu.Unlock()

	gone := make(map[string]bool, len(r.seen)) // seen, and not found
	for k := range r.seen {
		gone[k] = true
	}
	var cut [shardCount]int // how many buffered changes came before the shard was read
	var floors [shardCount]uint64
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		s.sweepLocked(sh, math.MaxInt) // so that no key that is expired looks alive
		for _, e := range sh.matchLocked(w.prefix) {
			v, version, _ := e.hold(s)
			delete(gone, e.key)
			if r.seen[e.key] != version {
				list = append(list, Entry{Key: e.key, Value: v, Version: version})
			}
		}
		floors[i] = sh.floor
		w.mu.Lock()
		cut[i] = len(w.events)
		r.owed += w.missed[i]
		w.missed[i] = 0
		w.mu.Unlock()
		sh.mu.Unlock()
	}
	for k := range gone {
		list = append(list, Entry{Key: k, Version: floors[s.hash(k)>>(64-shardBits)]})
	}
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })

	w.mu.Lock()
	i, old := -1, len(w.events)
	w.events = slices.DeleteFunc(w.events, func(e Entry) bool {
		i++
		return i < cut[e.shard]
	})
	r.owed += old - len(w.events)
	w.mu.Unlock()
	r.owed -= len(list)
	return list
}

// Watches returns how many watches run, for tests.
func (s *Store) Watches() int { return len(*s.watchers.Load()) }
