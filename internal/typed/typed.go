// Package typed stands between functions of callers' own types and a library that carries values of any:
// what such a function takes and answers.
//
// It keeps nothing and locks nothing. [Decode] calls UnmarshalJSON methods, and survives their panics;
// [Func] and [CodeOf] call the function, whose panics and Goexits go on up.
package typed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Func is fn for a value that [Accepts] has accepted.
func Func[In, Out any](fn func(context.Context, In) (Out, error)) func(context.Context, any) (any, error) {
	return func(ctx context.Context, in any) (any, error) {
		v, _ := in.(In)
		return Any(fn(ctx, v))
	}
}

// Code is the code of one call.
type Code interface {
	Run(context.Context) (any, error)
}

// CodeOf is a function as [Code]; a nil one fails. Nothing is allocated for it.
type CodeOf[Out any] func(context.Context) (Out, error)

// Run calls the function.
func (fn CodeOf[Out]) Run(ctx context.Context) (any, error) {
	if fn == nil {
		return nil, errors.New("sluice: Do: the function is nil: must not be")
	}
	return Any(fn(ctx))
}

// Any is what a function gave; of an error nothing goes with it.
func Any[Out any](out Out, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Accepts reports whether in is an In. A nil interface is the zero value of one.
func Accepts[In any](in any) bool {
	_, ok := in.(In)
	return ok || in == nil && reflect.TypeFor[In]().Kind() == reflect.Interface
}

// Decode makes an Out of its JSON.
func Decode[Out any](raw json.RawMessage) (v any, err error) {
	var out Out
	defer func() { // a foreign UnmarshalJSON may panic
		if p := recover(); p != nil {
			v, err = nil, fmt.Errorf("sluice: decoding a result as %T: it panicked", out)
		}
	}()
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("sluice: decoding a result as %T: %w", out, err)
	}
	return out, nil
}

// Answer makes an Out of v, the answer of that tool: itself, or its JSON, or nil.
func Answer[Out any](tool string, v any) (Out, error) {
	out, ok := v.(Out)
	if raw, stored := v.(json.RawMessage); stored && !ok {
		v, err := Decode[Out](raw)
		out, _ = v.(Out)
		return out, err
	}
	if !ok && v != nil {
		return out, fmt.Errorf("sluice: tool %q answered %T: want %T, was it replaced?", tool, v, out)
	}
	return out, nil
}
