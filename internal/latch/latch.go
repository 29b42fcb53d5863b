// Package latch lets calls take from what a lock guards without that lock, while it is open.
//
// A [Latch] stands for one counter: slots, tokens, or the state of a breaker. Whoever holds the lock
// opens it with what the counter says, and shuts it before reading or changing the counter: Shut
// answers what calls have made of it, and from then on it stands still. In between, calls take from
// the latches of all that they need, by [Set.Take], and give back by [Set.Give].
//
//   - Who may change what. An open latch is changed by calls, by compare and swap, and a shut one by
//     the holder of the lock alone.
//   - All agree at one instant. A call goes from latch to latch. What it has got so far is in doubt,
//     which the word counts, and Shut does not return before nobody is in doubt there: so all that a
//     call has got stays as it was while it asks for the rest. A breaker, which has nothing to take,
//     is read first, and again when all else is had. At that instant all agree.
//   - Nobody is refused for what another did not keep. A call that does not get all gives back what
//     it has got while that is in doubt still. It needs no lock for that, so Shut waits for no more
//     than a few instructions of another goroutine. Tokens come last, since one of them cannot be
//     given back once others have taken of the same bucket: it is lost if a breaker changes, or a
//     second bucket runs empty, in just that time.
//   - Nobody is let in by old terms. What a word is read by changes only while it is shut, and who is
//     in doubt looks whether it is what it was before.
//
// The word:
//
//	Slots    used (32 bits) | in doubt (31) | shut
//	Tokens   instant at which the bucket is full, by its terms (51) | in doubt (12) | shut
//	Breaker  generation (32) | 0 (31) | shut
package latch

import (
	"runtime"
	"sync/atomic"
)

// Kind is what a latch stands for.
type Kind uint8

const (
	Slots Kind = iota
	Tokens
	Breaker
)

const (
	shut    uint64 = 1
	inDoubt uint64 = 2

	oneSlot    = 1 << 32
	slotDoubts = oneSlot - inDoubt

	oneUnit     = 1 << 13
	tokenDoubts = oneUnit - inDoubt
)

// MostSlots and MostUnits bound what a word can say.
const (
	MostSlots = 1 << 31
	MostUnits = 1 << 50
)

// Latch is one counter. It fills a cache line. Make it with [New], shut.
type Latch struct {
	word  atomic.Uint64
	room  atomic.Int64          // Slots: the limit; written while the latch is shut
	terms atomic.Pointer[Terms] // Tokens; likewise
	kind  Kind
	_     [64 - 4*8]byte
}

// Terms is what a bucket's word is read by. It never changes.
type Terms struct {
	Base       int64  // the instant from which units count
	Until      int64  // no call takes later: no sum exceeds MostUnits
	Scale, One int64  // units to the nanosecond, and to the token
	Span       int64  // how far from full the bucket may be
	Edition    uint32 // tells them from those before, from 1
}

// New returns a latch that is shut.
func New(k Kind) *Latch {
	l := &Latch{kind: k}
	l.word.Store(shut)
	return l
}

// OpenSlots opens a latch of slots.
func (l *Latch) OpenSlots(used, limit int64) {
	l.room.Store(min(limit, MostSlots))
	l.word.Store(uint64(used) * oneSlot)
}

// OpenTokens opens the latch of a bucket that is full so many units after the base of x.
func (l *Latch) OpenTokens(full int64, x *Terms) {
	l.terms.Store(x)
	l.word.Store(uint64(full) * oneUnit)
}

// OpenBreaker opens the latch of a breaker that lets every call start.
func (l *Latch) OpenBreaker(generation uint32) { l.word.Store(uint64(generation) << 32) }

// Terms is what the latch of a bucket was opened with last; nil before.
func (l *Latch) Terms() *Terms { return l.terms.Load() }

// Shut shuts an open latch, and answers what it says: slots in use, or when a bucket is full.
func (l *Latch) Shut() int64 {
	doubts, one := slotDoubts, uint64(oneSlot)
	if l.kind == Tokens {
		doubts, one = tokenDoubts, oneUnit
	}
	w := l.word.Or(shut) | shut
	for w&doubts != 0 {
		runtime.Gosched()
		w = l.word.Load()
	}
	return int64(w / one)
}

// MaxRates and MaxBreakers bound how many of these a [Set] may have.
const (
	MaxRates    = 2
	MaxBreakers = 2
)

// Pass is what a call has got by Take, and what it gives back by.
type Pass struct {
	Full        [MaxRates]int64     // when its buckets were to be full then
	Editions    [MaxRates]uint32    // of the terms for that
	Generations [MaxBreakers]uint32 // of its breakers
}

// Set is the latches of all that a call needs: breakers first, then slots, then tokens.
type Set []*Latch

// Take takes one of everything, at the instant now, and writes into p what it got. If it answers no
// it has taken nothing. That may have any reason: whoever holds the lock can say more.
func (s Set) Take(now int64, p *Pass) bool {
	rates, breakers := 0, 0
	var was [MaxRates]int64 // what Full was before
	for i, l := range s {
		w := l.word.Load()
		switch {
		case w&shut != 0:
		case l.kind == Slots:
			if l.takeSlot(w) {
				continue
			}
		case l.kind == Breaker:
			p.Generations[breakers] = uint32(w >> 32)
			breakers++
			continue
		case i+1 < len(s) && s[i+1].kind == Tokens && !s[i+1].hasToken(now):
		case l.takeToken(w, now, p, rates, &was):
			rates++
			continue
		}
		s[:i].untake(p, &was)
		return false
	}
	for i := range breakers {
		if s[i].word.Load() != uint64(p.Generations[i])<<32 {
			s.untake(p, &was)
			return false
		}
	}
	for _, l := range s[breakers:] {
		l.word.Add(^(inDoubt - 1))
	}
	return true
}

// takeSlot takes a slot, which is in doubt; w is what the word was.
func (l *Latch) takeSlot(w uint64) bool {
	for {
		room := l.room.Load()
		if w&shut != 0 || int64(w>>32) >= room || w&slotDoubts == slotDoubts {
			return false
		}
		if l.word.CompareAndSwap(w, w+oneSlot+inDoubt) {
			if l.room.Load() == room {
				return true
			}
			l.untakeSlot()
			return false
		}
		w = l.word.Load()
	}
}

func (l *Latch) untakeSlot() { l.word.Add(^(oneSlot + inDoubt - 1)) }

// hasToken reports whether there is a token.
func (l *Latch) hasToken(now int64) bool {
	w := l.word.Load()
	if w&shut != 0 {
		return false
	}
	x := l.terms.Load()
	from := max(0, now-x.Base) * x.Scale
	return now <= x.Until && max(int64(w/oneUnit), from)+x.One-from <= x.Span
}

// takeToken takes a token, which is in doubt, as the n-th rate of a call.
func (l *Latch) takeToken(w uint64, now int64, p *Pass, n int, was *[MaxRates]int64) bool {
	for {
		x := l.terms.Load()
		if w&shut != 0 || now > x.Until || w&tokenDoubts == tokenDoubts {
			return false
		}
		from := max(0, now-x.Base) * x.Scale
		full := max(int64(w/oneUnit), from) + x.One
		if full-from > x.Span {
			return false
		}
		if l.word.CompareAndSwap(w, uint64(full)*oneUnit|w&tokenDoubts+inDoubt) {
			p.Full[n], p.Editions[n], was[n] = full, x.Edition, int64(w/oneUnit)
			if l.terms.Load() == x {
				return true
			}
			l.untakeToken(full, was[n])
			return false
		}
		w = l.word.Load()
	}
}

// untakeToken gives back a token with which the bucket was to be full at full, and without at was. It
// is lost if others have taken since: what they would have got without it nobody knows.
func (l *Latch) untakeToken(full, was int64) {
	for {
		w := l.word.Load()
		back := w / oneUnit
		if back == uint64(full) {
			back = uint64(was)
		}
		if l.word.CompareAndSwap(w, back*oneUnit|w%oneUnit-inDoubt) {
			return
		}
	}
}

// untake gives back what is in doubt.
func (s Set) untake(p *Pass, was *[MaxRates]int64) {
	rates := 0
	for _, l := range s {
		switch l.kind {
		case Slots:
			l.untakeSlot()
		case Tokens:
			l.untakeToken(p.Full[rates], was[rates])
			rates++
		}
	}
}

// Give gives back the slots of a call that took and that succeeded. It answers how many of s it got
// through: len(s), unless one is shut, or of a breaker that has something to remember of the
// success. Of that and the rest whoever holds the lock must be told.
func (s Set) Give(p *Pass) int {
	breakers := 0
	for i, l := range s {
		switch l.kind {
		case Breaker:
			if l.word.Load() != uint64(p.Generations[breakers])<<32 {
				return i
			}
			breakers++
		case Tokens: // which stay taken
			if l.word.Load()&shut != 0 {
				return i
			}
		case Slots:
			w := l.word.Load()
			for w&shut == 0 && !l.word.CompareAndSwap(w, w-oneSlot) {
				w = l.word.Load()
			}
			if w&shut != 0 {
				return i
			}
		}
	}
	return len(s)
}
