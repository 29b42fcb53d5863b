package permit

import "sync/atomic"

// Attempts is what has become of a call: how many attempts it has begun and how many are under way,
// whether the tool's code has run in one of them, whether the caller has its answer, and who may find it. It is one
// atomic word; the zero value is a call without attempts.
type Attempts struct{ word atomic.Uint64 }

// Above the flags is how many attempts are under way, and above that how many have begun.
const (
	hasRun   = 1 << iota // the tool's code has, in some attempt
	answered             // no attempt may begin any more
	reported             // so has its end been
	kept                 // somebody may find the call when it is over

	oneUnderWay = 1 << 8
	oneBegun    = 1 << 32
)

// Begin counts one attempt more, and answers its number. It fails if the call is over; the attempt
// is to be ended all the same.
func (a *Attempts) Begin() (number int32, ok bool) {
	w := a.word.Add(oneBegun + oneUnderWay)
	return int32(w / oneBegun), w&answered == 0
}

// End counts out an attempt that holds nothing any more.
func (a *Attempts) End() { a.word.Add(^uint64(oneUnderWay - 1)) }

// Begun is how many have.
func (a *Attempts) Begun() int32 { return int32(a.word.Load() / oneBegun) }

func underWay(w uint64) bool { return w%oneBegun >= oneUnderWay }

// Run says that the tool's code is about to run, and reports whether it may: not once the call is
// over.
func (a *Attempts) Run() bool { return a.word.Or(hasRun)&answered == 0 }

// CallOff takes back Run, as far as it is known that no other attempt has run: if it is the only one.
func (a *Attempts) CallOff() {
	for w := a.word.Load(); w/oneBegun == 1 && !a.word.CompareAndSwap(w, w&^hasRun); w = a.word.Load() {
	}
}

// Answer says that the call is over. It reports what was true until then: whether the code has run,
// and whether attempts are under way.
func (a *Attempts) Answer() (ran, busy bool) {
	w := a.word.Or(answered)
	return w&hasRun != 0, underWay(w)
}

// IsAnswered reports whether the call is over.
func (a *Attempts) IsAnswered() bool { return a.word.Load()&answered != 0 }

// Report says that the call's end has been reported.
func (a *Attempts) Report() { a.word.Or(reported) }

// Keep says that somebody may find the call when it is over, and this with it. Unlike the rest it may
// come late, when this is that of another call.
func (a *Attempts) Keep() { a.word.Or(kept) }

// IsKept reports whether Keep has been called.
func (a *Attempts) IsKept() bool { return a.word.Load()&kept != 0 }

// IsReported reports whether it has been.
func (a *Attempts) IsReported() bool { return a.word.Load()&reported != 0 }

// Retries is which of a call's attempts are told to be retries, if there may be several. The zero value is
// none.
type Retries struct {
	ended atomic.Int32 // attempts
	told  atomic.Int32 // after how many a retry has been told last
}

// Ended says that one attempt more has ended.
func (r *Retries) Ended() { r.ended.Add(1) }

// Tell says that a retry is told after n attempts, and reports whether none had been.
func (r *Retries) Tell(n int32) bool {
	for was := r.told.Load(); was < n; was = r.told.Load() {
		if r.told.CompareAndSwap(was, n) {
			return true
		}
	}
	return false
}

// Follows is Tell, unless some of the n attempts go on: what begins then is no retry.
func (r *Retries) Follows(n int32) bool { return r.ended.Load() >= n && r.Tell(n) }
