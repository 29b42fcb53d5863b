package errwalk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
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

// named is an error of a type to look for; errRefused is one that an Except hides.
type named struct{ text string }

func (e *named) Error() string { return e.text }

var errRefused = errors.New("refused")

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
		"behind another":   fmt.Errorf("once: %w", tree),
		"inside an Except": Except{Not: errRefused, Err: tree},
		"nested, and so on": Except{Not: errRefused, Err: errors.Join(Except{Not: errRefused, Err: errors.Join(
			Except{Not: errRefused, Err: tree}, Except{Not: errRefused, Err: tree})}, Except{Not: errRefused, Err: tree})},
	}
}

// However an error is made, asking it comes to an end, and what can be known is.
func TestAskingEndsWhateverWrapsWhat(t *testing.T) {
	for name, err := range loops() {
		t.Run(name, func(t *testing.T) {
			nodes := 0
			Walk(err, func(error) Step { nodes++; return Deeper })
			assert.Equal(t, Max, nodes, "nodes")
			for _, err := range []error{err, fmt.Errorf("outer: %w", err), errors.Join(io.EOF, err)} {
				if Is(err, io.ErrNoProgress) || errors.Is(Except{Not: errRefused, Err: err}, io.ErrNoProgress) {
					t.Error("it is io.ErrNoProgress")
				}
				_, ok := First[*named](err)
				assert.False(t, ok, "found as a named")
				var p *named
				assert.False(t, errors.As(Except{Not: errRefused, Err: err}, &p), "found as a named inside an Except")
			}
			assert.True(t, Is(errors.Join(io.EOF, err), io.EOF), "what stands before it is not found")
		})
	}
}

// A method that panics has said nothing; what is beside it is asked all the same.
func TestMethodsThatPanicSayNothing(t *testing.T) {
	var nobody *odd
	for name, err := range map[string]error{
		"every method":     bombs{},
		"a nil pointer":    nobody,
		"a panicking Is":   &odd{is: func(error) bool { panic(1) }},
		"a panicking As":   &odd{as: func(any) bool { panic(1) }},
		"not comparable":   incomparable{"a"},
		"an Except of nil": Except{},
		"an Unwrap to nil": oddOne{&odd{one: func() error { return nil }}},
		"a list of nil":    oddMany{&odd{many: func() []error { return []error{nil, nil} }}},
	} {
		t.Run(name, func(t *testing.T) {
			tree := errors.Join(err, fmt.Errorf("inner: %w", errors.Join(err, context.Canceled, &named{text: "x"})))
			if !Is(tree, context.Canceled) || Is(tree, io.EOF) || Is(err, context.Canceled) {
				t.Error("want Canceled of the tree alone")
			}
			if p, ok := First[*named](tree); !ok || p.text != "x" {
				t.Errorf("First: %v, %v", p, ok)
			}
			var p *named
			if !errors.As(Except{Not: errRefused, Err: tree}, &p) || p.text != "x" {
				t.Errorf("As through an Except: %v", p)
			}
			assert.False(t, Is(err, incomparable{"a"}), "two that cannot be compared are one")
			_ = Text(err)
		})
	}
}

// What Is and As say counts, at each node of its own.
func TestEachNodeIsAsked(t *testing.T) {
	says := oddOne{&odd{
		is:  func(target error) bool { return target == io.EOF },
		as:  func(target any) bool { p, ok := target.(**named); *p = &named{text: "said"}; return ok },
		one: func() error { return context.Canceled },
	}}
	for _, err := range []error{says, fmt.Errorf("a: %w", errors.Join(io.ErrClosedPipe, says)), Except{Not: errRefused, Err: says}} {
		for _, target := range []error{io.EOF, context.Canceled} {
			assert.True(t, Is(err, target), "%T is not %v", err, target)
		}
		var p *named
		if !errors.As(err, &p) || p.text != "said" {
			t.Errorf("%T: %v", err, p)
		}
		if p, ok := First[*named](err); ok {
			t.Errorf("%T: First asks As methods: %v", err, p)
		}
	}
	if p, ok := As[*named](says); !ok || p.text != "said" {
		t.Errorf("%T: %v, %v", says, p, ok)
	}
	passed := fmt.Errorf("outer: %w", Except{Not: errRefused, Err: fmt.Errorf("inner: %w", errors.Join(errRefused, &named{"n"}))})
	if Is(passed, errRefused) || errors.Is(passed, errRefused) || Is(passed, io.EOF) {
		t.Error("an Except is what it is not to be")
	}
	if p, ok := First[*named](passed); !ok || p.text != "n" {
		t.Errorf("what stands in an Except: %v", p)
	}
	assert.True(t, Is(errors.Join(passed, errRefused), errRefused), "what stands beside an Except is hidden")
	if embeds := (struct {
		Except
		n int
	}{Except{says, errRefused}, 1}); !Is(embeds, context.Canceled) || Is(embeds, errRefused) || !errors.Is(embeds, io.EOF) {
		t.Error("a struct that embeds an Except is not one")
	}
}

// Few are so deep, but what is no deeper than the bound is found.
func TestWhatIsWithinTheBoundIsFound(t *testing.T) {
	chain := func(n int) error {
		err := io.EOF
		for range n {
			err = fmt.Errorf("%w", err)
		}
		return err
	}
	if !Is(chain(Max-1), io.EOF) || Is(chain(Max), io.EOF) {
		t.Errorf("want the %d-th node found and no other", Max)
	}
	list := make([]error, Max-1)
	for i := range list {
		list[i] = io.ErrClosedPipe
	}
	list[len(list)-1] = io.EOF
	assert.True(t, Is(errors.Join(list...), io.EOF), "the last of a list is not found")
}
