package sluicegenkit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/xeipuuv/gojsonschema"
)

// maxProblems bounds how much a model is told at once of what is wrong with its arguments.
const maxProblems = 8

// schema checks arguments as genkit does, and with the same code, but before a call is admitted, when it costs
// nothing yet.
type schema struct{ compiled *gojsonschema.Schema }

// newSchema is nil for what is no schema, and for one that refers to others: their files are not fetched here.
func newSchema(of map[string]any) *schema {
	if of == nil || refersElsewhere(of) {
		return nil
	}
	compiled, err := gojsonschema.NewSchema(gojsonschema.NewGoLoader(of))
	if err != nil {
		return nil
	}
	return &schema{compiled}
}

// refersElsewhere reports whether something in a schema stands in another one.
func refersElsewhere(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if to, ok := x.(string); ok && k == "$ref" && !strings.HasPrefix(to, "#") {
				return true
			}
			if refersElsewhere(x) {
				return true
			}
		}
	case []any:
		for _, x := range v {
			if refersElsewhere(x) {
				return true
			}
		}
	}
	return false
}

// check says what is wrong with arguments.
func (s *schema) check(args []byte) error {
	d := json.NewDecoder(bytes.NewReader(args))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return err
	}
	res, err := s.compiled.Validate(gojsonschema.NewRawLoader(withoutNulls(v)))
	if err != nil || res.Valid() {
		return err
	}
	problems := res.Errors()
	var all []string
	for _, p := range problems[:min(len(problems), maxProblems)] {
		all = append(all, p.String())
	}
	if more := len(problems) - len(all); more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return errors.New(strings.Join(all, "; "))
}

// withoutNulls takes members that are null out of objects, as genkit does.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if x == nil {
				delete(v, k)
			} else {
				v[k] = withoutNulls(x)
			}
		}
	case []any:
		for i, x := range v {
			v[i] = withoutNulls(x)
		}
	}
	return v
}
