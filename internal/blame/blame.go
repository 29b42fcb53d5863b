// Package blame finds out whom a throttle concerns. An error that says when an upstream wants to
// be asked again comes up through every call around the one that met it; only that one is to be
// charged with it. So each call keeps a [Ledger] of what the calls nested in it have been charged
// with, and [Of] looks through the error of an attempt for what is its own.
//
// Errors are foreign code: nothing is asked of them under a lock, see [errwalk].
package blame

import (
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/errwalk"
)

// Part is the part of an upstream that a throttle is about; the zero value is none.
type Part struct{ Kind, Key string }

// Throttle is what an error asks for.
type Throttle struct {
	After time.Duration
	Part  Part
}

// Charge is an error that says that somebody has been charged with a throttle.
type Charge struct {
	Err   error
	After time.Duration // that it asks for; negative if it does not say
}

// Found is what the error of an attempt says about throttles.
type Found struct {
	Own     []Throttle // that the attempt itself met
	Nested  bool       // there are some that calls nested in it have been charged with
	Refused bool       // or were refused
	Carried []Charge   // all that say so, for the call around
}

// Longest is the longest time for which an upstream asked the attempt itself to wait.
func (f *Found) Longest() (d time.Duration) {
	for _, t := range f.Own {
		d = max(d, t.After)
	}
	return d
}

// maxCharges bounds what a ledger remembers.
const maxCharges = 32

// Ledger is what the calls nested in the attempts of one call have been charged with. The zero
// value is empty. It is safe for concurrent use.
type Ledger struct {
	mu   sync.Mutex
	list []entry // of which nothing changes any more
	full bool    // there were more
}

type entry struct {
	Charge
	attempt int32
}

// Charge notes that a call nested in the attempt has been charged with c.
func (l *Ledger) Charge(attempt int32, c Charge) {
	if l.has(attempt, c) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) < maxCharges {
		l.list = append(l.list, entry{c, attempt})
	} else {
		l.full = true
	}
}

// has reports whether a call nested in the attempt has been charged with what c says: with that
// error itself, or with its equal. Beyond the bound of what is remembered, whatever asks for a
// pause counts as that of a nested call.
func (l *Ledger) has(attempt int32, c Charge) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	list, full := l.list, l.full
	l.mu.Unlock()
	if full && c.After >= 0 {
		return true
	}
	for _, x := range list {
		if x.attempt == attempt && errwalk.Same(x.Err, c.Err, x.After == c.After) {
			return true
		}
	}
	return false
}

// Of looks through err, the error of the attempt whose call has the ledger l, which may be nil.
// What refuses says of an error itself, apart from what it wraps, is whether it is a refusal.
func Of(err error, l *Ledger, attempt int32, refuses func(error) bool) Found {
	s := search{ledger: l, attempt: attempt, refuses: refuses, left: errwalk.Max}
	s.Nested = s.look(err, false)
	return s.Found
}

type search struct {
	Found
	ledger  *Ledger
	attempt int32
	refuses func(error) bool
	left    int // nodes that may still be looked at
}

// look looks at err and what it wraps, and answers whether a call nested in the attempt was
// charged with some of that: with all of it, if under is set.
//
// An error that asks for a pause and wraps such an error passes on what that said, so it is
// not the attempt's own; one that wraps others of the attempt's own speaks for them.
func (s *search) look(err error, under bool) (nested bool) {
	if err == nil || s.left == 0 {
		return false
	}
	s.left--
	s.Refused = s.Refused || s.refuses(err)
	t, asks := Asks(err)
	c := Charge{err, t.After}
	known := s.ledger.has(s.attempt, c)
	under = under || known
	if asks || known {
		s.Carried = append(s.Carried, c)
	}
	own := len(s.Own)
	many, one := errwalk.Unwrap(err)
	if one != nil {
		nested = s.look(one, under)
	}
	for _, x := range many[:min(len(many), s.left)] {
		nested = s.look(x, under) || nested
	}
	nested = nested || under
	if asks && !nested {
		s.Own = append(s.Own[:own], t)
	}
	return nested
}

// Retryable is an error that says when the upstream wants to be asked again.
type Retryable interface {
	error
	RetryAfter() time.Duration
}

// Asks is what err itself, apart from what it wraps, asks for. Its After is negative if it asks
// for nothing.
func Asks(err error) (t Throttle, asks bool) {
	none := Throttle{After: -1}
	x, ok := errwalk.As[Retryable](err)
	if !ok {
		return none, false
	}
	defer func() {
		if recover() != nil {
			t, asks = none, false
		}
	}()
	if t.After = x.RetryAfter(); t.After < 0 {
		return none, false
	}
	if p, ok := x.(interface{ ThrottledPart() (kind, key string) }); ok {
		t.Part.Kind, t.Part.Key = p.ThrottledPart()
	}
	return t, true
}

// After is how long err, or what it wraps, asks to wait: the outermost that does; zero if none.
func After(err error) (d time.Duration) {
	errwalk.Walk(err, func(x error) errwalk.Step {
		if t, asks := Asks(x); asks {
			d = t.After
			return errwalk.Stop
		}
		return errwalk.Deeper
	})
	return d
}
