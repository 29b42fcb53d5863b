package sluicenats

import (
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// hub tells whoever waits of what may concern it: that the connection was cut and is back, and,
// by whoever decided, that a cell is worth a look. What is told while the connection is cut is
// lost, so each time it is back all who wait look for themselves.
type hub struct {
	e    *Engine
	sub  *nats.Subscription
	done chan struct{}

	mu      sync.Mutex
	cut     chan struct{} // closed when the connection is cut or back
	waiters map[string]map[chan struct{}]bool
}

// hint begins the subjects by which cells are said to be worth a look.
func (e *Engine) hint() string { return "sluice." + e.conf.Bucket + ".look." }

func (h *hub) open(e *Engine) (err error) {
	h.e, h.cut, h.done, h.waiters = e, make(chan struct{}), make(chan struct{}), map[string]map[chan struct{}]bool{}
	h.sub, err = e.conn.Subscribe(e.hint()+">", func(m *nats.Msg) {
		h.look(e.prefix + strings.TrimPrefix(m.Subject, e.hint()))
	})
	if err != nil {
		return err
	}
	status := e.conn.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	go func() {
		defer close(h.done)
		defer e.conn.RemoveStatusListener(status)
		for {
			select {
			case _, ok := <-status:
				if !ok {
					<-e.quit.Done()
					return
				}
				h.changed()
			case <-e.quit.Done():
				return
			}
		}
	}()
	return nil
}

// changed is what happens when the connection has been cut, or is back: the server may be
// another one, with another clock.
func (h *hub) changed() {
	h.e.clock.forget()
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.cut)
	h.cut = make(chan struct{})
	for _, list := range h.waiters {
		for w := range list {
			rouse(w)
		}
	}
}

// next is closed when the connection is next cut, or back.
func (h *hub) next() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cut
}

// look rouses who waits for the cell of subject.
func (h *hub) look(subject string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.waiters[subject] {
		rouse(w)
	}
}

// tell has the waiters of all engines look at the cell of subject.
func (h *hub) tell(subject string) {
	_ = h.e.conn.Publish(h.e.hint()+strings.TrimPrefix(subject, h.e.prefix), nil)
}

// wait has told roused when the cell of subject is worth a look, until leave.
func (h *hub) wait(subject string) (told chan struct{}, leave func()) {
	told = make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiters[subject] == nil {
		h.waiters[subject] = map[chan struct{}]bool{}
	}
	h.waiters[subject][told] = true
	return told, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(h.waiters[subject], told); len(h.waiters[subject]) == 0 {
			delete(h.waiters, subject)
		}
	}
}

func (h *hub) close() {
	_ = h.sub.Unsubscribe()
	<-h.done
}

func rouse(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
