package sluice

import (
	"errors"
	"fmt"
	"runtime"
	"unicode/utf8"
)

// View returns the part of s under a prefix as a store of its own: its key "x" is the
// key prefix+"x" of s, and List, Watch, Clear and the snapshots are about its keys alone.
// So one call of Clear removes what a run has left.
//
// The bounds of c hold for what is written through the view, on top of those of s. They
// are compared with all keys under the prefix, whoever wrote them; views with the same
// prefix share that count. In a transaction they are compared when it takes effect, and a
// key that was written through several views keeps to the bounds of each. To count the keys that are there, the first view of a
// prefix takes a time in proportion to all keys of the store, some milliseconds for
// 100,000.
//
// Closing a view closes the views made from it, and not s. A view that is no longer used
// is closed by the garbage collector; one that a transaction has used lasts as long as
// that. Of a view made in a transaction Close does nothing.
func (s *SharedState) View(prefix string, c SharedStateConfig) (*SharedState, error) {
	if err := s.check(""); err != nil {
		return nil, err
	}
	if prefix == "" {
		return nil, errors.New(`sluice: the prefix of a view is "": must not be empty`)
	}
	if !utf8.ValidString(prefix) {
		return nil, fmt.Errorf("sluice: the prefix of a view is %s: must be UTF-8", quoted(prefix))
	}
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	v := &SharedState{store: s.store, parent: s, txn: s.txn}
	v.scope = s.store.Nest(s.scope, prefix, c.MaxKeys, c.MaxBytes)
	runtime.AddCleanup(v, s.store.Leave, v.scope)
	return v, nil
}
