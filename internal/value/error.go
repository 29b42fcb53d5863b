package value

import (
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/kv"
)

// Error says which key an error is about. One is made for every miss and every lost comparison, so its
// text is put together only when asked for.
type Error struct {
	Key    string // may be empty
	Reason error
	Detail string // may be empty
}

func (e *Error) Error() string {
	s := "sluice: shared state"
	if e.Key != "" {
		s += " key " + errtext.Quote(e.Key)
	}
	s += ": " + e.Reason.Error()
	if e.Detail != "" {
		s += ": " + errtext.Line(e.Detail)
	}
	return s
}

func (e *Error) Unwrap() error { return e.Reason }

// Explain is an error of this package's functions as who uses the key gets it: with the reason that
// reasons have for it. One that the user's function or context gave passes.
func Explain(key string, err error, reasons []error) error {
	switch x := err.(type) {
	case kv.Code:
		return &Error{key, reasons[x], x.Error()}
	case *Mismatch:
		return &Error{key, reasons[kv.WrongType], x.Error()}
	case *kv.Failed:
		return explainFar(key, x, reasons[x.Code])
	}
	return err
}

// Usable is why no operation on v is possible, for the reason given: it is nil, was not made by [New], or
// is closed. Else it is nil.
func Usable(v *kv.View, key string, reason error) error {
	switch {
	case v == nil:
		return &Error{key, reason, "the context has none: use the context that a tool gets, or WithState"}
	case v.Open():
		return nil
	case v.Store == nil:
		return &Error{key, reason, "the SharedState was not made by NewSharedState"}
	}
	return &Error{key, reason, kv.Closed.Error()}
}
