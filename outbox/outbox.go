// Package outbox sends events of calls to an engine, which keeps them for other programs: an audit, a bill, a page of
// what agents do. It is a sink that nobody waits for. What the engine cannot take now waits in the outbox, as far as it
// has room, and is sent once the engine is back.
//
//	box, err := outbox.New(outbox.Config{Publisher: eng.Events()})
//	exec, err := sluice.NewExecutor(registry, sluice.Config{Sink: box})
//	...
//	err = box.Close(ctx) // sends what waits
//
// Each event that [Outbox.Emit] takes is stored at least once, in the order in which they came, so in the order of its
// call. An engine that remembers ids stores it once. What is lost is counted: an event that finds no room, one that the
// engine will never take, and what waits when the process ends.
package outbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
)

// What becomes of an event that an Outbox does not take.
var (
	ErrFull   = errors.New("outbox: event lost: the outbox is full")
	ErrClosed = errors.New("outbox: event lost: the outbox is closed")
)

// Config configures an [Outbox]. Publisher is required.
type Config struct {
	Publisher engine.Publisher

	// Encode makes the payload of an event. It runs in Emit, for which calls wait, and outside locks. nil means the
	// event's own JSON: with arguments and results if the sink is [sluice.WithPayloads] of the outbox.
	Encode func(e *sluice.Event) ([]byte, error)

	MaxEvents int           // that wait; zero means 10,000
	MaxBytes  int           // of their payloads; zero means 16 MiB
	Timeout   time.Duration // of a trip to the engine; zero means 5 s
	_         struct{}
}

const (
	batch      = 128 // events of a trip
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second
	maxRoom    = 1 << 30
)

// Outbox is a sink that stores events at an engine. Make it with [New]; it is safe for concurrent use. It has a goroutine
// while something waits in it.
type Outbox struct {
	conf   Config
	origin string        // in the ids of events outside calls
	others atomic.Uint64 // how many of those there were
	given  context.Context
	giveUp context.CancelFunc
	failed int // trips in a row that got nowhere; the worker's

	mu     sync.Mutex
	queue  []engine.Event // the worker alone takes from it
	ended  chan struct{}  // closed when the worker has ended; nil if there is none
	closed bool
	stats  Stats
}

// Stats is what has become of events. Sent, Lost and Waiting are all that have come.
type Stats struct {
	Sent    uint64 // stored by the engine, as it says
	Lost    uint64 // without room, of no use to the engine, without JSON, or given up by Close
	Waiting int
	Bytes   int   // of the payloads of those
	Err     error // of the latest trip; nil if it was well
}

// New returns an Outbox, or an error that names the wrong field.
func New(c Config) (*Outbox, error) {
	c.MaxEvents, c.MaxBytes, c.Timeout = cmp.Or(c.MaxEvents, 10_000), cmp.Or(c.MaxBytes, 16<<20), cmp.Or(c.Timeout, 5*time.Second)
	switch {
	case c.Publisher == nil:
		return nil, errors.New("outbox: Config.Publisher is nil: must be an engine's Events()")
	case c.MaxEvents < 0 || c.MaxEvents > maxRoom:
		return nil, fmt.Errorf("outbox: Config.MaxEvents is %d: must be zero (10,000) or up to %d", c.MaxEvents, maxRoom)
	case c.MaxBytes < 0 || c.MaxBytes > maxRoom:
		return nil, fmt.Errorf("outbox: Config.MaxBytes is %d: must be zero (16 MiB) or up to %d", c.MaxBytes, maxRoom)
	case c.Timeout < 0:
		return nil, fmt.Errorf("outbox: Config.Timeout is %v: must be zero (5 s) or positive", c.Timeout)
	case c.Encode == nil:
		c.Encode = func(e *sluice.Event) ([]byte, error) { return e.MarshalJSON() }
	}
	o := &Outbox{conf: c, origin: rand.Text()}
	o.given, o.giveUp = context.WithCancel(context.Background())
	return o, nil
}

// String is its name.
func (o *Outbox) String() string { return "outbox" }

// Enabled is true: it takes all events.
func (o *Outbox) Enabled(sluice.EventKind) bool { return true }

// Emit takes an event, and does not wait. An error says that the event is lost: [ErrFull], [ErrClosed], or why it cannot
// be encoded.
func (o *Outbox) Emit(_ context.Context, e *sluice.Event) error {
	v, err := o.encode(e)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err != nil:
	case o.closed:
		err = ErrClosed
	case len(o.queue) == o.conf.MaxEvents || o.stats.Bytes+len(v.Payload) > o.conf.MaxBytes:
		err = ErrFull
	}
	if err != nil {
		o.stats.Lost++
		return err
	}
	o.queue = append(o.queue, v)
	o.stats.Bytes += len(v.Payload)
	if o.ended == nil {
		o.ended = make(chan struct{})
		go o.work()
	}
	return nil
}

// encode is e as the engine takes it. Its id is the same wherever e is sent from, if it is of a call.
func (o *Outbox) encode(e *sluice.Event) (engine.Event, error) {
	v := engine.Event{CallID: e.CallKey.String(), Seq: e.Seq, Type: string(e.Kind), At: e.Time}
	if v.CallID != "" {
		v.ID = v.CallID + "/" + strconv.FormatUint(uint64(e.Seq), 10)
	} else {
		v.ID = o.origin + "/" + strconv.FormatUint(o.others.Add(1), 10)
	}
	var err error
	v.Payload, err = o.conf.Encode(e)
	return v, err
}

// work sends what waits until nothing does, or Close has given up.
func (o *Outbox) work() {
	normal := false
	defer func() {
		if !normal { // the publisher has called Goexit
			o.failed++
			go o.work()
		}
	}()
	for {
		o.rest()
		list := o.next()
		if list == nil {
			break
		}
		if n, err := o.publish(list); o.settle(len(list), n, err) {
			o.failed = 0
		} else {
			o.failed++
		}
	}
	normal = true
}

// rest waits before a trip is repeated, for longer each time.
func (o *Outbox) rest() {
	if o.failed == 0 {
		return
	}
	d := float64(firstPause) * math.Pow(2, float64(min(o.failed, 10)-1))
	t := time.NewTimer(time.Duration(min(d, float64(maxPause)) * (0.8 + 0.4*mathrand.Float64())))
	defer t.Stop()
	select {
	case <-t.C:
	case <-o.given.Done():
	}
}

// next is what is sent next. If it is nil the worker ends.
func (o *Outbox) next() []engine.Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 || o.given.Err() != nil {
		close(o.ended)
		o.ended = nil
		return nil
	}
	n := min(batch, len(o.queue))
	return o.queue[:n:n]
}

// publish makes a trip. It runs code that is not ours.
func (o *Outbox) publish(list []engine.Event) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, fmt.Errorf("outbox: the publisher panicked: %v", v)
		}
	}()
	ctx, cancel := context.WithTimeout(o.given, o.conf.Timeout)
	defer cancel()
	return o.conf.Publisher.Publish(ctx, list)
}

var errNothing = errors.New("outbox: the publisher has taken nothing, and answered no error")

// settle takes out what became of the first of those that wait, and reports whether anything did.
func (o *Outbox) settle(of, n int, err error) bool {
	n = max(0, min(n, of))
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.given.Err() != nil { // all are counted
		return false
	}
	o.stats.Sent += uint64(n)
	switch {
	case errors.Is(err, engine.ErrPoison) && n < of:
		o.stats.Lost++
		n++
	case n == of:
		err = nil
	case err == nil && n == 0:
		err = errNothing
	}
	o.stats.Err = err
	for _, v := range o.queue[:n] {
		o.stats.Bytes -= len(v.Payload)
	}
	clear(o.queue[:n])
	if o.queue = o.queue[n:]; len(o.queue) == 0 {
		o.queue = nil
	}
	return n > 0
}

// Stats is what has become of events up to now.
func (o *Outbox) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stats
	s.Waiting = len(o.queue)
	return s
}

// Close takes no more events, and waits until those that wait are sent. If ctx ends before, the rest is lost, and the
// error says how many that are. Close may be called again; a trip that does not end with its context runs on.
func (o *Outbox) Close(ctx context.Context) error {
	o.mu.Lock()
	o.closed = true
	ended := o.ended
	o.mu.Unlock()
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.queue)
	o.giveUp()
	o.stats.Lost += uint64(n)
	o.queue, o.stats.Bytes = nil, 0
	if n == 0 {
		return nil
	}
	return fmt.Errorf("outbox: Close: %d events are lost: %w", n, context.Cause(ctx))
}
