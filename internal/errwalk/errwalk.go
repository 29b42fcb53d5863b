// Package errwalk asks errors of others what they are and what they say, as package errors
// does, but so that no error can do harm: a method that panics has said nothing, what cannot
// be compared is not equal, and of a tree that is endless, or leads back to itself, [Max] nodes
// are looked at.
//
// Two things it cannot prevent. A method that calls runtime.Goexit ends the goroutine, so
// whoever asks on behalf of a call that must end has a deferred function that goes on without
// the answer; and a method that blocks keeps whoever asks, so nobody asks who holds a lock.
// The package keeps nothing and locks nothing.
package errwalk

import (
	"fmt"
	"reflect"
)

// Max bounds how many nodes of an error's tree are looked at.
const Max = 1000

// Step is where to go on from a node of an error's tree.
type Step uint8

const (
	Deeper Step = iota // what it wraps, then what is beside it
	Beside
	Stop
)

// Walk shows the tree of err to visit, from the outside in, as errors.Is goes. It also goes
// into an [Except].
func Walk(err error, visit func(error) Step) {
	var space [8]error
	rest := append(space[:0], err)
	for left := Max; left > 0 && len(rest) > 0; left-- {
		x := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		if x == nil {
			continue
		}
		switch visit(x) {
		case Stop:
			return
		case Beside:
			continue
		}
		many, one := Unwrap(x)
		if one != nil {
			rest = append(rest, one)
		}
		for i := min(len(many), left) - 1; i >= 0; i-- {
			rest = append(rest, many[i])
		}
		if len(rest) > left { // the others would not be visited any more
			rest = rest[len(rest)-left:]
		}
	}
}

// Unwrap is what err wraps.
func Unwrap(err error) (many []error, one error) {
	if x, ok := err.(excepting); ok {
		return nil, x.except().Err
	}
	defer func() {
		if recover() != nil {
			many, one = nil, nil
		}
	}()
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		return nil, x.Unwrap()
	case interface{ Unwrap() []error }:
		return x.Unwrap(), nil
	}
	return nil, nil
}

// Is is errors.Is.
func Is(err, target error) (yes bool) {
	Walk(err, func(x error) Step {
		if e, ok := x.(excepting); ok && target == e.except().Not {
			return Beside
		}
		if yes = is(x, target); yes {
			return Stop
		}
		return Deeper
	})
	return yes
}

// is reports whether err itself, apart from what it wraps, is target.
func is(err, target error) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	if err == target {
		return true
	}
	if _, ok := err.(excepting); ok {
		return false // what it wraps answers
	}
	x, ok := err.(interface{ Is(error) bool })
	return ok && x.Is(target)
}

// Find is the first error of err's tree that yes says; nil if there is none.
func Find(err error, yes func(error) bool) (found error) {
	Walk(err, func(x error) Step {
		if yes(x) {
			found = x
			return Stop
		}
		return Deeper
	})
	return found
}

// First is the first T of err's tree, which no As method is asked about.
func First[T error](err error) (x T, ok bool) {
	x, ok = Find(err, func(e error) bool { _, is := e.(T); return is }).(T)
	return x, ok
}

// As reports whether err itself, apart from what it wraps, is a T, or says it is one.
func As[T error](err error) (x T, yes bool) {
	if x, yes = err.(T); yes {
		return x, true
	}
	if _, ok := err.(excepting); ok {
		return x, false
	}
	if a, ok := err.(interface{ As(any) bool }); ok {
		return says[T](a)
	}
	return x, false
}

func says[T error](a interface{ As(any) bool }) (x T, yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	yes = a.As(&x)
	return x, yes
}

// Same reports whether a and b are one, or equal. Of two of a type that cannot be compared
// nobody knows, so they are if they are alike.
func Same(a, b error, alike bool) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = alike
		}
	}()
	return a == b
}

// Text is err.Error(), or what there is to say instead.
func Text(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T, whose Error method panicked", err)
		}
	}()
	return err.Error()
}

// Except is Err, but never Not, whatever Err says. It wraps nothing that package errors would
// see, so that nobody finds Not behind it. A struct that embeds it is one too.
type Except struct{ Err, Not error }

type excepting interface{ except() Except }

func (e Except) except() Except { return e }

// Error is the text of Err.
func (e Except) Error() string { return Text(e.Err) }

// Is reports whether Err is target, and that is not Not.
func (e Except) Is(target error) bool { return target != e.Not && Is(e.Err, target) }

// As is errors.As of Err.
func (e Except) As(target any) (yes bool) {
	Walk(e.Err, func(err error) Step {
		if yes = becomes(err, target); yes {
			return Stop
		}
		return Deeper
	})
	return yes
}

// becomes is As for a target that only reflection knows, as errors.As has checked it.
func becomes(err error, target any) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	to := reflect.ValueOf(target).Elem()
	if reflect.TypeOf(err).AssignableTo(to.Type()) {
		to.Set(reflect.ValueOf(err))
		return true
	}
	if _, ok := err.(excepting); ok {
		return false
	}
	a, ok := err.(interface{ As(any) bool })
	return ok && a.As(target)
}
