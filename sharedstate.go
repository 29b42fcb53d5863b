package sluice

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/kv"
)

// SharedState is an atomic key-value store that the tools of a run share. Values are
// read and written through a [Key], which gives them their Go type.
//
// Every operation on one key is linearizable: it takes effect at one instant between
// its call and its return, and N increments are N, from any number of goroutines.
// Several keys change together in a [SharedState.Txn].
//
// A SharedState may be used by any number of goroutines at once. No operation waits,
// but for the iterations of Watch, and Update and Txn while they call their function
// again. It runs no goroutine of its own; while keys with a lifetime exist it has timers
// set, until Close. The zero value holds nothing and every operation on it fails with
// [ErrNoState], except UnmarshalJSON, which makes it a store of the default size.
//
// # Bounds
//
// Each key counts with an estimate of its memory: 96 bytes for the store's own needs,
// the length of the key, and the value. A number of the types that [Increment] takes
// needs nothing more. Any other value counts 48 bytes, what its type occupies, and what
// it refers to: strings and slices in their length and capacity, maps, pointers and
// interfaces followed. After 1,000 parts of a value the rest is taken to be like those
// before it; what several parts share counts for each. A write that goes over a bound
// fails with [ErrFull] and changes nothing.
type SharedState struct {
	store  *kv.Store
	scope  *kv.Scope
	parent *SharedState // of a view: kept so that its count lasts as long
	txn    *txn         // of the state in a transaction's context
}

// SharedStateConfig bounds a [SharedState]. The zero value is ready to use.
type SharedStateConfig struct {
	MaxKeys  int // zero means 100,000
	MaxBytes int // by the estimate that SharedState describes; zero means 256 MiB
	_        struct{}
}

// NewSharedState returns an empty store, or an error that names the field that is wrong.
func NewSharedState(c SharedStateConfig) (*SharedState, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	store, scope := newStore(c)
	return &SharedState{store: store, scope: scope}, nil
}

// resolve replaces zeros by defaults.
func (c SharedStateConfig) resolve() (SharedStateConfig, error) {
	if c.MaxKeys < 0 {
		return c, fmt.Errorf("sluice: SharedStateConfig.MaxKeys is %d: must be zero (100,000) or positive", c.MaxKeys)
	}
	if c.MaxBytes < 0 {
		return c, fmt.Errorf("sluice: SharedStateConfig.MaxBytes is %d: must be zero (256 MiB) or positive", c.MaxBytes)
	}
	if c.MaxKeys == 0 {
		c.MaxKeys = 100_000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 256 << 20
	}
	return c, nil
}

// StateFrom returns the state that keys use under ctx: of the [PipelineContext], else of
// the running call's executor, else nil. In a transaction it is the transaction's.
func StateFrom(ctx context.Context) *SharedState { return scopeOf(ctx).state() }

// stateFor is StateFrom for an operation on a key.
func stateFor(ctx context.Context, key string) (*SharedState, error) {
	s := scopeOf(ctx).state()
	if s == nil || s.store == nil || s.scope.Closed() {
		return nil, s.missing(key)
	}
	return s, nil
}

// check returns an error if s was closed, or not made by NewSharedState.
func (s *SharedState) check(key string) error {
	if s == nil || s.store == nil || s.scope.Closed() {
		return s.missing(key)
	}
	return nil
}

// missing says why s is no state to work on.
func (s *SharedState) missing(key string) error {
	e := &stateError{key: key, reason: ErrNoState}
	switch {
	case s == nil:
		e.detail = "the context has none"
	case s.store == nil:
		e.detail = "the SharedState was not made by NewSharedState"
	default:
		e.detail = "the SharedState is closed"
	}
	return e
}

// Close ends the watches of s and makes every later operation fail with [ErrNoState].
// A store gives up its memory and closes its views with it. The view's keys stay in
// its parent; call Clear first to delete them. Close may be called again, and at once
// with anything else; the error is always nil.
func (s *SharedState) Close() error {
	switch {
	case s == nil || s.store == nil || s.txn != nil:
	case s.parent != nil:
		s.store.Leave(s.scope)
	default:
		s.store.Close()
	}
	return nil
}

// Clear deletes all keys of s, one after the other; a view deletes only its own. Keys
// that are written meanwhile may stay.
func (s *SharedState) Clear() {
	if s.check("") == nil {
		s.store.Clear(s.scope)
	}
}

// Errors of SharedState.
var (
	ErrAbsent    = errors.New("absent")
	ErrConflict  = errors.New("conflict")   // the version is another, or has been each time
	ErrOverflow  = errors.New("overflow")   // the sum is no value of the type
	ErrWrongType = errors.New("wrong type") // the key holds another Go type
	ErrFull      = errors.New("full")       // the write would go over a bound
	ErrNoState   = errors.New("no state")   // none in the context, or it is closed
)

// stateError says which key an error of SharedState is about. It is made for every miss
// of Get and every lost CompareAndSwap, so its text is put together only when asked for.
type stateError struct {
	key    string
	reason error
	detail string
}

func (e *stateError) Error() string {
	text := "sluice: shared state"
	if e.key != "" {
		text += " key " + quoted(e.key)
	}
	text += ": " + e.reason.Error()
	if e.detail != "" {
		text += ": " + oneLine(cut(e.detail, 512))
	}
	return text
}

func (e *stateError) Unwrap() error { return e.reason }

// quoted is a key as error texts show it: not longer than one reads, and on one line.
func quoted(key string) string { return strconv.Quote(cut(key, 128)) }

// oneLine is text as it is if all of it can be printed, else quoted.
func oneLine(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) || !utf8.ValidString(text) {
		return strconv.Quote(text)
	}
	return text
}

// errNotText is the reason of a write to a key that no snapshot could hold.
var errNotText = errors.New("not UTF-8: a key must be")

// errorOf turns how an operation of the store ended into an error.
func errorOf(key string, c kv.Code) error {
	switch c {
	case kv.OK:
		return nil
	case kv.Conflict:
		return &stateError{key: key, reason: ErrConflict, detail: "the version is another"}
	case kv.WrongType:
		return &stateError{key: key, reason: ErrWrongType}
	case kv.Overflow:
		return &stateError{key: key, reason: ErrOverflow}
	case kv.Full:
		return &stateError{key: key, reason: ErrFull, detail: "the write would go over a bound of its SharedState"}
	case kv.NotText:
		return &stateError{key: key, reason: errNotText}
	default:
		return &stateError{key: key, reason: ErrNoState, detail: "the SharedState is closed"}
	}
}
