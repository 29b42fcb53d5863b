package engine

import (
	"context"
	"encoding/hex"
	"iter"
	"math/rand/v2"
	"time"
	"unicode/utf8"
)

// MaxKey is the longest key in bytes that every engine accepts.
const MaxKey = 512

// Revision counts the writes of a key. Zero means that there is no record. It grows with
// every write of the key and never comes again, not after Erase or expiry either; other
// keys' revisions say nothing about it.
type Revision uint64

// AnyRevision stands for whatever revision is current: a [Records.Write] with it replaces
// what is there, or writes the first record; an Erase takes away what is there.
const AnyRevision = ^Revision(0)

// OpID names one change, so that a repetition of it takes effect once and is answered
// like the first. An engine remembers it for a limited time that its documentation
// states. The zero OpID is no name: nothing is remembered.
type OpID [16]byte

// NewOpID returns a random id.
func NewOpID() OpID {
	var id OpID
	a, b := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		id[i], id[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	return id
}

// IsZero reports whether id is no name.
func (id OpID) IsZero() bool { return id == OpID{} }

// other is a second name made of id, none if id is none.
func (id OpID) other() OpID {
	if !id.IsZero() {
		id[0] ^= 0x80
		id[15] ^= 0x80
	}
	return id
}

// String is id in hexadecimal digits.
func (id OpID) String() string { return hex.EncodeToString(id[:]) }

// Record is what a store holds under a key. Whoever receives one owns its Value.
type Record struct {
	Key   string
	Value []byte
	Rev   Revision
	Left  time.Duration // until it expires, when the engine answered; zero means that it does not
	// Gone says that the key was erased or has expired; of [Follower.Follow] only. Rev is
	// then at least that of the last record.
	Gone bool
}

// Bound limits a counter: [Counters.Add] never moves it beyond. A counter that already is
// outside is not moved further out. Floor must not exceed Ceil.
type Bound struct{ Floor, Ceil int64 }

// Store holds small shared values.
type Store interface {
	Records
	Counters
	Follower
}

// Records are values that change by compare and swap.
type Records interface {
	// Read returns the record of key, or [ErrAbsent].
	Read(ctx context.Context, key string) (Record, error)

	// Write puts value in place of the record with revision was, zero meaning that there is
	// none, [AnyRevision] that it does not matter, and returns the new revision. If another
	// revision is current, it changes
	// nothing, not the time to expiry either, and returns [ErrConflict]. The record ends
	// after ttl; zero means never. The engine keeps no reference to value.
	Write(ctx context.Context, key string, was Revision, value []byte, ttl time.Duration) (Revision, error)

	// Erase removes the record with revision was, or with any if that is [AnyRevision].
	// Without a record it returns [ErrAbsent], with another revision [ErrConflict].
	Erase(ctx context.Context, key string, was Revision) error
}

// Counters are numbers that change without reading them first.
type Counters interface {
	// Add adds to the counter under key as much of delta as within allows, all of it if
	// within is nil, and returns the new total and what it added. A sum outside of int64
	// is refused. A key without a record starts from zero and ends after ttl, zero
	// meaning never; Add leaves the end of one that is there as it is. An Add that adds
	// nothing changes nothing.
	//
	// [Records.Read] shows a counter as a decimal number. Adding to a value that is none
	// is refused.
	Add(ctx context.Context, op OpID, key string, delta int64, within *Bound, ttl time.Duration) (total, applied int64, err error)
}

// Follower tells of changes.
type Follower interface {
	// Follow delivers the current records whose keys begin with prefix, then every latest
	// one: per key in the order of revisions, none twice, what lay between may be
	// merged. The sequence begins when it is ranged over; an error, its last element, ends
	// it: the context's, [ErrClosed], [ErrLost] after which the caller follows anew, or
	// the engine's. Writers do not wait for whoever follows.
	Follow(ctx context.Context, prefix string) iter.Seq2[Record, error]
}

func checkKey(field, key string) error {
	switch {
	case key == "":
		return invalid(field, key, "a non-empty string")
	case len(key) > MaxKey:
		return invalid("length of "+field, len(key), "at most 512 bytes")
	case !utf8.ValidString(key):
		return invalid(field, key, "valid UTF-8")
	}
	return nil
}

func checkTTL(field string, ttl time.Duration) error {
	if ttl < 0 || ttl > MaxWait {
		return invalid(field, ttl, "zero (no end) or positive, at most a year")
	}
	return nil
}
