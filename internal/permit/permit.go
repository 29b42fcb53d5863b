// Package permit says who still needs what an admitted attempt holds: its slots, its tokens, its
// place at a breaker. That is given back once, when the attempt's handler has returned, what its
// outcome means is known or has not become known for too long, no code of the tool is inside any
// more, and no stream holds the attempt open.
//
// A [State] is one atomic word. Its methods may be called from anywhere, and none waits. Whoever
// is told that the attempt is over gives back what it holds; exactly one is.
package permit

import "sync/atomic"

// State is that of one attempt. The zero value is one that has just been admitted.
type State struct{ word atomic.Uint32 }

// Above the flags the word counts the calls of next that are inside the tool's code, and above
// those the streams that hold the attempt open.
const (
	begun     = 1 << iota // the tool's code has begun
	late                  // nobody waits for the attempt any more: its code must not begin
	returned              // its handler has returned: no code may begin
	judged                // what that means is known, or nobody waits for that any more
	known                 // it is known
	held                  // some stream has held the attempt open
	throttled             // an upstream has asked it for a pause
	givenBack             // what it held is, or somebody is about to
	adopted               // what it holds can be given back only under a lock

	oneCode = 1 << 9
	oneHold = 1 << 20
)

// MaxHolds bounds how many streams hold an attempt open at once.
const MaxHolds = 1000

// over reports whether nobody needs what the attempt holds: its handler has returned, what that means is
// known or given up, no code is inside and no stream holds it open.
func over(w uint32) bool { return w&(returned|judged) == returned|judged && w < oneCode }

func inside(w uint32) bool { return w%oneHold >= oneCode }

// add adds d to the word, and answers what that makes it.
func (s *State) add(d int32) uint32 { return s.word.Add(uint32(d)) }

// Refusal is why code, or a stream, may not begin.
type Refusal uint8

// The refusals.
const (
	None     Refusal = iota
	Twice            // the code has begun before
	Returned         // the handler has returned, or the code in which a stream may begin has
	Late             // the attempt's time is over
	TooMany          // streams
)

// Begin lets the tool's code begin, unless it must not any more.
func (s *State) Begin() Refusal {
	for {
		w := s.word.Load()
		switch {
		case w&begun != 0:
			return Twice
		case w&returned != 0:
			return Returned
		case w&late != 0:
			return Late
		}
		if s.word.CompareAndSwap(w, (w|begun)+oneCode) {
			return None
		}
	}
}

// Began says that the code has begun, if that has not been said.
func (s *State) Began() {
	for w := s.word.Load(); w&begun == 0; w = s.word.Load() {
		s.word.CompareAndSwap(w, (w|begun)+oneCode)
	}
}

// CallOff takes back that the code has begun: it has not, and leaves as if it had.
func (s *State) CallOff() { s.word.And(^uint32(begun)) }

// Leave says that the code has ended, and reports whether the attempt is over.
func (s *State) Leave() bool { return over(s.add(-oneCode)) }

// Return says that the handler has returned. If the handler is the code itself, that has ended
// with it, if it has begun.
func (s *State) Return(isCode bool) { s.add(s.returning(isCode)) }

// ReturnJudged is Return, where it is known at once what that means. It reports whether the
// attempt is over.
func (s *State) ReturnJudged(isCode bool) bool {
	return over(s.add(s.returning(isCode) + judged + known))
}

func (s *State) returning(isCode bool) int32 {
	if isCode && inside(s.word.Load()) {
		return returned - oneCode
	}
	return returned
}

// Judge says that it is known what the outcome means, after Return. It answers whether the attempt is over by
// that, and whether somebody has waited for it so far; if not, it is not told.
func (s *State) Judge() (isOver, inTime bool) {
	for {
		w := s.word.Load()
		if w&judged != 0 {
			return false, false
		}
		if now := w | judged | known; s.word.CompareAndSwap(w, now) {
			return over(now), true
		}
	}
}

// GiveUp says that nobody waits any more for what the outcome means, after Return. It reports whether the
// attempt is over by that.
func (s *State) GiveUp() bool {
	w := s.word.Or(judged)
	return w&judged == 0 && over(w|judged)
}

// Know says that it is known what the outcome means, after Judge has been told that nobody waits.
func (s *State) Know() { s.word.Or(known) }

// Expire says that nobody waits for the attempt any more, and reports whether its code has begun.
func (s *State) Expire() bool { return s.word.Or(late)&begun != 0 }

// IsLate reports whether Expire has been called.
func (s *State) IsLate() bool { return s.word.Load()&late != 0 }

// Hold lets one more stream hold the attempt open, while its code runs.
func (s *State) Hold() Refusal {
	for {
		w := s.word.Load()
		switch {
		case !inside(w) || w&returned != 0:
			return Returned
		case w&late != 0:
			return Late
		case w >= MaxHolds*oneHold:
			return TooMany
		}
		if s.word.CompareAndSwap(w, (w|held)+oneHold) {
			return None
		}
	}
}

// EndHold says that a stream has ended, and reports whether the attempt is over.
func (s *State) EndHold() bool { return over(s.add(-oneHold)) }

// MeetThrottle says that an upstream has asked the attempt for a pause.
func (s *State) MeetThrottle() { s.word.Or(throttled) }

// HasMetThrottle reports whether one has.
func (s *State) HasMetThrottle() bool { return s.word.Load()&throttled != 0 }

// Flags is what is known of the attempt in one look: whether its code has begun, whether it is known
// what its outcome means, and whether some stream has held it open.
func (s *State) Flags() (hasBegun, isKnown, wasHeld bool) {
	w := s.word.Load()
	return w&begun != 0, w&known != 0, w&held != 0
}

// Finished is Return, Judge and GaveBack in one, where the code has begun, and has ended unless it is
// the handler itself (isCode): then that ends with it.
func (s *State) Finished(isCode bool) { s.add(returned + judged + known + givenBack - in(isCode)) }

// in is the code that is inside if the handler is the code itself.
func in(isCode bool) int32 {
	if isCode {
		return oneCode
	}
	return 0
}

// CanFinish reports whether FinishAlone would, but for Adopt.
func (s *State) CanFinish(isCode bool) bool {
	w := s.word.Load()
	return w&held == 0 && w-uint32(in(isCode)) < oneCode
}

// Adopt has what the attempt holds be given back under a lock, and reports whether it was to be given
// back without one until now, and is not yet.
func (s *State) Adopt() bool { return s.word.Or(adopted)&(adopted|givenBack) == 0 }

// FinishAlone is Finished, unless code is inside still, a stream has held the attempt open or Adopt
// came before. It reports whether that was all there was to do but to give back what the attempt holds.
func (s *State) FinishAlone(isCode bool) bool {
	for {
		w := s.word.Load()
		next := w - uint32(in(isCode))
		if w&(held|adopted) != 0 || next >= oneCode {
			return false
		}
		if s.word.CompareAndSwap(w, next+returned+judged+known+givenBack) {
			return true
		}
	}
}

// MakeOver makes the attempt one that is over.
func (s *State) MakeOver() { s.word.Store(begun | returned | judged | known | givenBack | adopted) }

// GaveBack says that what the attempt held is given back.
func (s *State) GaveBack() { s.word.Or(givenBack) }

// IsGivenBack reports whether it is.
func (s *State) IsGivenBack() bool { return s.word.Load()&givenBack != 0 }

// Over reports whether nobody needs any more what the attempt holds.
func (s *State) Over() bool { return over(s.word.Load()) }

// HasBegun reports whether the tool's code has.
func (s *State) HasBegun() bool { return s.word.Load()&begun != 0 }

// Inside reports whether code of the tool runs.
func (s *State) Inside() bool { return inside(s.word.Load()) }

// WasHeld reports whether some stream has held the attempt open.
func (s *State) WasHeld() bool { return s.word.Load()&held != 0 }

// IsHeld reports whether some stream does.
func (s *State) IsHeld() bool { return s.word.Load() >= oneHold }
