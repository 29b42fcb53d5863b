package engine

import (
	"context"
	"time"
)

// Event is a record of something that happened, ready to be sent.
type Event struct {
	ID      string // unique, the same in every repetition
	CallID  string // events of one call are in the order of Seq
	Seq     uint32
	Type    string
	At      time.Time
	Payload []byte
}

// Publisher stores events.
type Publisher interface {
	// Publish stores events in their order and returns how many of the first it
	// acknowledges: all of them if err is nil, else fewer. The sender repeats the rest;
	// an ID that was stored already is acknowledged and not stored again, for as long as
	// the engine's documentation says. With [ErrPoison] the event at index n will never
	// be accepted. The engine keeps no reference to events or payloads.
	Publish(ctx context.Context, events []Event) (n int, err error)
}
