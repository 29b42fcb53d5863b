package trace

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

const (
	maxKept   = 1_000_000
	maxBroken = 20 // rules that Check says are broken
)

// Log keeps events, a million at most. The zero value is empty. It is safe for concurrent use.
type Log[E any] struct {
	mu   sync.Mutex
	list []E
	lost int
}

// Keep keeps a copy of *e; the error says that there are too many.
func (l *Log[E]) Keep(e *E) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) >= maxKept {
		l.lost++
		return fmt.Errorf("sluice: there are %d events already: no more are kept", maxKept)
	}
	l.list = append(l.list, *e)
	return nil
}

// Events is a copy of the events that were kept, in the order they came.
func (l *Log[E]) Events() []E {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// Lost counts events that were not kept.
func (l *Log[E]) Lost() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Check is what is wrong with calls, of which so many events were lost; nil if nothing is.
func Check(calls []*Call, lost int) error {
	var errs []error
	more := 0
	for _, c := range calls {
		for _, problem := range c.Broken() {
			if len(errs) == maxBroken {
				more++
				continue
			}
			errs = append(errs, fmt.Errorf("sluice: %v: %s", c, problem))
		}
	}
	if lost > 0 {
		errs = append(errs, fmt.Errorf("sluice: %d events came after the first %d and were not kept", lost, maxKept))
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("sluice: and %d more", more))
	}
	return errors.Join(errs...)
}
