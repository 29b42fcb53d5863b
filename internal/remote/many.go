package remote

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/internal/kv"
	"github.com/sluice-go/sluice/internal/value"
)

// MaxKeys implements kv.Far.
func (r *Remote) MaxKeys() int { return engine.MaxBatch }

// Fetch implements kv.Far.
func (r *Remote) Fetch(keys []string) ([]kv.Entry, error) {
	list := make([]kv.Entry, len(keys))
	var names []string
	var place []int
	for i, key := range keys {
		list[i].Key = key
		if name, err := r.name(key); err == nil { // else it cannot be there
			names, place = append(names, name), append(place, i)
		}
	}
	at := time.Now()
	recs, err := read(r, func(ctx context.Context) ([]engine.Record, error) {
		recs, err := r.link.Store.Fetch(ctx, names...)
		if err == nil && !slices.EqualFunc(recs, names, func(rec engine.Record, name string) bool { return rec.Key == name }) {
			err = lied("Fetch with other keys")
		}
		return recs, err
	})
	if err != nil {
		return nil, unread(err)
	}
	for i, rec := range recs {
		list[place[i]] = r.entry(rec, at)
	}
	return list, nil
}

// Commit implements kv.Far.
func (r *Remote) Commit(ops []kv.Op) error {
	var changes []engine.Change
	for i := range ops {
		o := &ops[i]
		key := o.Scope.Prefix + o.Key
		name, err := r.name(key)
		if err != nil {
			if o.Kind == kv.Write {
				return err
			}
			continue // it is not there, and cannot be
		}
		c := engine.Change{Key: name, Was: was(o.Cond)}
		switch o.Kind {
		case kv.Check:
			c.Check = true
		case kv.Remove:
			c.Erase = true
		case kv.Write:
			for _, sc := range o.By {
				if sc.Closed() {
					return kv.Closed
				}
			}
			if c.Value, err = r.data(key, o.Value); err != nil {
				return err
			}
			c.TTL = r.life(value.Kept(o.Stored, o.Life))
		}
		changes = append(changes, c)
	}
	_, err := r.commit(changes)
	return err
}

// told is what a pump tells: a record, or that it has ended.
type told struct {
	rec engine.Record
	at  time.Time
	err error
}

// follow has what the engine says of prefix arrive, one after the other, until ctx ends or the engine does; then an error
// does. Who does not receive holds up nobody but the goroutine that asks.
func (r *Remote) follow(ctx context.Context, prefix string) <-chan told {
	news := make(chan told)
	send := func(t told) bool {
		select {
		case news <- t:
			return true
		case <-ctx.Done():
			return false
		}
	}
	of, leave, err := r.link.Enter()
	if err != nil {
		go send(told{err: err})
		return news
	}
	go func() {
		defer leave()
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(of, cancel)()
		err := fmt.Errorf("%w: the engine ended the goroutine", engine.ErrUnsure)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: the engine panicked: %v", engine.ErrUnsure, p)
			}
			send(told{err: err})
		}()
		for rec, failed := range r.link.Store.Follow(inner, r.link.Prefix+prefix) {
			switch {
			case failed != nil:
				err = failed
				return
			case !rec.Caught && !strings.HasPrefix(rec.Key, r.link.Prefix+prefix):
				err = lied("Follow with another key")
				return
			}
			if !send(told{rec: rec, at: time.Now()}) {
				return
			}
		}
		err = fmt.Errorf("%w: Follow has ended", engine.ErrUnsure)
	}()
	return news
}

// List implements kv.Far. The keys are as they were while they were read, before the first is yielded.
func (r *Remote) List(prefix string, yield func(kv.Entry) bool) {
	list, err := r.present(prefix)
	if err != nil {
		yield(kv.Entry{Err: unread(err)})
		return
	}
	for _, e := range list {
		if !yield(e) {
			return
		}
	}
}

// present is what there is under prefix, sorted. It waits for each record as for a trip.
func (r *Remote) present(prefix string) ([]kv.Entry, error) {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	news := r.follow(ctx, prefix)
	there := map[string]kv.Entry{}
	patience := time.NewTimer(r.link.Budget)
	defer patience.Stop()
	for {
		select {
		case t := <-news:
			switch {
			case t.err != nil:
				return nil, t.err
			case t.rec.Caught:
				return sorted(there), nil
			}
			keep(there, r.entry(t.rec, t.at), t.rec.Gone)
			patience.Reset(r.link.Budget)
		case <-patience.C:
			return nil, fmt.Errorf("%w: no answer within %v", engine.ErrUnsure, r.link.Budget)
		case <-r.ctx.Done():
			return nil, engine.ErrClosed
		}
	}
}

func keep(there map[string]kv.Entry, e kv.Entry, gone bool) {
	if gone {
		delete(there, e.Key)
		return
	}
	there[e.Key] = e
}

func sorted(there map[string]kv.Entry) []kv.Entry {
	list := make([]kv.Entry, 0, len(there))
	for _, e := range there {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// watching is what a watch has told.
type watching struct {
	seen map[string]uint64 // of the keys that are there, their versions
}

// Watch implements kv.Far.
func (r *Remote) Watch(ctx context.Context, ended <-chan struct{}, prefix string, yield func(kv.Entry) bool) {
	w := watching{map[string]uint64{}}
	for fails := 1; ; fails++ {
		again, told := r.watch(ctx, ended, prefix, w, yield)
		if !again || ctx.Err() != nil || r.ctx.Err() != nil {
			return
		}
		if told {
			fails = 1
		}
		pause := time.NewTimer(min(maxBackoff<<min(fails, 8), time.Second))
		select {
		case <-pause.C:
		case <-ctx.Done():
		case <-ended:
			pause.Stop()
			return
		case <-r.ctx.Done():
		}
		pause.Stop()
		if _, leave, err := r.link.Enter(); err != nil {
			return
		} else {
			leave()
		}
	}
}

// watch is a Watch until the engine fails: then it is to go on, again.
func (r *Remote) watch(ctx context.Context, ended <-chan struct{}, prefix string, w watching, yield func(kv.Entry) bool) (again, told bool) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	news := r.follow(inner, prefix)
	first := map[string]kv.Entry{} // what is there, until all has been told
	for {
		select {
		case t := <-news:
			switch {
			case t.err != nil:
				return true, told
			case t.rec.Caught && first != nil:
				told = true
				if !w.catchUp(first, yield) {
					return false, true
				}
				first = nil
			case t.rec.Caught:
			case first != nil:
				keep(first, r.entry(t.rec, t.at), t.rec.Gone)
			default:
				if !w.tell(r.entry(t.rec, t.at), t.rec.Gone, yield) {
					return false, true
				}
			}
		case <-ctx.Done():
			return false, told
		case <-ended:
			return false, told
		case <-r.ctx.Done():
			return false, told
		}
	}
}

// catchUp tells how what is there differs from what was told.
func (w watching) catchUp(there map[string]kv.Entry, yield func(kv.Entry) bool) bool {
	list := make(map[string]kv.Entry, len(there))
	for key, e := range there {
		if w.seen[key] != e.Version {
			list[key] = e
			delete(w.seen, key)
		}
	}
	for key, version := range w.seen {
		if _, ok := there[key]; !ok {
			list[key] = kv.Entry{Key: key, Version: version + 1}
		}
	}
	for _, e := range sorted(list) {
		if !w.tell(e, e.Value.Box == nil, yield) {
			return false
		}
	}
	return true
}

// tell tells of e, unless that is known, or older than what is.
func (w watching) tell(e kv.Entry, gone bool, yield func(kv.Entry) bool) bool {
	was, there := w.seen[e.Key]
	switch {
	case gone && !there, !gone && e.Version <= was:
		return true
	case gone:
		delete(w.seen, e.Key)
		return yield(kv.Entry{Key: e.Key, Version: max(e.Version, was+1)})
	}
	w.seen[e.Key] = e.Version
	return yield(e)
}
