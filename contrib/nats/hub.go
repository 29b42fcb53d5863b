package sluicenats

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/sluice-go/sluice/engine"
)

// hub tells whoever waits of what may concern it: that the connection was cut and is back, and,
// by whoever decided, that a cell is worth a look. What is told while the connection is cut is
// lost, so each time it is back all who wait look for themselves.
type hub struct {
	e    *Engine
	sub  *nats.Subscription
	done chan struct{}

	mu      sync.Mutex
	cut     context.Context // ends when the connection is cut or back
	ended   context.CancelFunc
	waiters map[string]chan struct{} // by their token
}

// hint is the subject by which waiters are told, by their tokens, that a look is worth it.
func (e *Engine) hint() string { return "sluice." + e.conf.Bucket + ".look" }

func (h *hub) open(e *Engine) (err error) {
	h.e, h.done, h.waiters = e, make(chan struct{}), map[string]chan struct{}{}
	h.cut, h.ended = context.WithCancel(context.Background())
	h.sub, err = e.conn.Subscribe(e.hint(), func(m *nats.Msg) { h.look(strings.Fields(string(m.Data))) })
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
	h.ended()
	h.cut, h.ended = context.WithCancel(context.Background())
	for _, w := range h.waiters {
		rouse(w)
	}
}

// next ends when the connection is next cut, or back.
func (h *hub) next() context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cut
}

// brief gives a request no more time than one answer may take, and none when the connection is
// cut: no answer finds its way back then.
func (e *Engine) brief(ctx context.Context, request func(context.Context) error) error {
	if !e.conn.IsConnected() {
		return fmt.Errorf("%w: not connected", engine.ErrRefused)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	reconnects := e.conn.Stats().Reconnects
	defer context.AfterFunc(e.hub.next(), func() {
		// What was sent since it is back concerns nobody.
		if !e.conn.IsConnected() || e.conn.Stats().Reconnects != reconnects {
			cancel()
		}
	})()
	return request(ctx)
}

// look rouses those who wait here of tokens.
func (h *hub) look(tokens []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, token := range tokens {
		if w := h.waiters[token]; w != nil {
			rouse(w)
		}
	}
}

// tell has those who wait of tokens look, at whatever engine they are.
func (h *hub) tell(tokens []string) {
	h.look(tokens)
	for part := range slices.Chunk(tokens, 1000) {
		_ = h.e.conn.Publish(h.e.hint(), []byte(strings.Join(part, " ")))
	}
}

// wait has told roused when a look is worth it, until leave.
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
	_ = h.sub.Unsubscribe()
	<-h.done
}

func rouse(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
