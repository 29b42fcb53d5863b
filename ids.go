package sluice

import (
	"crypto/rand"
	"encoding/hex"
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

// idBlocks makes ids for calls that came without: unique, and cut from blocks so that one
// allocation serves many.
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
	blockIDs = 64
	idLen    = len("call-") + 12 + 8 // random prefix, counter
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
		b.prefix = randomID("call-")[:len("call-")+12]
	}
	text := make([]byte, 0, blockIDs*idLen)
	for range blockIDs {
		b.made++
		n := b.made
		text = append(text, b.prefix...)
		text = hex.AppendEncode(text, []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	b.block.Store(&idBlock{text: string(text)})
}

func randomID(prefix string) string { return prefix + rand.Text() }
