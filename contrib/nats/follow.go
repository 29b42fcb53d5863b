package sluicenats

import (
	"container/heap"
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/sluice-go/sluice/engine"
)

// follower is one Follow, of its own goroutine alone.
type follower struct {
	prefix string
	seen   map[string]engine.Revision
	ends   endHeap
	birth  string // of the data, as far as it is known
	yield  func(engine.Record, error) bool
}

// endOf is when a record ends, by the server's clock: nobody tells of that in time.
type endOf struct {
	at  int64
	key string
	rev engine.Revision
}

type endHeap []endOf

func (h endHeap) Len() int           { return len(h) }
func (h endHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h endHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *endHeap) Push(x any)        { *h = append(*h, x.(endOf)) }
func (h *endHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// again is how long a follower waits before it asks a server that is away once more.
const again = 20 * time.Millisecond

// errEnough says that whoever ranges has had enough.
var errEnough = errors.New("enough")

// Follow has a consumer tell what is there, and then what comes. If the connection is cut, or the
// consumer does not answer, it begins with another one, compares what is there with what it has
// told, and says so by another note. Of what somebody purges from the bucket it learns when it
// next does that, or when somebody asks for the engine's epoch.
func (s store) Follow(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
	return func(yield func(engine.Record, error) bool) {
		if err := s.follow(ctx, prefix, yield); !errors.Is(err, errEnough) {
			yield(engine.Record{}, err)
		}
	}
}

func (s store) follow(ctx context.Context, prefix string, yield func(engine.Record, error) bool) error {
	if len(prefix) > engine.MaxKey {
		return refuse("length of prefix is %d: must be at most %d", len(prefix), engine.MaxKey)
	}
	f := &follower{prefix: prefix, seen: map[string]engine.Revision{}, yield: yield}
	for {
		if err := s.e.enter(ctx); err != nil {
			return err
		}
		cut := s.e.hub.next()
		err := s.session(ctx, f, cut)
		if errors.Is(err, errEnough) {
			return err
		}
		if err := s.e.enter(ctx); err != nil {
			return err
		}
		s.e.pause(ctx, again)
	}
}

// session follows by one consumer, until the connection is cut or something else is wrong.
func (s store) session(parent context.Context, f *follower, cut context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	defer context.AfterFunc(cut, cancel)()
	defer context.AfterFunc(s.e.quit, cancel)()
	var c jetstream.Consumer
	err := s.e.ask(ctx, func(ctx context.Context) (err error) {
		c, err = s.e.stored().CreateConsumer(ctx, jetstream.ConsumerConfig{
			DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy,
			FilterSubjects: []string{s.e.prefix + recordAt + ".>", s.e.at("b", "")},
			MemoryStorage:  true, Replicas: 1, InactiveThreshold: time.Minute,
		})
		return err
	})
	if err != nil {
		return err
	}
	info := c.CachedInfo()
	defer func() {
		brief, cancel := context.WithTimeout(context.Background(), patience/10)
		defer cancel()
		if s.e.conn.IsConnected() {
			_ = s.e.stored().DeleteConsumer(brief, info.Name)
		}
	}()
	messages, err := c.Messages(jetstream.PullHeartbeat(time.Second), jetstream.PullExpiry(30*time.Second))
	if err != nil {
		return err
	}
	defer messages.Stop()

	there := map[string]bool{} // until all that is there was told
	left := info.NumPending
	for n := uint64(1); ; n++ {
		if there != nil && left == 0 {
			if err := f.caught(there); err != nil {
				return err
			}
			there = nil
		}
		m, err := s.next(ctx, f, messages)
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil || meta.Sequence.Consumer != n {
			return errors.New("a message was lost")
		}
		if left > 0 {
			left--
		}
		if meta.NumPending == 0 {
			left = 0
		}
		if m.Subject() == s.e.at("b", "") {
			if was := f.birth; was != "" && was != string(m.Data()) && there == nil {
				f.birth = string(m.Data())
				return errors.New("the data began anew")
			}
			f.birth = string(m.Data())
			continue
		}
		key, ok := s.e.key(recordAt, m.Subject())
		if !ok || !strings.HasPrefix(key, f.prefix) {
			continue
		}
		one := cellOf(m.Subject(), meta.Sequence.Stream, m.Headers(), m.Data())
		if there != nil {
			there[key] = !one.marker
		}
		if err := s.told(ctx, f, key, one); err != nil {
			return err
		}
	}
}

// next is the next message; meanwhile it tells of what ends.
func (s store) next(ctx context.Context, f *follower, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	for {
		wait := time.Hour
		if len(f.ends) > 0 {
			lo, _, err := s.e.now(ctx)
			if err != nil {
				return nil, err
			}
			first := f.ends[0]
			if wait = time.Duration(first.at - lo); wait <= 0 {
				heap.Pop(&f.ends)
				if f.seen[first.key] == first.rev {
					if err := f.tell(engine.Record{Key: first.key, Rev: first.rev, Gone: true}); err != nil {
						return nil, err
					}
				}
				continue
			}
		}
		soon, cancel := context.WithTimeout(ctx, min(wait, time.Hour))
		m, err := messages.Next(jetstream.NextContext(soon))
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return m, err
		}
	}
}

// told hands on what a message says.
func (s store) told(ctx context.Context, f *follower, key string, c cell) error {
	rec := engine.Record{Key: key, Value: c.data, Rev: engine.Revision(c.seq), Gone: c.marker}
	if c.end != 0 {
		lo, hi, err := s.e.now(ctx)
		if err != nil {
			return err
		}
		if rec.Left = time.Duration(max(1, c.end-hi)); lo >= c.end {
			rec.Gone = true
		} else {
			heap.Push(&f.ends, endOf{c.end, key, rec.Rev})
		}
	}
	if rec.Gone {
		rec.Value, rec.Left = nil, 0
	}
	return f.tell(rec)
}

// caught says what is gone of what was told before, and that all that is there has been told.
func (f *follower) caught(there map[string]bool) error {
	for key, rev := range f.seen {
		if !there[key] {
			if err := f.tell(engine.Record{Key: key, Rev: rev, Gone: true}); err != nil {
				return err
			}
		}
	}
	if !f.yield(engine.Record{Caught: true}, nil) {
		return errEnough
	}
	return nil
}

// tell delivers rec unless f knows it already.
func (f *follower) tell(rec engine.Record) error {
	last, known := f.seen[rec.Key]
	switch {
	case rec.Gone && (!known || rec.Rev < last), !rec.Gone && rec.Rev <= last:
		return nil
	case rec.Gone:
		delete(f.seen, rec.Key)
	default:
		f.seen[rec.Key] = rec.Rev
	}
	if !f.yield(rec, nil) {
		return errEnough
	}
	return nil
}
