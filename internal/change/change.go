// Package change makes changes of several components at one instant, or none of them. Each is checked
// first, against the present; then all are applied while the stages of all are locked, so that no call
// is admitted by half of them.
//
// Foreign code, which a change of [Own] has, runs before and after that, under no lock. No change waits
// for calls. The package keeps nothing, and locks what stages and configurations it is given.
package change

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/sluice-go/sluice/internal/stage"
)

// Change is a change of one component. All methods but [Own]'s own functions are called with the lock
// of domains, so none may wait, or call foreign code.
type Change interface {
	Target() any        // what changes, at most once in a list
	Check() error       // against the present
	Refs() []*stage.Ref // whose locks Apply needs, after Check
	Apply(*Locked)      // cannot fail
}

// Locked is the stages that are held while changes are applied.
type Locked struct {
	*stage.Held
	by string
}

// Changed has the listeners of s hear of a change of the constraint of that name.
func (lk *Locked) Changed(s *stage.Stage, name, from, to string) {
	s.Note(stage.Notice{Kind: stage.Changed, By: name, From: from, To: to, Actor: lk.by})
}

// All applies the changes of list on behalf of by, or says which is not possible, and why. It is safe
// for concurrent use.
func All(by string, list []Change) error {
	for _, c := range list { // what is not the library's is not asked under its locks
		if x, ok := c.(*own); ok && x.fits != nil {
			if err := x.fits(); err != nil {
				return err
			}
		}
	}
	err := stage.LockAll(func() ([]*stage.Ref, error) { return checked(list) }, func(h *stage.Held) {
		for _, c := range list {
			c.Apply(&Locked{h, by})
		}
	})
	if err != nil {
		return err
	}
	for _, c := range list {
		if x, ok := c.(*own); ok {
			x.do()
		}
	}
	return nil
}

// checked says what is wrong with a list, or whose locks it needs.
func checked(list []Change) (refs []*stage.Ref, err error) {
	seen := make(map[any]bool, len(list))
	for i, c := range list {
		if c == nil {
			return nil, fmt.Errorf("sluice: Reconfigure: change %d is the zero Change: make one with a Change method", i)
		}
		if err := c.Check(); err != nil {
			return nil, err
		}
		t := c.Target()
		if seen[t] {
			return nil, fmt.Errorf("sluice: Reconfigure: change %d is the second of one component: "+
				"there must be one for each", i)
		}
		seen[t] = true
	}
	for _, c := range list {
		refs = append(refs, c.Refs()...)
	}
	return refs, nil
}

// own is the change of what the library does not know.
type own struct {
	component any
	fits      func() error
	do        func()
}

// Own is the change of a component that the library does not know: fits, which may be nil, says before
// all locks why it cannot be, and do makes it after them.
func Own(component any, fits func() error, do func()) Change { return &own{component, fits, do} }

func (x *own) Target() any        { return x.component }
func (x *own) Refs() []*stage.Ref { return nil }
func (x *own) Apply(*Locked)      {} // outside the locks

func (x *own) Check() error {
	switch {
	case x.do == nil:
		return errors.New("sluice: NewChange: apply is nil: must be a function")
	case x.component == nil || !reflect.TypeOf(x.component).Comparable():
		return fmt.Errorf("sluice: NewChange: the component is %T: must be one that can be compared, as a pointer", x.component)
	}
	return nil
}

// Config is the change of a component of one stage to another configuration.
type Config[C any] struct {
	Of   any // the component
	Ref  *stage.Ref
	Mu   *sync.Mutex // guards Conf; locked after the stage
	Conf *C          // the component's
	To   C           // completed by Check

	Complete func(C) (C, error)                                     // fills in the defaults
	Fits     func(was C, to *C) error                               // why it cannot become to; may put in what stays
	Turn     func(lk *Locked, s *stage.Stage, now int64, was, to C) // has the machine follow; cannot fail
}

// Target is the component.
func (x *Config[C]) Target() any { return x.Of }

// Refs is its stage's.
func (x *Config[C]) Refs() []*stage.Ref { return []*stage.Ref{x.Ref} }

// Check says why the component cannot have the configuration.
func (x *Config[C]) Check() (err error) {
	x.Mu.Lock()
	was := *x.Conf
	x.Mu.Unlock()
	if x.To, err = x.Complete(x.To); err != nil {
		return err
	}
	return x.Fits(was, &x.To)
}

// Apply gives it to the component.
func (x *Config[C]) Apply(lk *Locked) {
	s, now := lk.Stage(x.Ref), lk.Now
	x.Mu.Lock()
	was := *x.Conf
	*x.Conf = x.To
	x.Mu.Unlock()
	x.Turn(lk, s, now, was, x.To)
}
