package blame

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// asks is an error that asks for a pause of so long.
type asks time.Duration

func (a asks) Error() string             { return "wait " + time.Duration(a).String() }
func (a asks) RetryAfter() time.Duration { return time.Duration(a) }

// ofPart is one about a part of the upstream.
type ofPart struct {
	asks
	part Part
}

func (p ofPart) ThrottledPart() (kind, key string) { return p.part.Kind, p.part.Key }

// around asks for a pause and wraps another.
type around struct {
	asks
	err error
}

func (a around) Unwrap() error { return a.err }

type panics struct{ error }

func (panics) RetryAfter() time.Duration { panic("no") }

var errRefused = errors.New("refused")

func TestOf(t *testing.T) {
	host := Part{"host", "h1"}
	for _, tt := range []struct {
		name    string
		err     error
		charged []error // of nested calls
		own     []Throttle
		nested  bool
		refused bool
		carried int
	}{
		{name: "nothing", err: errors.New("x")},
		{name: "its own", err: asks(5), own: []Throttle{{After: 5}}, carried: 1},
		{name: "for no time", err: asks(0), own: []Throttle{{}}, carried: 1},
		{name: "a negative time is none", err: asks(-1)},
		{name: "wrapped", err: fmt.Errorf("x: %w", asks(5)), own: []Throttle{{After: 5}}, carried: 1},
		{name: "of a part", err: ofPart{asks(5), host}, own: []Throttle{{5, host}}, carried: 1},
		{name: "two", err: errors.Join(asks(5), asks(7)), own: []Throttle{{After: 5}, {After: 7}}, carried: 2},
		{name: "one that speaks for others", err: around{asks(9), errors.Join(asks(5), asks(7))}, own: []Throttle{{After: 9}}, carried: 3},
		{name: "a nested call's", err: asks(5), charged: []error{asks(5)}, nested: true, carried: 1},
		{name: "a nested call's, wrapped", err: fmt.Errorf("x: %w", asks(5)), charged: []error{asks(5)}, nested: true, carried: 1},
		{name: "passed on with a time of its own", err: around{asks(9), asks(5)}, charged: []error{asks(5)}, nested: true, carried: 2},
		{name: "a nested call's and one's own", err: errors.Join(asks(5), asks(7)), charged: []error{asks(5)}, nested: true, own: []Throttle{{After: 7}}, carried: 2},
		{name: "under one that a nested call was charged with", err: around{asks(9), asks(5)}, charged: []error{around{asks(9), asks(5)}}, nested: true, carried: 2},
		{name: "a refusal", err: fmt.Errorf("x: %w", errRefused), refused: true},
		{name: "a method that panics has said nothing", err: panics{errors.New("x")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l Ledger
			for _, e := range tt.charged {
				c := Charge{Err: e, After: After(e)}
				l.Charge(1, c)
			}
			f := Of(tt.err, &l, 1, func(err error) bool { return err == errRefused })
			assert.Equal(t, tt.own, f.Own)
			assert.Equal(t, tt.nested, f.Nested)
			assert.Equal(t, tt.refused, f.Refused)
			assert.Len(t, f.Carried, tt.carried)
			if f = Of(tt.err, &l, 2, func(error) bool { return false }); f.Nested {
				t.Error("another attempt is blamed on the first one's nested calls")
			}
			if f = Of(tt.err, nil, 0, func(error) bool { return false }); f.Nested || len(f.Carried) < min(tt.carried, 1) {
				t.Errorf("without a ledger: %+v", f)
			}
		})
	}
}

func TestLongest(t *testing.T) {
	f := Found{Own: []Throttle{{After: 3}, {After: 9}, {After: 4}}}
	assert.Equal(t, time.Duration(9), f.Longest(), "longest")
}

// Beyond its bound a ledger takes whatever asks for a pause for a nested call's.
func TestLedgerIsBounded(t *testing.T) {
	var l Ledger
	for i := range 2 * maxCharges {
		l.Charge(1, Charge{errors.New(strconv.Itoa(i)), -1})
	}
	assert.Len(t, l.list, maxCharges, "charges are remembered")
	no := func(error) bool { return false }
	if f := Of(asks(5), &l, 1, no); !f.Nested || len(f.Own) > 0 {
		t.Errorf("one that asks: %+v", f)
	}
	f := Of(errors.New("x"), &l, 1, no)
	assert.False(t, f.Nested, "one that does not: %+v", f)
}

// An endless error is looked at for a while, and no longer.
type endless int

func (e endless) Error() string { return "endless" }
func (e endless) Unwrap() error { return e + 1 }

func TestEndless(t *testing.T) {
	if f := Of(endless(0), nil, 0, func(error) bool { return false }); f.Nested || f.Own != nil {
		t.Errorf("found %+v", f)
	}
}
