package sluiceredis

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/rueidis"
	"github.com/sluice-go/sluice/engine"
)

// Config configures an [Engine]. Client is required, all else has a default.
type Config struct {
	// Client reaches the server: one, a Sentinel's primary or a cluster. It stays the
	// caller's, who closes it after the Engine. Whatever it takes to reach the server, TLS,
	// users, addresses, is in its rueidis.ClientOption.
	Client rueidis.Client
	// Prefix begins all keys, in braces, so that a cluster has them in one slot: engines of
	// one Prefix share everything, others nothing. Empty means "sluice".
	Prefix    string
	OpMemory  time.Duration // how long an OpID, or an event's ID, is remembered; zero means 2 minutes
	MaxValue  int           // bytes of one value or payload; zero means 1 MiB
	MaxEvents int64         // events kept in the stream, about; zero means 100,000
	// NoEviction states that the server does not evict keys when its memory is full
	// (maxmemory-policy noeviction). Without it New asks the server, and fails if it evicts
	// or does not say. With it New does not ask.
	NoEviction bool
}

// Engine is an engine on Redis or Valkey. Make one with [New]; the zero value is not usable.
// It is safe for concurrent use. Calls wait for the server as long as their context allows,
// and Acquire and Follow for what they wait for; all waits end with their context, and with
// Close. It has one goroutine, and one connection for what is pushed, from the first Follow
// or the first Acquire that may wait until Close.
type Engine struct {
	conf   Config
	client rueidis.Client
	id     string
	memory string // OpMemory in microseconds, as scripts are told
	quit   context.Context
	stop   context.CancelFunc
	hub    *hub
}

var _ engine.Engine = (*Engine)(nil)

// New returns an engine on what c.Client reaches. It asks every node of it whether it evicts
// keys, unless c.NoEviction says so, until ctx ends. Close the Engine before the client.
func New(ctx context.Context, c Config) (*Engine, error) {
	if err := c.normal(); err != nil {
		return nil, err
	}
	if !c.NoEviction {
		if err := checkPolicy(ctx, c.Client); err != nil {
			return nil, err
		}
	}
	var id [8]byte
	_, _ = rand.Read(id[:])
	e := &Engine{conf: c, client: c.Client, id: hex.EncodeToString(id[:]), memory: itoa(micros(c.OpMemory))}
	e.quit, e.stop = context.WithCancel(context.Background())
	e.hub = newHub(e)
	return e, nil
}

func (c *Config) normal() error {
	if c.Client == nil {
		return errors.New("sluiceredis: Config.Client is nil: must be a client")
	}
	if c.Prefix == "" {
		c.Prefix = "sluice"
	}
	bad := func(field string, value any, allowed string) error {
		return fmt.Errorf("sluiceredis: Config.%s is %v: must be %s", field, value, allowed)
	}
	switch {
	case len(c.Prefix) > 128 || !utf8.ValidString(c.Prefix) || strings.ContainsAny(c.Prefix, "{}"):
		return bad("Prefix", fmt.Sprintf("%q", c.Prefix), "empty (sluice) or at most 128 bytes of UTF-8 without braces")
	case c.OpMemory < 0 || c.OpMemory > engine.MaxWait || c.OpMemory > 0 && c.OpMemory < time.Second:
		return bad("OpMemory", c.OpMemory, "zero (2 minutes) or from 1s to a year")
	case c.MaxValue < 0 || c.MaxValue > 64<<20:
		return bad("MaxValue", c.MaxValue, "zero (1 MiB) or from 1 to 64 MiB")
	case c.MaxEvents < 0:
		return bad("MaxEvents", c.MaxEvents, "zero (100,000) or positive")
	}
	if c.OpMemory == 0 {
		c.OpMemory = 2 * time.Minute
	}
	if c.MaxValue == 0 {
		c.MaxValue = 1 << 20
	}
	if c.MaxEvents == 0 {
		c.MaxEvents = 100_000
	}
	return nil
}

// Promises are Atomic, EngineClock, Pushes, and FencedForever as long as the clock of a
// server that takes over is not behind by more than that took. Survives is the server's
// affair: one that persists every write before it answers would.
func (e *Engine) Promises() engine.Promise {
	return engine.Atomic | engine.EngineClock | engine.FencedForever | engine.Pushes
}

// Limits are a millisecond, and what the Config says.
func (e *Engine) Limits() engine.Limits {
	return engine.Limits{MinTTL: time.Millisecond, OpMemory: e.conf.OpMemory, MaxValue: e.conf.MaxValue}
}

// Epoch is of the keys under Prefix: it begins when somebody first asks for it, or for a
// cold meter, and ends with the loss of these keys. A server that has lost some of its
// writes, as a replica that took over may have, does not know, and is in the same epoch.
func (e *Engine) Epoch(ctx context.Context) (id uint64, age time.Duration, err error) {
	if err := e.enter(ctx); err != nil {
		return 0, 0, err
	}
	out, err := e.exec(ctx, epochScript, []string{e.key("b", "")}, nil).AsIntSlice()
	if err != nil {
		return 0, 0, outcome(err)
	}
	if len(out) != 2 || out[0] <= 0 || out[1] < 0 {
		return 0, 0, fmt.Errorf("%w: the script answered %v", engine.ErrUnsure, out)
	}
	return uint64(out[0]), duration(out[1]), nil
}

// Store is the engine's store.
func (e *Engine) Store() engine.Store { return store{e} }

// Quota is the engine's quota.
func (e *Engine) Quota() engine.Quota { return quota{e} }

// Slots are the engine's slots.
func (e *Engine) Slots() engine.Slots { return slots{e} }

// Events is the engine's publisher, into the stream under the key that [Engine.Stream] says.
func (e *Engine) Events() engine.Publisher { return events{e} }

// Stream is the key of the stream that has the events, for whoever reads it. Each entry has
// the fields id, call, seq, type, at (RFC 3339) and payload.
func (e *Engine) Stream() string { return e.key("e", "") }

// Close refuses every later call, ends every wait, and returns when the engine's goroutine
// has ended. Calls that the server is deciding end as their context says. It always returns
// nil. The client stays open.
func (e *Engine) Close() error {
	e.stop()
	e.hub.close()
	return nil
}

// key is the name on the server of what is of one kind and called key.
func (e *Engine) key(kind, key string) string {
	if key == "" {
		return "{" + e.conf.Prefix + "}:" + kind
	}
	return "{" + e.conf.Prefix + "}:" + kind + ":" + key
}

func (e *Engine) exec(ctx context.Context, s *rueidis.Lua, keys, args []string) rueidis.RedisResult {
	return s.Exec(ctx, e.client, keys, args)
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
