package sluiceredis

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
	"github.com/sluice-go/sluice/engine"
)

// hub is the one subscription of an engine: which slots were handed to its waiters, and
// which records have changed. What is told while it is cut is lost, so each time it is up
// again all who wait look for themselves.
type hub struct {
	e *Engine

	mu        sync.Mutex
	started   bool
	closed    bool
	up        chan struct{}            // closed while subscribed
	waiters   map[string]chan struct{} // by their token; room for one
	followers map[*follower]struct{}
	done      chan struct{} // closed when run has ended
}

// pause is how long the hub waits before it subscribes again.
const pause = 20 * time.Millisecond

func newHub(e *Engine) *hub {
	return &hub{e: e, up: make(chan struct{}), waiters: map[string]chan struct{}{}, followers: map[*follower]struct{}{}, done: make(chan struct{})}
}

// ready waits until changes are told.
func (h *hub) ready(ctx context.Context) error {
	h.mu.Lock()
	if !h.started && !h.closed {
		h.started = true
		go h.run()
	}
	up := h.up
	h.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", engine.ErrRefused, context.Cause(ctx))
	case <-h.e.quit.Done():
		return engine.ErrClosed
	}
}

// run keeps the subscription until the engine is closed.
func (h *hub) run() {
	defer close(h.done)
	for h.e.quit.Err() == nil {
		h.subscribe()
		h.mu.Lock()
		select {
		case <-h.up:
			h.up = make(chan struct{})
		default:
		}
		h.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-h.e.quit.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// subscribe returns when the connection is lost.
func (h *hub) subscribe() {
	conn, release := h.e.client.Dedicate()
	defer release()
	confirmed := 0
	lost := conn.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: h.message,
		OnSubscription: func(s rueidis.PubSubSubscription) {
			if s.Kind == "subscribe" {
				if confirmed++; confirmed == 2 {
					h.subscribed()
				}
			}
		},
	})
	ctx, cancel := context.WithTimeout(h.e.quit, 2*time.Second)
	err := conn.Do(ctx, conn.B().Subscribe().Channel(h.e.changes(), h.e.mine()).Build()).Error()
	cancel()
	if err != nil {
		return
	}
	select {
	case <-lost:
	case <-h.e.quit.Done():
	}
}

// changes is the channel that tells of records, mine the one that tells this engine of slots.
func (e *Engine) changes() string { return e.key("c", "changes") }
func (e *Engine) mine() string    { return e.key("c", e.id) }

func (h *hub) subscribed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.up)
	for f := range h.followers {
		f.again = true
		rouse(f.wake)
	}
	for _, w := range h.waiters {
		rouse(w)
	}
}

func (h *hub) message(m rueidis.PubSubMessage) {
	if m.Channel == h.e.mine() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if w := h.waiters[m.Message]; w != nil {
			rouse(w)
		}
		return
	}
	rec, ok := parseChange(m.Message)
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.followers {
		if strings.HasPrefix(rec.Key, f.prefix) {
			f.push(rec)
		}
	}
}

// wait has token told what is handed to it, until leave.
func (h *hub) wait(token string) (told chan struct{}, leave func()) {
	told = make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiters[token] = told
	return told, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.waiters, token)
	}
}

func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	started := h.started
	h.mu.Unlock()
	if started {
		<-h.done
	}
}

func rouse(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
