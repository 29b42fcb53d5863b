// Package ids makes what tells calls, runs and processes apart: keys that count within the
// process, and names with random bits for what leaves it.
//
// Everything is safe for concurrent use. Keys and most ids take no lock; only who finds a block
// of ids used up locks to make the next. Nothing here knows what it names.
package ids

import (
	"crypto/rand"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

var lastKey atomic.Uint64

// NextKey is a number that the process has not had before, from 1.
func NextKey() uint64 { return NextKeys(1) }

// NextKeys is the first of n of them, one after the other.
func NextKeys(n int) uint64 { return lastKey.Add(uint64(n)) - uint64(n) + 1 }

// Keys is where one goroutine takes keys from, which it has for itself some at a time. The zero value is
// ready.
type Keys struct {
	next uint64
	left uint8
}

// keysAtOnce is how many keys a Keys takes.
const keysAtOnce = 64

// Next is a number as NextKey answers.
func (k *Keys) Next() uint64 {
	if k.left == 0 {
		k.next, k.left = NextKeys(keysAtOnce), keysAtOnce
	}
	key := k.next
	k.next++
	k.left--
	return key
}

// process is 65 random bits, which no other process has.
var process = rand.Text()[:13]

// AppendKey appends a key as text that no other process writes: the process, a dash and the key
// to the base 36.
func AppendKey(b []byte, key uint64) []byte {
	b = append(append(b, process...), '-')
	return strconv.AppendUint(b, key, 36)
}

// KeyText is the key as AppendKey writes it; nothing for zero, which is none.
func KeyText(key uint64) []byte {
	if key == 0 {
		return nil
	}
	return AppendKey(nil, key)
}

// Random is the prefix and 130 random bits.
func Random(prefix string) string { return prefix + rand.Text() }

// Calls makes ids for calls that came without, and never one twice: a counter of 64 bits behind
// a prefix of 50 random bits, which tells one Calls from another. Ids are cut from blocks, so
// that one allocation serves many. The zero value is ready to use.
type Calls struct {
	block atomic.Pointer[block]

	mu     sync.Mutex // held by who makes a block
	prefix string
	made   [countLen]byte // how many, to the base 32
}

type block struct {
	text string // blockIDs ids, one behind the other
	used atomic.Int32
}

const (
	prefixLen = len("call-") + 10
	countLen  = 13 // digits to the base 32 of a uint64
	idLen     = prefixLen + countLen
	blockIDs  = 64 // 1,792 bytes, which the allocator has a size for
)

// Next is the next id.
func (c *Calls) Next() string {
	for {
		b := c.block.Load()
		if b != nil {
			if i := int(b.used.Add(1)) - 1; i < blockIDs {
				return b.text[i*idLen : (i+1)*idLen]
			}
		}
		c.refill(b)
	}
}

// refill makes a new block, unless somebody has since the caller found old used up.
func (c *Calls) refill(old *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.block.Load() != old {
		return
	}
	if c.prefix == "" {
		c.prefix = Random("call-")[:prefixLen]
		copy(c.made[:], "0000000000000")
	}
	var text strings.Builder
	text.Grow(blockIDs * idLen)
	for range blockIDs {
		c.count()
		text.WriteString(c.prefix)
		text.Write(c.made[:])
	}
	c.block.Store(&block{text: text.String()})
}

// count adds one to what is made.
func (c *Calls) count() {
	for i := len(c.made) - 1; i >= 0; i-- {
		switch c.made[i] {
		case 'v':
			c.made[i] = '0'
			continue
		case '9':
			c.made[i] = 'a'
		default:
			c.made[i]++
		}
		return
	}
}

// Counter counts: the same program gets the same ids each time. The zero value is ready to use.
type Counter struct{ runs, calls atomic.Uint64 }

// Run is run-1, then run-2, and so on.
func (c *Counter) Run() string { return "run-" + strconv.FormatUint(c.runs.Add(1), 10) }

// Call is call-1, then call-2, and so on.
func (c *Counter) Call() string { return "call-" + strconv.FormatUint(c.calls.Add(1), 10) }
