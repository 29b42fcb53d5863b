package sluice

import (
	"crypto/rand"
	"strconv"
	"sync"
	"sync/atomic"
)

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
