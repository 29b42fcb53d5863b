package value

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/kv"
)

// The reasons that users know.
var (
	ErrAbsent    = errors.New("absent")
	ErrConflict  = errors.New("conflict")
	ErrOverflow  = errors.New("overflow")
	ErrWrongType = errors.New("wrong type")
	ErrFull      = errors.New("full")
	ErrNoState   = errors.New("no state")
	ErrUnsure    = errors.New("outcome unknown")
)

// Reasons is why an operation of the store ended as it did.
var Reasons = []error{
	kv.Conflict:  ErrConflict,
	kv.WrongType: ErrWrongType,
	kv.Overflow:  ErrOverflow,
	kv.Full:      ErrFull,
	kv.NotText:   errors.New("not UTF-8: a key must be"), // else no snapshot could hold it
	kv.Closed:    ErrNoState,
	kv.Again:     ErrConflict,
	kv.Over:      ErrNoState,
	kv.TooMany:   ErrFull,
	kv.GivenUp:   ErrConflict,
	kv.Unsure:    ErrUnsure,
	kv.Away:      errors.New("the engine is away, or refuses"),
	kv.Crowded:   ErrConflict,
}

// Told is Explain with these, and costs nothing where there is no error.
func Told(key string, err error) error {
	if err == nil {
		return nil
	}
	return Explain(key, err, Reasons)
}

// CheckPrefix returns an error unless a view may have that prefix.
func CheckPrefix(prefix string) error {
	if prefix == "" || !utf8.ValidString(prefix) {
		return fmt.Errorf("sluice: the prefix of a view is %s: must be UTF-8, and not empty", errtext.Quote(prefix))
	}
	return nil
}

// Life is what lifetimes make of a write that does otherwise without; the last counts.
func Life[D ~int64](ttl []D, otherwise kv.Life) (kv.Life, error) {
	for _, d := range ttl {
		if otherwise = kv.Life(d); d <= 0 {
			return otherwise, fmt.Errorf("sluice: TTL is %v: must be positive", time.Duration(d))
		}
	}
	return otherwise, nil
}
