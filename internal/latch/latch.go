// Package latch lets calls take from what a lock guards without that lock, while it is open.
//
// A [Latch] stands for one counter: slots, tokens, or the state of a breaker. Whoever holds the lock
// opens it with what the counter says, and shuts it before reading or changing the counter: Shut
// answers what calls have made of it, and from then on it stands still. In between, calls take from
// the latches of all that they need, by [Set.Take], and give back by [Set.Give].
//
//   - Who may change what. An open latch is changed by calls, by compare and swap, and a shut one by
//     the holder of the lock alone.
//   - Nobody is refused for what another did not keep. A call goes from latch to latch. What it has
//     got so far is in doubt, which the word counts, and Shut does not return before nobody is in
//     doubt there. A call that does not get all gives back what it has got while that is in doubt
//     still. It needs no lock for that, so Shut waits for no more than a few instructions of another
//     goroutine. One of the latches may be the [Set]'s Last: it is taken from when all else is had,
//     and what is had there is kept, so it is never in doubt.
//   - All agree at one instant: that of the last swap. What has been taken before is in doubt then, so
//     it is as it was. A breaker has nothing to take. It is read, and lets calls start at that instant
//     as it did when it was read, because whoever changes a breaker shuts every latch before anybody
//     can know of the change. Before a call reads a breaker, it has read that Last is open, or is in
//     doubt at other slots. If in doubt, it has got all, or nothing, before these are shut. And if
//     Last is shut before the last swap, that fails, also if it is open again: the word counts how
//     often it has been opened.
//   - Nobody is let in by old terms. What a word is read by changes only while it is shut. That of
//     slots is not what it was then, and who is in doubt at tokens looks whether the terms are.
//   - A breaker that is shut may say until when it refuses every call. That was so at the instant at
//     which a call has read it, and the holder of the lock takes it back before anything changes.
//   - Open slots may say that they refuse calls while they are full. The instant is that at which a
//     call has read that they are, and that nobody is in doubt there. It has read them before as well,
//     and breakers in between: so these let it start then, as by Last. Who refuses is said before the
//     latch is opened, and changes only while every latch is shut.
//   - Tokens come after slots that are in doubt, since one of them cannot always be given back once
//     others have taken of the same bucket. It is lost if Last is shut or runs full, or a second
//     bucket runs empty, in just that time.
//
// The word:
//
//	Slots    used (32 bits) | how often it has been opened (22) | in doubt (9) | shut
//	Tokens   instant at which the bucket is full, by its terms (51) | in doubt (12) | shut
//	Breaker  generation (32) | successes since it was opened, if they count (31) | shut
package latch

import (
	"math"
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
	oneOpening = 1 << 10
	openings   = oneSlot - oneOpening
	slotDoubts = oneOpening - inDoubt

	oneUnit     = 1 << 13
	tokenDoubts = oneUnit - inDoubt

	oneSuccess = 1 << 1
	successes  = 1<<32 - oneSuccess
)

// Never is the instant that does not come.
const Never int64 = math.MaxInt64

// MostSlots and MostUnits bound what a word can say.
const (
	MostSlots = 1 << 31
	MostUnits = 1 << 50
)

// Latch is one counter. It fills a cache line. Make it with [New], shut.
type Latch struct {
	word  atomic.Uint64
	room  atomic.Int64          // Slots: the limit; Breaker: see OpenBreaker; written while the latch is shut
	terms atomic.Pointer[Terms] // Tokens; likewise
	kind  Kind

	refusal atomic.Pointer[Refusal] // of a Breaker, while it is shut; of others, while they refuse; else nil; see also Forget
	_       [64 - 5*8]byte
}

// Refusal is that a breaker refuses every call before an instant, or that slots do while they are full, or
// that tokens may. It never changes.
type Refusal struct {
	Until int64  // Breaker; else Never
	Limit int64  // Slots; zero if whoever holds the lock has to say whether they refuse
	By    string // what it is called
	Cause error  // what is behind the refusal; nil for nothing
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
	l.word.Store(uint64(used)*oneSlot | (l.word.Load()+oneOpening)&openings)
}

// OpenTokens opens the latch of a bucket that is full so many units after the base of x.
func (l *Latch) OpenTokens(full int64, x *Terms) {
	l.terms.Store(x)
	l.word.Store(uint64(full) * oneUnit)
}

// OpenBreaker opens the latch of a breaker that lets every call start. It counts successes before the
// instant until, and takes none later, unless that is Never: then it counts none.
func (l *Latch) OpenBreaker(generation uint32, until int64) {
	l.room.Store(until)
	l.word.Store(uint64(generation) << 32)
}

// Refuse has a latch, which is shut, say x, or nothing if that is nil.
func (l *Latch) Refuse(x *Refusal) { l.refusal.Store(x) }

// Forget is called when the latch, which is shut, will never be opened again.
func (l *Latch) Forget() { l.refusal.Store(forgotten) }

// IsForgotten reports whether it was.
func (l *Latch) IsForgotten() bool { return l.refusal.Load() == forgotten }

// forgotten is before every instant.
var forgotten = &Refusal{Until: math.MinInt64}

// Terms is what the latch of a bucket was opened with last; nil before.
func (l *Latch) Terms() *Terms { return l.terms.Load() }

// Shut shuts an open latch, and answers what it says: slots in use, when a bucket is full, or how many
// successes a breaker has counted.
func (l *Latch) Shut() int64 {
	w := l.word.Or(shut) | shut
	doubts, one := slotDoubts, uint64(oneSlot)
	switch l.kind {
	case Tokens:
		doubts, one = tokenDoubts, oneUnit
	case Breaker:
		return int64(w & successes / oneSuccess)
	}
	for w&doubts != 0 {
		runtime.Gosched()
		w = l.word.Load()
	}
	return int64(w / one)
}

// Samples is how long calls took that have gone without the lock, until whoever holds it takes that: how
// many they were, in the low bits of the word, and the sum. The zero value is ready.
type Samples struct{ word atomic.Uint64 }

const (
	oneSample   = 1 << 7
	mostSamples = oneSample - 1
	longest     = 1 << 49 // six days; so many samples fit
)

// Add adds one.
func (s *Samples) Add(d int64) {
	for {
		w := s.word.Load()
		n, sum := w%oneSample, w/oneSample
		if n == mostSamples { // what half of them say is known well enough
			n, sum = n/2, sum/n*(n/2)
		}
		if s.word.CompareAndSwap(w, (sum+uint64(min(d, longest)))*oneSample+n+1) {
			return
		}
	}
}

// Take takes them all, and answers how many there were, and their mean.
func (s *Samples) Take() (n int, mean int64) {
	if s.word.Load() == 0 {
		return 0, 0
	}
	w := s.word.Swap(0)
	return int(w % oneSample), int64(w / oneSample / (w % oneSample))
}

// keep ends that what a call has taken is in doubt.
func (l *Latch) keep() { l.word.Add(^(inDoubt - 1)) }

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

// Set is the latches of all that a call needs, in the order in which it takes from them. One with
// Breakers has Slots, or Last.
type Set struct {
	Breakers, Slots, Tokens []*Latch
	Last                    *Latch   // slots that are not in doubt; nil for none
	Asked                   []*Latch // all that may refuse but Breakers, in the order in which a call is refused
}

// Take takes one of everything, at the instant now, and writes into p what it got. If it answers no
// it has taken nothing. That may have any reason: whoever holds the lock can say more.
func (s *Set) Take(now int64, p *Pass) bool {
	last, since := s.Last, uint64(0)
	if last != nil {
		if since = last.word.Load(); !last.hasSlot(since) || !s.agree(p) {
			return false
		}
	}
	for i, l := range s.Slots {
		if !l.takeSlot() {
			untakeSlots(s.Slots[:i])
			return false
		}
	}
	if last == nil && !s.agree(p) || !s.takeRest(now, since, p) {
		untakeSlots(s.Slots)
		return false
	}
	for _, l := range s.Slots {
		l.keep()
	}
	for _, l := range s.Tokens {
		l.keep()
	}
	return true
}

// MayTake reports whether Take would take at the instant now, if nobody else came.
func (s *Set) MayTake(now int64) bool {
	for _, l := range s.Breakers {
		if l.word.Load()&shut != 0 {
			return false
		}
	}
	for _, l := range s.Slots {
		if !l.hasSlot(l.word.Load()) {
			return false
		}
	}
	for _, l := range s.Tokens {
		if !l.hasToken(now) {
			return false
		}
	}
	return s.Last == nil || s.Last.hasSlot(s.Last.word.Load())
}

// takeRest takes the tokens, which are in doubt, and of Last, if that has been open since its word was as
// it is told. If it answers no it has taken nothing.
func (s *Set) takeRest(now int64, since uint64, p *Pass) bool {
	var was [MaxRates]int64
	n := 0
	if len(s.Tokens) < 2 || s.Tokens[1].hasToken(now) {
		for n < len(s.Tokens) && s.Tokens[n].takeToken(now, p, n, &was) {
			n++
		}
	}
	if n == len(s.Tokens) && (s.Last == nil || s.Last.takeLast(since)) {
		return true
	}
	for n > 0 {
		n--
		s.Tokens[n].untakeToken(p.Full[n], was[n])
	}
	return false
}

// Refusal is how a breaker refuses a call at the instant now, which is present: the first that does not
// let it start. It is nil if whoever holds the lock has to say that.
func (s *Set) Refusal(now int64) *Refusal {
	if len(s.Breakers) == 0 {
		return nil
	}
	if x := s.Breakers[0].refusal.Load(); x != nil && now < x.Until {
		return x // as most are that refuse
	}
	var words [MaxBreakers]uint64
	for i, l := range s.Breakers {
		if x := l.refusal.Load(); x != nil && now < x.Until {
			for j, before := range s.Breakers[:i] { // those before it let the call start, when it was read
				if (before.word.Load()^words[j])&^successes != 0 {
					return nil
				}
			}
			return x
		}
		if words[i] = l.word.Load(); words[i]&shut != 0 {
			return nil
		}
	}
	return nil
}

// Full is how slots refuse a call that takes one of each of all that is Asked, where every breaker lets it
// start: the first that refuse calls, if they are full. It is nil if whoever holds the lock has to say that.
func (s *Set) Full() *Refusal {
	for _, l := range s.Asked {
		if l.refusal.Load() == nil {
			continue
		}
		since := l.word.Load()
		x := l.refusal.Load() // what it has said since then
		if !x.isFull(since) {
			return nil
		}
		for _, b := range s.Breakers {
			if b.word.Load()&shut != 0 {
				return nil
			}
		}
		if w := l.word.Load(); !x.isFull(w) || (w^since)&openings != 0 {
			return nil
		}
		return x
	}
	return nil
}

// isFull reports whether the slots that say x are open and full, if their word is w, and nobody is in doubt.
func (x *Refusal) isFull(w uint64) bool {
	return x != nil && x.Limit > 0 && w&(shut|slotDoubts) == 0 && int64(w>>32) >= x.Limit
}

// agree reports whether the breakers let a call start, and writes their generations into p.
func (s *Set) agree(p *Pass) bool {
	for i, l := range s.Breakers {
		w := l.word.Load()
		if w&shut != 0 {
			return false
		}
		p.Generations[i] = uint32(w >> 32)
	}
	return true
}

// hasSlot reports whether there is a slot, if the word is w.
func (l *Latch) hasSlot(w uint64) bool { return w&shut == 0 && int64(w>>32) < l.room.Load() }

// takeSlot takes a slot, which is in doubt.
func (l *Latch) takeSlot() bool {
	for {
		w := l.word.Load()
		if !l.hasSlot(w) || w&slotDoubts == slotDoubts {
			return false
		}
		if l.word.CompareAndSwap(w, w+oneSlot+inDoubt) {
			return true
		}
	}
}

// takeLast takes a slot for good, if the latch has been open since the word was that, when there was one.
func (l *Latch) takeLast(since uint64) bool {
	for w := since; ; {
		if l.word.CompareAndSwap(w, w+oneSlot) {
			return true
		}
		if w = l.word.Load(); !l.hasSlot(w) || (w^since)&openings != 0 {
			return false
		}
	}
}

func untakeSlots(list []*Latch) {
	for _, l := range list {
		l.word.Add(^(oneSlot + inDoubt - 1))
	}
}

// hasToken reports whether there is a token.
func (l *Latch) hasToken(now int64) bool {
	w := l.word.Load()
	if w&shut != 0 {
		return false
	}
	_, ok := l.terms.Load().pays(w, now)
	return ok
}

// pays reports whether there is a token at the instant now, if the word is w, and answers when the
// bucket is full once that is taken.
func (x *Terms) pays(w uint64, now int64) (full int64, ok bool) {
	from := max(0, now-x.Base) * x.Scale
	full = max(int64(w/oneUnit), from) + x.One
	return full, now <= x.Until && full-from <= x.Span
}

// takeToken takes a token, which is in doubt, as the n-th rate of a call, and writes into was when the
// bucket was to be full without that.
func (l *Latch) takeToken(now int64, p *Pass, n int, was *[MaxRates]int64) bool {
	for {
		w, x := l.word.Load(), l.terms.Load()
		if w&shut != 0 || w&tokenDoubts == tokenDoubts {
			return false
		}
		full, ok := x.pays(w, now)
		if !ok {
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

// giveSlot gives back a slot, unless the latch is shut.
func (l *Latch) giveSlot() bool {
	for {
		w := l.word.Load()
		if w&shut != 0 {
			return false
		}
		if l.word.CompareAndSwap(w, w-oneSlot) {
			return true
		}
	}
}

// succeeds notes the success of a call that a breaker of that generation has let start, if it is open, and
// of that generation still, and counts on at the instant now.
func (l *Latch) succeeds(generation uint32, now int64) bool {
	for {
		w := l.word.Load()
		if w&shut != 0 || uint32(w>>32) != generation {
			return false
		}
		until := l.room.Load()
		if until == Never {
			return true
		}
		if now >= until || w&successes == successes {
			return false
		}
		if l.word.CompareAndSwap(w, w+oneSuccess) {
			return true
		}
	}
}

// Give gives back the slots of a call that took and that succeeded, at the instant now. It answers how many
// latches are left, from the end of the order: none, unless one is shut, or of a breaker that is not what it
// was, or has to begin another count. Of these whoever holds the lock must be told.
func (s *Set) Give(now int64, p *Pass) (left int) {
	for i, l := range s.Breakers {
		if !l.succeeds(p.Generations[i], now) {
			return s.Len() - i
		}
	}
	for i, l := range s.Slots {
		if !l.giveSlot() {
			return s.Len() - len(s.Breakers) - i
		}
	}
	for i, l := range s.Tokens { // which stay taken
		if l.word.Load()&shut != 0 {
			return s.Len() - len(s.Breakers) - len(s.Slots) - i
		}
	}
	if s.Last != nil && !s.Last.giveSlot() {
		return 1
	}
	return 0
}

// Len is how many latches there are.
func (s *Set) Len() int {
	n := len(s.Breakers) + len(s.Slots) + len(s.Tokens)
	if s.Last != nil {
		n++
	}
	return n
}
