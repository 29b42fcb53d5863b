package permit

import "sync/atomic"

// Sight says whether a call can still be found by who keeps its context, and whether anybody has found
// it. The zero value is that of a call that can be, and has not been.
type Sight struct{ word atomic.Uint32 }

// Seen is what becomes of a call that can be found.
type Seen uint32

// None of these ends, but for Ending.
const (
	Found  Seen = 1 + iota // it has been, and can be for ever
	Ending                 // it can not: its attempt is over, its end is being reported
	Gone                   // so is the call
)

// OverOnce is what becomes of a call whose attempt is over: it is over, too, once it is told if it has to be.
func OverOnce(told bool) Seen {
	if told {
		return Ending
	}
	return Gone
}

// Find finds the call, if that can be. It answers Found, or what else has become of it.
func (s *Sight) Find() Seen {
	if w := s.word.Load(); w != 0 {
		return Seen(w)
	}
	s.word.CompareAndSwap(0, uint32(Found))
	return Seen(s.word.Load())
}

// Part has nobody find the call any more. It fails if somebody has found it.
func (s *Sight) Part(to Seen) bool { return s.word.CompareAndSwap(0, uint32(to)) }

// Ended says that the call is over, if it had parted as Ending.
func (s *Sight) Ended() { s.word.CompareAndSwap(uint32(Ending), uint32(Gone)) }
