// Package classify asks functions of users what the end of a call means.
//
// They may panic, which is survived, and call Goexit, which goes on up. An outcome is a small number, and
// zero leaves it to others. The package keeps nothing and locks nothing.
package classify

import "github.com/sluice-go/sluice/internal/errwalk"

// First is a function that asks own, and common where that leaves it to others; the last outcome is the
// largest that there is. Either may be nil; of two such the answer is nil.
func First[C, R any, O ~uint8](own, common func(C, R, error) O, last O) func(C, R, error) O {
	switch {
	case own == nil:
		return common
	case common == nil:
		return own
	}
	return func(c C, r R, err error) O {
		if o := Ask(own, last, c, r, err); o != 0 {
			return o
		}
		return common(c, r, err)
	}
}

// Ask runs f. One that panics, or answers what there is not, leaves it to others.
func Ask[C, R any, O ~uint8](f func(C, R, error) O, last O, c C, r R, err error) (o O) {
	defer func() {
		if recover() != nil || o > last {
			o = 0
		}
	}()
	return f(c, r, err)
}

// Of is what f says of an end, if there is one, else what the code that has ended said, and else what err says of itself:
// the outermost error of its tree that has a method Outcome. One that panics, or answers what there is not, leaves it to
// others.
func Of[C, R any, O ~uint8](f func(C, R, error) O, said, last O, c C, r R, err error) (o O) {
	if f != nil {
		o = Ask(f, last, c, r, err)
	}
	if o == 0 {
		o = said
	}
	if o != 0 || err == nil {
		return o
	}
	if x, ok := errwalk.First[speaker[O]](err); ok {
		o = Ask(func(C, R, error) O { return x.Outcome() }, last, c, r, err)
	}
	return o
}

// speaker is an error that says what it means.
type speaker[O any] interface {
	error
	Outcome() O
}
