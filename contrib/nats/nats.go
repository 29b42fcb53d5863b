package sluicenats

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/sluice-go/sluice/engine"
)

// Config configures an [Engine]. JetStream is required, all else has a default.
type Config struct {
	// JetStream reaches the servers. It and its connection stay the caller's, who closes it
	// after the Engine. The connection must have been made with nats.ReconnectBufSize(-1): what
	// a client keeps while it is cut off it sends later, when nobody expects it any more.
	JetStream jetstream.JetStream
	// Bucket is the name of the key-value bucket that has all but the events: engines of one
	// Bucket share everything, others nothing. Empty means "sluice".
	Bucket string
	// Replicas and Memory are how the bucket, and the stream of events, are made if they are not
	// there: on how many servers, zero meaning 1, and whether in memory alone.
	Replicas  int
	Memory    bool
	OpMemory  time.Duration // how long an OpID, or an event's ID, is remembered; zero means 2 minutes
	MaxValue  int           // bytes of one value or payload; zero means 256 KiB
	MaxEvents int64         // events kept in the stream; zero means 100,000
}

// Engine is an engine on NATS JetStream. Make one with [New]; the zero value is not usable. It
// is safe for concurrent use. A call asks the server some times, each for at most five seconds
// and no longer than its context allows; Acquire and Follow wait for what they wait for. All
// waits end with their context, and with Close. It has one goroutine, and one subscription, from
// New until Close.
type Engine struct {
	conf   Config
	js     jetstream.JetStream
	conn   *nats.Conn
	prefix string // of all subjects of the bucket
	clock  clock
	locks  locks
	hub    hub
	quit   context.Context
	stop   context.CancelFunc

	mu     sync.Mutex
	bucket jetstream.Stream
}

var _ engine.Engine = (*Engine)(nil)

// patience is how long one answer of the server is waited for.
const patience = 5 * time.Second

// New returns an engine on what c.JetStream reaches, and makes the bucket and the stream that it
// needs if they are not there, until ctx ends. Close the Engine before the connection.
func New(ctx context.Context, c Config) (*Engine, error) {
	if err := c.normal(); err != nil {
		return nil, err
	}
	e := &Engine{conf: c, js: c.JetStream, conn: c.JetStream.Conn(), prefix: "$KV." + c.Bucket + "."}
	e.quit, e.stop = context.WithCancel(context.Background())
	if err := e.make(ctx); err != nil {
		e.stop()
		return nil, err
	}
	if err := e.hub.open(e); err != nil {
		e.stop()
		return nil, fmt.Errorf("sluicenats: %w", err)
	}
	return e, nil
}

var names = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

func (c *Config) normal() error {
	if c.JetStream == nil {
		return errors.New("sluicenats: Config.JetStream is nil: must be a client")
	}
	bad := func(field string, value any, allowed string) error {
		return fmt.Errorf("sluicenats: Config.%s is %v: must be %s", field, value, allowed)
	}
	if c.Bucket == "" {
		c.Bucket = "sluice"
	}
	conn := c.JetStream.Conn()
	room := int(min(conn.MaxPayload(), 64<<20)) - 4096 // for headers
	switch {
	case conn.Opts.ReconnectBufSize >= 0:
		return bad("JetStream's ReconnectBufSize", conn.Opts.ReconnectBufSize, "-1, by nats.ReconnectBufSize(-1)")
	case !names.MatchString(c.Bucket):
		return bad("Bucket", fmt.Sprintf("%q", c.Bucket), "empty (sluice) or 1 to 64 letters, digits, _ and -")
	case c.Replicas < 0 || c.Replicas > 5:
		return bad("Replicas", c.Replicas, "zero (1) or from 1 to 5")
	case c.OpMemory < 0 || c.OpMemory > engine.MaxWait || c.OpMemory > 0 && c.OpMemory < time.Second:
		return bad("OpMemory", c.OpMemory, "zero (2 minutes) or from 1s to a year")
	case c.MaxValue < 0 || c.MaxValue > room:
		return bad("MaxValue", c.MaxValue, fmt.Sprintf("zero (256 KiB) or from 1 to %d, by the server's max_payload", room))
	case c.MaxEvents < 0:
		return bad("MaxEvents", c.MaxEvents, "zero (100,000) or positive")
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.OpMemory == 0 {
		c.OpMemory = 2 * time.Minute
	}
	if c.MaxValue == 0 {
		c.MaxValue = min(256<<10, room)
	}
	if c.MaxEvents == 0 {
		c.MaxEvents = 100_000
	}
	return nil
}

// make has the bucket and the stream made if they are not there.
func (e *Engine) make(ctx context.Context) error {
	storage := jetstream.FileStorage
	if e.conf.Memory {
		storage = jetstream.MemoryStorage
	}
	bucket, err := e.stream(ctx, jetstream.StreamConfig{
		Name: "KV_" + e.conf.Bucket, Subjects: []string{e.prefix + ">"}, Storage: storage, Replicas: e.conf.Replicas,
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, AllowMsgTTL: true, AllowAtomicPublish: true,
		// Reads that other servers than the leader answer would be of the past.
		AllowDirect: e.conf.Replicas == 1,
		// Revisions grow over those of a bucket that was lost.
		FirstSeq: uint64(time.Now().UnixMicro()),
	})
	if err != nil {
		return err
	}
	switch c := bucket.CachedInfo().Config; {
	case !c.AllowAtomicPublish || !c.AllowMsgTTL || c.MaxMsgsPerSubject != 1 || c.Discard != jetstream.DiscardNew:
		return fmt.Errorf("sluicenats: the bucket %q was made by others: must have allow_atomic, allow_msg_ttl, a history of 1, and discard new", e.conf.Bucket)
	case c.Replicas > 1 && c.AllowDirect:
		return fmt.Errorf("sluicenats: the bucket %q has %d replicas and allow_direct: reads would be of the past", e.conf.Bucket, c.Replicas)
	}
	_, err = e.stream(ctx, jetstream.StreamConfig{
		Name: e.Stream(), Subjects: []string{e.subject()}, Storage: storage, Replicas: e.conf.Replicas,
		MaxMsgs: e.conf.MaxEvents, Duplicates: e.conf.OpMemory, AllowAtomicPublish: true, AllowDirect: true,
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.bucket = bucket
	e.mu.Unlock()
	return nil
}

// stream is the stream of that name, made as c says if there is none.
func (e *Engine) stream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	for {
		s, err := e.tryStream(ctx, c)
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded): // else a cluster that elects a leader forgets requests
			return nil, fmt.Errorf("sluicenats: stream %s: %w", c.Name, err)
		}
	}
}

func (e *Engine) tryStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := e.js.Stream(ctx, c.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = e.js.CreateStream(ctx, c)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody else was quicker
			s, err = e.js.Stream(ctx, c.Name)
		}
	}
	return s, err
}

func (e *Engine) stored() jetstream.Stream {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bucket
}

// Promises are Atomic, Pushes, and FencedForever as long as no clock of a server that begins
// anew is behind by more than that took. Survives is promised unless Config.Memory is set: of a
// server that ends. How much one loses that loses its power is in its sync_interval. EngineClock
// is not: this process says what time the server has, see the package's documentation.
func (e *Engine) Promises() engine.Promise {
	p := engine.Atomic | engine.FencedForever | engine.Pushes
	if !e.conf.Memory {
		p |= engine.Survives
	}
	return p
}

// Limits are ten milliseconds, and what the Config says.
func (e *Engine) Limits() engine.Limits {
	return engine.Limits{MinTTL: 10 * time.Millisecond, OpMemory: e.conf.OpMemory, MaxValue: e.conf.MaxValue}
}

// Store is the engine's store.
func (e *Engine) Store() engine.Store { return store{e} }

// Quota is the engine's quota, for small fleets: see the package's documentation.
func (e *Engine) Quota() engine.Quota { return quota{e} }

// Slots are the engine's slots, for small fleets: see the package's documentation.
func (e *Engine) Slots() engine.Slots { return slots{e} }

// Events is the engine's publisher, into the stream that [Engine.Stream] says.
func (e *Engine) Events() engine.Publisher { return events{e} }

// Stream is the name of the stream that has the events, for whoever consumes it. A message has
// an event's payload, and in its headers Nats-Msg-Id, Sluice-Call, Sluice-Seq, Sluice-Type and
// Sluice-At (RFC 3339); what a header cannot have is escaped as in the path of a URL.
func (e *Engine) Stream() string { return "SLUICE_" + e.conf.Bucket }

func (e *Engine) subject() string { return "sluice." + e.conf.Bucket + ".events" }

// Close refuses every later call, ends every wait, and returns when the engine's goroutine has
// ended. Calls that the server is deciding end as their context says. It always returns nil. The
// connection stays open.
func (e *Engine) Close() error {
	e.stop()
	e.hub.close()
	return nil
}

// enter refuses what comes too late.
func (e *Engine) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", engine.ErrRefused, context.Cause(ctx))
	}
	if e.quit.Err() != nil {
		return engine.ErrClosed
	}
	return nil
}
