package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Memory is the engine of one process: exact, without I/O, gone with the process. Make
// one with [NewMemory]; the zero value is not usable. It is safe for concurrent use. It
// promises Atomic, EngineClock and Pushes. It has no goroutine of its own; timers end
// records and leases when their time has come, and [Memory.Close] stops them.
type Memory struct {
	limits Limits
	clock  clock // since its data began
	epoch  uint64
	store  memoryStore
	quota  memoryQuota
	slots  memorySlots
	events memoryEvents
}

var _ Engine = (*Memory)(nil)

// MemoryConfig bounds a [Memory]. What does not fit is refused with [ErrFull] and harms
// nothing that is there.
type MemoryConfig struct {
	MaxKeys    int           // records; zero means 100,000
	MaxValue   int           // bytes of one value or payload; zero means 1 MiB
	MaxBytes   int64         // bytes of all keys and values; zero means 256 MiB
	MaxMeters  int           // meters that are not full; zero means 100,000
	MaxSlots   int           // live leases and waiting claims together; zero means 100,000
	MaxEvents  int           // events kept for Published, the oldest give way; zero means 10,000
	OpMemory   time.Duration // how long an OpID, with what it can Settle, or an event's ID is remembered; zero means 2 minutes
	MaxOps     int           // how many OpIDs, and event IDs, are; the oldest are forgotten first; zero means 100,000
	MaxFollows int           // sequences of Follow at once; zero means 1,000
}

func (c *MemoryConfig) normal() error {
	for _, f := range []struct {
		name  string
		value *int
		zero  int
	}{
		{"MaxKeys", &c.MaxKeys, 100_000},
		{"MaxValue", &c.MaxValue, 1 << 20},
		{"MaxMeters", &c.MaxMeters, 100_000},
		{"MaxSlots", &c.MaxSlots, 100_000},
		{"MaxEvents", &c.MaxEvents, 10_000},
		{"MaxOps", &c.MaxOps, 100_000},
		{"MaxFollows", &c.MaxFollows, 1000},
	} {
		if *f.value < 0 || *f.value > 1<<30 {
			return badConfig("MemoryConfig."+f.name, *f.value, "zero (the default) or from 1 to 1<<30")
		}
		if *f.value == 0 {
			*f.value = f.zero
		}
	}
	if c.MaxBytes < 0 {
		return badConfig("MemoryConfig.MaxBytes", c.MaxBytes, "zero (256 MiB) or positive")
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 256 << 20
	}
	if c.OpMemory < 0 || c.OpMemory > MaxWait {
		return badConfig("MemoryConfig.OpMemory", c.OpMemory, "zero (2 minutes) or positive, at most a year")
	}
	if c.OpMemory == 0 {
		c.OpMemory = 2 * time.Minute
	}
	return nil
}

// NewMemory returns an empty engine.
func NewMemory(c MemoryConfig) (*Memory, error) {
	if err := c.normal(); err != nil {
		return nil, err
	}
	m := &Memory{limits: Limits{1, c.OpMemory, c.MaxValue}, clock: newClock(), epoch: rand.Uint64() | 1}
	m.store.open(c)
	m.quota.open(c, m.clock)
	m.slots.open(c, m.clock)
	m.events.open(c)
	return m, nil
}

// Promises is Atomic|EngineClock|Pushes.
func (m *Memory) Promises() Promise { return Atomic | EngineClock | Pushes }

// Limits are a nanosecond, and what its configuration says.
func (m *Memory) Limits() Limits { return m.limits }

// Epoch is of this Memory: another one is another epoch.
func (m *Memory) Epoch(ctx context.Context) (id uint64, age time.Duration, err error) {
	if ctx.Err() != nil {
		return 0, 0, ended(ctx)
	}
	if m.quota.isClosed() {
		return 0, 0, ErrClosed
	}
	return m.epoch, time.Duration(m.clock.now()), nil
}

// Store is the engine's store.
func (m *Memory) Store() Store { return &m.store }

// Quota is the engine's quota.
func (m *Memory) Quota() Quota { return &m.quota }

// Slots are the engine's slots.
func (m *Memory) Slots() Slots { return &m.slots }

// Events is the engine's publisher; [Memory.Published] shows what it stored.
func (m *Memory) Events() Publisher { return &m.events }

// Published returns the events that are kept, in the order they were stored, and how many
// older ones gave way.
func (m *Memory) Published() (events []Event, dropped uint64) { return m.events.published() }

// Close refuses every later call, ends what waits and stops the timers. It always
// returns nil.
func (m *Memory) Close() error {
	return errors.Join(m.store.close(), m.quota.close(), m.slots.close(), m.events.close())
}
