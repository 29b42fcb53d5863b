package sluice

import (
	"crypto/rand"
	"strconv"
	"sync"
	"sync/atomic"
)

// CallKey tells a call from every other, whatever ids callers give: no other call of the
// process has it, and no other process writes it. Zero belongs to no call. It is
// comparable, and its text is what the JSON form of an [Event] has.
type CallKey uint64

// String is the key as text; empty for zero.
func (k CallKey) String() string { return string(k.append(nil)) }

// MarshalText is String.
func (k CallKey) MarshalText() ([]byte, error) { return k.append(nil), nil }

func (k CallKey) append(b []byte) []byte {
	if k == 0 {
		return b
	}
	b = append(append(b, processName...), '-')
	return strconv.AppendUint(b, uint64(k), 36)
}

// processName is 65 random bits: what keys of calls say of the process.
var processName = rand.Text()[:13]

var lastCallKey atomic.Uint64

func newCallKey() CallKey { return CallKey(lastCallKey.Add(1)) }

// idBlocks makes ids for calls that came without, and never one twice: a counter of 64 bits
// behind a prefix of 50 random bits, which tells executors apart. They are cut from blocks,
// so that one allocation serves many.
type idBlocks struct {
	mu     sync.Mutex
	prefix string
	made   uint64
	block  atomic.Pointer[idBlock]
}

type idBlock struct {
	text string // blockIDs ids, one behind the other
	used atomic.Int32
}

const (
	prefixLen = len("call-") + 10
	countLen  = 13 // digits to the base 32 of a uint64
	idLen     = prefixLen + countLen
	blockIDs  = 64 // 1,792 bytes, which the allocator has a size for
)

func (b *idBlocks) next() string {
	for {
		k := b.block.Load()
		if k != nil {
			if i := int(k.used.Add(1)) - 1; i < blockIDs {
				return k.text[i*idLen : (i+1)*idLen]
			}
		}
		b.refill(k)
	}
}

func (b *idBlocks) refill(old *idBlock) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.block.Load() != old {
		return
	}
	if b.prefix == "" {
		b.prefix = randomID("call-")[:prefixLen]
	}
	text := make([]byte, 0, blockIDs*idLen)
	const zeros = "0000000000000"
	var n [countLen]byte
	for range blockIDs {
		b.made++
		text = append(text, b.prefix...)
		count := strconv.AppendUint(n[:0], b.made, 32)
		text = append(append(text, zeros[len(count):]...), count...)
	}
	b.block.Store(&idBlock{text: string(text)})
}

func randomID(prefix string) string { return prefix + rand.Text() }
