package sluice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
)

// odd is an error whose methods do what the test says.
type odd struct {
	one  func() error
	many func() []error
	is   func(error) bool
	as   func(any) bool
	text func() string
}

type (
	oddOne  struct{ *odd }
	oddMany struct{ *odd }
)

func (o *odd) Error() string {
	if o.text != nil {
		return o.text()
	}
	return "odd"
}
func (o *odd) Is(target error) bool { return o.is != nil && o.is(target) }
func (o *odd) As(target any) bool   { return o.as != nil && o.as(target) }

func (o oddOne) Unwrap() error    { return o.one() }
func (o oddMany) Unwrap() []error { return o.many() }

// bombs is an error each of whose methods panics.
type bombs struct{}

func (bombs) Error() string   { panic("secret") }
func (bombs) Is(error) bool   { panic("secret") }
func (bombs) As(any) bool     { panic("secret") }
func (bombs) Unwrap() []error { panic("secret") }

// incomparable panics when it is compared with its like.
type incomparable []string

func (incomparable) Error() string { return "not comparable" }

// loops is errors whose trees never end.
func loops() map[string]error {
	self := oddOne{new(odd)}
	self.one = func() error { return self }
	a, b := oddOne{new(odd)}, oddOne{new(odd)}
	a.one, b.one = func() error { return b }, func() error { return a }
	tree := oddMany{new(odd)}
	tree.many = func() []error { return []error{tree, tree, tree} }
	wide := oddMany{new(odd)}
	list := make([]error, 1<<20)
	for i := range list {
		list[i] = wide
	}
	wide.many = func() []error { return list }
	endless := oddOne{new(odd)}
	endless.one = func() error { return fmt.Errorf("once more: %w", oddOne{&odd{one: endless.one}}) }
	return map[string]error{
		"itself":           self,
		"a cycle of two":   a,
		"a tree of itself": tree,
		"a wide tree":      wide,
		"new ones":         endless,
		"behind a refusal": &Error{Reason: ErrTimeout, Cause: tree},
		"of a nested call": ranError{err: tree},
		"nested, and so on": ranError{err: errors.Join(ranError{err: errors.Join(
			ranError{err: tree}, ranError{err: tree})}, ranError{err: tree})},
	}
}

// However an error is made, asking it comes to an end, and what can be known is.
func TestWalk_EndsWhateverWrapsWhat(t *testing.T) {
	for name, err := range loops() {
		t.Run(name, func(t *testing.T) {
			nodes := 0
			walk(err, func(error) step { nodes++; return deeper })
			if nodes != maxNodes {
				t.Errorf("%d nodes, want %d", nodes, maxNodes)
			}
			for _, err := range []error{err, fmt.Errorf("outer: %w", err), errors.Join(io.EOF, err)} {
				if isReason(err, ErrDenied) || errors.Is(ranError{err: err}, ErrDenied) {
					t.Error("it is ErrDenied")
				}
				if _, ok := asError[*PanicError](err); ok {
					t.Error("it is a PanicError")
				}
				var p *PanicError
				if errors.As(ranError{err: err}, &p) {
					t.Error("it is a PanicError, as a nested call's")
				}
			}
			if !isReason(errors.Join(io.EOF, err), io.EOF) {
				t.Error("what stands before it is not found")
			}
		})
	}
}

// A method that panics has said nothing; what is beside it is asked all the same.
func TestWalk_PanicsSayNothing(t *testing.T) {
	var nobody *Error
	for name, err := range map[string]error{
		"every method":     bombs{},
		"a nil pointer":    nobody,
		"a panicking Is":   &odd{is: func(error) bool { panic(1) }},
		"a panicking As":   &odd{as: func(any) bool { panic(1) }},
		"not comparable":   incomparable{"a"},
		"a nested nothing": ranError{},
		"an Unwrap to nil": oddOne{&odd{one: func() error { return nil }}},
		"a list of nil":    oddMany{&odd{many: func() []error { return []error{nil, nil} }}},
	} {
		t.Run(name, func(t *testing.T) {
			tree := errors.Join(err, fmt.Errorf("inner: %w", errors.Join(err, context.Canceled, &PanicError{Tool: "x"})))
			if !isReason(tree, context.Canceled) || isReason(tree, io.EOF) || isReason(err, context.Canceled) {
				t.Error("isReason: want Canceled of the tree alone")
			}
			if p, ok := asError[*PanicError](tree); !ok || p.Tool != "x" {
				t.Errorf("asError: %v, %v", p, ok)
			}
			var p *PanicError
			if !errors.As(ranError{err: tree}, &p) || p.Tool != "x" {
				t.Errorf("As through a nested call's error: %v", p)
			}
			if isReason(err, incomparable{"a"}) {
				t.Error("two that cannot be compared are one")
			}
			_ = textOf(err)
		})
	}
}

// What Is and As say counts, at each node of its own.
func TestWalk_AsksEachNode(t *testing.T) {
	says := oddOne{&odd{
		is:  func(target error) bool { return target == io.EOF },
		as:  func(target any) bool { p, ok := target.(**PanicError); *p = &PanicError{Tool: "said"}; return ok },
		one: func() error { return context.Canceled },
	}}
	for _, err := range []error{says, fmt.Errorf("a: %w", errors.Join(io.ErrClosedPipe, says)), ranError{err: says}} {
		for _, target := range []error{io.EOF, context.Canceled} {
			if !isReason(err, target) {
				t.Errorf("%T is not %v", err, target)
			}
		}
		if p, ok := asError[*PanicError](err); !ok || p.Tool != "said" {
			t.Errorf("%T: %v, %v", err, p, ok)
		}
	}
	refusal := &Error{Reason: ErrQueueFull}
	passed := fmt.Errorf("outer: %w", ranError{err: fmt.Errorf("inner: %w", refusal)})
	if isReason(passed, ErrRejected) || !isReason(passed, ErrQueueFull) {
		t.Error("what a tool that ran passes on claims that it did not")
	}
	if x, ok := asError[*Error](passed); !ok || x != refusal {
		t.Errorf("the refusal behind it: %v", x)
	}
	if !isReason(errors.Join(passed, refusal), ErrRejected) {
		t.Error("a refusal beside it is hidden")
	}
}

// Few are so deep, but what is no deeper than the bound is found.
func TestWalk_FindsWhatIsWithinTheBound(t *testing.T) {
	chain := func(n int) error {
		err := io.EOF
		for range n {
			err = fmt.Errorf("%w", err)
		}
		return err
	}
	if !isReason(chain(maxNodes-1), io.EOF) || isReason(chain(maxNodes), io.EOF) {
		t.Errorf("want the %d-th node found and no other", maxNodes)
	}
	list := make([]error, maxNodes-1)
	for i := range list {
		list[i] = io.ErrClosedPipe
	}
	list[len(list)-1] = io.EOF
	if !isReason(errors.Join(list...), io.EOF) {
		t.Error("the last of a list is not found")
	}
}
