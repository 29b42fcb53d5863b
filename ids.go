package sluice

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"sync/atomic"
)

// idBlocks makes ids for calls that came without, and never one twice: a counter of 64 bits
// behind a random prefix. They are cut from blocks, so that one allocation serves many.
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
	prefixLen = len("call-") + 12
	idLen     = prefixLen + 16
	blockIDs  = 62 // as many as 2 KiB hold, which the allocator has a size for
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
	var n [8]byte
	for range blockIDs {
		b.made++
		text = append(text, b.prefix...)
		text = hex.AppendEncode(text, binary.BigEndian.AppendUint64(n[:0], b.made))
	}
	b.block.Store(&idBlock{text: string(text)})
}

func randomID(prefix string) string { return prefix + rand.Text() }
