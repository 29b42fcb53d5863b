package jsonschema

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/sluice-go/sluice"
)

// Register is [sluice.Register] with a Spec that [For] has filled in.
func Register[In, Out any](
	r *sluice.ToolRegistry, s sluice.Spec, fn func(context.Context, In) (Out, error),
) (*sluice.Tool[In, Out], error) {
	s, err := For[In, Out](s)
	if err != nil {
		return nil, err
	}
	return sluice.Register(r, s, fn)
}

// For fills in what s lacks of the schemas of a tool that takes an In and gives an Out, and has s.Check hold
// arguments against the InputSchema; a Check that s has is asked after that. The result is for
// [sluice.Replace], [sluice.Wrap] and [sluice.Declare]; for sluice.Register there is [Register].
//
// A schema that s has stays as it is, and is compiled. One that is not fit to be used is an error which says
// where, and so is a type that JSON does not have. The Check is safe for concurrent use and does not block.
func For[In, Out any](s sluice.Spec) (sluice.Spec, error) {
	inferred := len(s.InputSchema) == 0
	if inferred {
		t := reflect.TypeFor[In]()
		doc, err := infer(t, false)
		if err != nil {
			return s, fmt.Errorf("jsonschema: the arguments of %q: %w", s.Name, err)
		}
		if doc != nil && !bytes.HasPrefix(doc, []byte(`{"type":"object"`)) {
			return s, fmt.Errorf("jsonschema: the arguments of %q are a %v: must be an object, so a struct, a map or any", s.Name, t)
		}
		s.InputSchema = doc
	}
	if len(s.OutputSchema) == 0 {
		doc, err := infer(reflect.TypeFor[Out](), true)
		if err != nil {
			return s, fmt.Errorf("jsonschema: the result of %q: %w", s.Name, err)
		}
		s.OutputSchema = doc
	} else if _, err := compile(subject(&s, "OutputSchema"), s.OutputSchema); err != nil {
		return s, err
	}
	if len(s.InputSchema) == 0 {
		return s, nil
	}
	p, err := compile(subject(&s, "InputSchema"), s.InputSchema)
	if err != nil {
		return s, err
	}
	also := s.Check
	s.Check = func(ctx context.Context, c sluice.Call) error {
		args, err := c.JSON()
		switch {
		case inferred && (err != nil || isNull(args)):
			err = nil // a typed call with values that JSON does not have, or nil: they are of the type
		case err == nil:
			err = p.arguments(args)
		}
		if err != nil || also == nil {
			return err
		}
		return also(ctx, c)
	}
	return s, nil
}

func subject(s *sluice.Spec, name string) string {
	return fmt.Sprintf("jsonschema: Spec.%s of %q", name, cut(s.Name, maxName))
}

// arguments is check for what a call is given: null is as good as nothing.
func (p *program) arguments(args json.RawMessage) error {
	if isNull(args) {
		args = json.RawMessage("{}")
	}
	return p.check(args)
}

func isNull(args json.RawMessage) bool { return string(bytes.TrimSpace(args)) == "null" }
