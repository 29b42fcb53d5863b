package strictjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// schema is the members of a JSON Schema, as far as somebody has to know them.
type schema map[string]json.RawMessage

// CheckSchema refuses what is no JSON Schema of arguments. That has to be an object, as arguments
// are: true and false have nothing to say here. Nothing is none. subject is what the schema is
// called in errors.
func CheckSchema(subject string, doc []byte) error {
	_, err := readSchema(subject, doc)
	return err
}

func readSchema(subject string, doc []byte) (schema, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	if !json.Valid(doc) {
		return nil, fmt.Errorf("%s is not JSON: must be a JSON Schema or empty", subject)
	}
	var s schema
	err := Decode(doc, &s, Limits{MaxBytes: len(doc)})
	if err == nil && s == nil {
		err = errors.New("$ is null: must be an object")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	return s, nil
}

// Required is the arguments that the schema doc requires, sorted: what [Require] takes.
func Required(subject string, doc []byte) ([]string, error) {
	s, err := readSchema(subject, doc)
	if err != nil {
		return nil, err
	}
	if v, ok := s["type"]; ok {
		if name := ""; json.Unmarshal(v, &name) != nil || name != "object" {
			return nil, fmt.Errorf("%s has another type than \"object\": arguments are an object", subject)
		}
	}
	var list []any
	if v, ok := s["required"]; ok && json.Unmarshal(v, &list) != nil {
		return nil, fmt.Errorf("%s: required is no array: must be one of names", subject)
	}
	names := make([]string, len(list))
	for i, v := range list {
		name, ok := v.(string)
		if names[i] = name; !ok {
			return nil, fmt.Errorf("%s: required[%d] is no string: must be a name", subject, i)
		}
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("%s: required names %q twice: must name each once", subject, jsonx.Cut(name, 128, "…"))
		}
	}
	slices.Sort(names)
	return names, nil
}
