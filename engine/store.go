package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"math/rand/v2"
	"strconv"
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
	// Caught says that this is no record: all that was there has been told; of
	// [Follower.Follow] only.
	Caught bool
}

// Change is what a Commit does to one key: it writes Value, unless Erase or Check is set.
type Change struct {
	Key   string
	Was   Revision      // must be current; zero means that there is no record, AnyRevision that it does not matter
	Value []byte        // in place of what is there; nil is an empty value
	TTL   time.Duration // the record ends after it; zero means never
	Erase bool          // takes away what is there, if anything is
	Check bool          // changes nothing
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

	// Fetch returns the records of keys, at most MaxBatch, as they were at one instant, in the
	// order of keys. Of one that is not there it returns the Key alone, with no Rev. Of no keys
	// nothing is asked.
	Fetch(ctx context.Context, keys ...string) ([]Record, error)

	// Commit makes changes, at most MaxBatch and of different keys, all at one instant, and
	// returns the revision of each key afterwards, zero where there is no record. If the Was of
	// one is not current it changes nothing, no time to expiry either, and returns
	// [ErrConflict]. Of no changes nothing is asked. The engine keeps no reference to values.
	//
	// op names the whole, for its repetition: whoever was left unsure repeats it, and is
	// answered as the first would have been, whatever others have done since. A Commit that was
	// refused is not remembered.
	Commit(ctx context.Context, op OpID, changes ...Change) ([]Revision, error)
}

// Counters are numbers that change without reading them first.
type Counters interface {
	// Add adds to the counter under key as much of delta as within allows, all of it if
	// within is nil, and returns the new total and what it added. A sum outside of int64
	// is refused. A key without a record starts from zero and ends after ttl, zero
	// meaning never; Add leaves the end of one that is there as it is. An Add that adds
	// nothing changes nothing.
	//
	// [Records.Read] shows a counter as a decimal number in its one form: digits without a
	// leading zero, after a minus sign if it is below zero. Adding to any other value is
	// refused.
	Add(ctx context.Context, op OpID, key string, delta int64, within *Bound, ttl time.Duration) (total, applied int64, err error)
}

// Follower tells of changes.
type Follower interface {
	// Follow delivers the current records whose keys begin with prefix, then a note that is
	// Caught, then every latest one: per key in the order of revisions, none twice, what lay
	// between may be merged. An engine that was cut off reads again what is there, and says
	// Caught again. The sequence begins when it is ranged over; an error, its last element, ends
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

// checkChanges is nil, or says what is wrong with them; values may have most bytes.
func checkChanges(changes []Change, most int) error {
	if err := checkBatch("changes", len(changes)); err != nil {
		return err
	}
	seen := make(map[string]bool, len(changes))
	for _, c := range changes {
		if err := checkKey("Change.Key", c.Key); err != nil {
			return err
		}
		if err := checkTTL("Change.TTL", c.TTL); err != nil {
			return err
		}
		switch {
		case seen[c.Key]:
			return invalid("Change.Key", c.Key, "another one in each change")
		case c.Erase && c.Check:
			return invalid("Change.Erase", c.Erase, "false with Check")
		case (c.Erase || c.Check) && (len(c.Value) > 0 || c.TTL != 0):
			return invalid("length of Change.Value and TTL", fmt.Sprintf("%d and %v", len(c.Value), c.TTL), "zero with Erase or Check")
		case c.Check && c.Was == AnyRevision:
			return invalid("Change.Was", "AnyRevision", "a revision with Check")
		case len(c.Value) > most:
			return invalid("length of Change.Value", len(c.Value), fmt.Sprintf("at most %d", most))
		}
		seen[c.Key] = true
	}
	return nil
}

// digest tells lists of changes apart.
func digest(changes []Change) (sum [sha256.Size]byte) {
	var b []byte
	h := sha256.New()
	for _, c := range changes {
		b = binary.AppendUvarint(b[:0], uint64(len(c.Key)))
		b = append(b, c.Key...)
		b = binary.AppendUvarint(b, uint64(c.Was))
		b = binary.AppendUvarint(b, uint64(c.TTL))
		b = fmt.Append(b, c.Erase, c.Check)
		b = binary.AppendUvarint(b, uint64(len(c.Value)))
		h.Write(b)
		h.Write(c.Value)
	}
	h.Sum(sum[:0])
	return sum
}

// number is the int64 that value is in its one decimal form.
func number(value []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == string(value)
}

func checkTTL(field string, ttl time.Duration) error {
	if ttl < 0 || ttl > MaxWait {
		return invalid(field, ttl, "zero (no end) or positive, at most a year")
	}
	return nil
}
