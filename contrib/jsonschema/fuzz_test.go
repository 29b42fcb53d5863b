package jsonschema

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	google "github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// comparable reports whether jsonschema-go can be asked of d: names differ, and float64 holds its fractions.
func comparable(d *document) bool {
	for i := range d.nodes {
		switch n := &d.nodes[i]; n.kind {
		case number:
			if len(d.raw(i)) > 15 || bytes.ContainsAny(d.raw(i), "eE") {
				return false
			}
		case object:
			var keys []string
			for _, m := range d.members(i) {
				keys = append(keys, string(d.nodes[m].key))
			}
			slices.Sort(keys)
			if len(slices.Compact(keys)) != n.count {
				return false
			}
		}
	}
	return true
}

var fuzzed = []string{
	`{"type":"object","properties":{"a":{"type":"integer","minimum":1,"exclusiveMaximum":100},"b":{"type":["string","null"],"minLength":2,"maxLength":4,"pattern":"^[a-zé]"},"c":{"$ref":"#"}},"required":["a"],"additionalProperties":false}`,
	`{"properties":{"k":{"enum":[1,"x",null,[1],{"a":1}]},"u":{"uniqueItems":true,"minItems":1,"maxItems":3}},"patternProperties":{"^n":{"type":"number"}},"additionalProperties":{"type":"boolean"},"propertyNames":{"maxLength":3},"minProperties":1,"maxProperties":3}`,
	`{"anyOf":[{"type":"array","prefixItems":[{"type":"string"}],"items":{"$ref":"#"},"contains":{"type":"number"},"maxContains":2},{"type":"number","maximum":5},{"oneOf":[{"required":["a"]},{"required":["b"]},{"const":"c"}]}]}`,
	`{"not":{"type":"string"},"if":{"required":["a"]},"then":{"dependentRequired":{"a":["b"]}},"else":{"dependentSchemas":{"c":{"maxProperties":1}}},"allOf":[{"properties":{"d":false}}]}`,
	`{"type":"object","allOf":[{"properties":{"a":{"type":"integer"}}}],"unevaluatedProperties":false}`,
	`{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"},{"$ref":"#","type":"null"}],"additionalItems":{"type":"number"},"dependencies":{"a":["b"],"b":{"minProperties":2}},"definitions":{"x":{}}}`,
}

// FuzzCheck holds verdicts to those of jsonschema-go, and errors to their bounds.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{
		`{"a":1,"b":"xyz","c":{"a":2}}`, `{"a":100,"b":null}`, `{"k":{"a":1.0},"u":[1,1.0]}`, `{"n1":1.5,"zz":true}`, `["x",1,[2]]`, `["x",["y",1,1,1]]`,
		`{"a":1,"b":2}`, `"c"`, `5.5`, `{"c":1,"e":1}`, `{"d":0}`, `[1,[],3]`, `{"b":1}`, `{"a":"\u00e9\ud83d\ude00"}`, `{"\u0061":1}`, `[[[[[[]]]]]]`, `null`, `-0`,
	} {
		for i := range fuzzed {
			f.Add([]byte(s), byte(i))
		}
	}
	var ours []*program
	var theirs []*google.Resolved
	for _, s := range fuzzed {
		p, err := compile("schema", []byte(s))
		require.NoError(f, err, s)
		p.lenient = false
		ours = append(ours, p)
		var g google.Schema
		require.NoError(f, json.Unmarshal([]byte(s), &g))
		r, err := g.Resolve(nil)
		require.NoError(f, err)
		theirs = append(theirs, r)
	}
	f.Fuzz(func(t *testing.T, data []byte, n byte) {
		i := int(n) % len(fuzzed)
		err := ours[i].check(data) // whatever it is, nothing panics
		if err != nil && (len(err.Error()) > maxText+len("…") || !strings.HasPrefix(err.Error(), "$") || !utf8.ValidString(err.Error())) {
			t.Fatalf("%q", err)
		}
		if !json.Valid(data) || !utf8.Valid(data) {
			return
		}
		d, wrong := parse(data, nil)
		require.NoError(t, wrong)
		v, ok := d.foreignValue(0, 0)
		if !ok || !comparable(&d) {
			return
		}
		if want := theirs[i].Validate(v); (want == nil) != (err == nil) {
			t.Fatalf("%s of %s: we say %v, jsonschema-go %v", data, fuzzed[i], err, want)
		}
	})
}

// FuzzCompile: no schema panics, nor makes a check of it run without end.
func FuzzCompile(f *testing.F) {
	for _, s := range fuzzed {
		f.Add([]byte(s), []byte(`{"a":[1,"x"],"b":{"a":1}}`))
	}
	f.Add([]byte(`{"$ref":"#/properties/a","properties":{"a":{"$ref":"#/$defs/%41~1~0"}},"$defs":{"A/~":{"$anchor":"x"}},"anyOf":[{"$ref":"#x"}]}`), []byte(`1`))
	f.Add([]byte(`{"$id":"https://a.b/c","$ref":"https://a.b/c#/$defs/d","$defs":{"d":{"multipleOf":1e-9}}}`), []byte(`1e99`))
	f.Fuzz(func(t *testing.T, schema, data []byte) {
		p, err := compile("schema", schema)
		if err != nil {
			require.Nil(t, p)
			return
		}
		if err := p.arguments(data); err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "$"), "%q", err)
		}
	})
}

// FuzzCall: a tool takes what its type takes and its schema allows, and nothing else.
func FuzzCall(f *testing.F) {
	for _, s := range []string{
		orderArgs, `{}`, ``, `null`, `{"customer":"x","lines":null,"due":"2026-01-02T03:04:05Z"}`, `{"customer":"x","lines":[{"sku":"a","n":65536}],"due":"x"}`,
		`{"customer":"x","lines":[{"sku":null,"n":3.0}],"due":"2026-01-02T03:04:05Z","note":null,"ship":null,"wait":null}`,
		`{"customer":"x","lines":[],"due":null}`, `{"customer":"x","lines":[null],"due":"2026-01-02T03:04:05Z","ship":{"street":"a"}}`,
		`{"customer":"x","Lines":[],"lines":[],"due":"2026-01-02T03:04:05Z"}`, `{"customer":"x","customer":"y","lines":[],"due":"2026-01-02T03:04:05Z"}`,
	} {
		f.Add([]byte(s))
	}
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{})
	require.NoError(f, err)
	tool := func(context.Context, order) (int, error) { return 1, nil }
	_, err = Register(exec.Registry(), sluice.Spec{Name: "with"}, tool)
	require.NoError(f, err)
	_, err = sluice.Register(exec.Registry(), sluice.Spec{Name: "without"}, tool)
	require.NoError(f, err)
	spec, _ := exec.Registry().Lookup("with")
	var g google.Schema
	require.NoError(f, json.Unmarshal(spec.InputSchema, &g))
	theirs, err := g.Resolve(nil)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, with := exec.Invoke(t.Context(), sluice.Request{Tool: "with", Args: data})
		_, without := exec.Invoke(t.Context(), sluice.Request{Tool: "without", Args: data})
		if without != nil {
			require.Error(t, with, "%s", data)
			return
		}
		if text := strings.TrimSpace(string(data)); text == "" || text == "null" {
			data = []byte("{}")
		}
		d, err := parse(data, nil)
		require.NoError(t, err)
		v, ok := d.foreignValue(0, 0)
		if !ok {
			return
		}
		want := theirs.Validate(withoutNulls(v, &g))
		require.Equal(t, want == nil, with == nil, "%s: we say %v, jsonschema-go %v", data, with, want)
		if with != nil {
			require.ErrorIs(t, with, sluice.ErrInvalidArguments)
		}
	})
}

// withoutNulls is v without the null of members that need not be there.
func withoutNulls(v any, s *google.Schema) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			if s.Items != nil {
				v[i] = withoutNulls(v[i], s.Items)
			}
		}
	case map[string]any:
		for name, p := range s.Properties {
			m, ok := v[name]
			if ok && m == nil && !slices.Contains(s.Required, name) {
				delete(v, name)
			} else if ok {
				v[name] = withoutNulls(m, p)
			}
		}
	}
	return v
}
