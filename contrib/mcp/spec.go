package sluicemcp

import (
	"encoding/json"
	"reflect"
	"slices"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// describe is what a tool says of itself.
func describe(prefix string, t *mcp.Tool) sluice.Spec {
	s := sluice.Spec{
		Name: registryName(prefix, t.Name), Description: t.Description,
		InputSchema: schema(t.InputSchema), OutputSchema: schema(t.OutputSchema),
		Hints: sluice.Hints{Destructive: true, OpenWorld: true}, // the protocol's defaults
	}
	if a := t.Annotations; a != nil {
		s.Hints = sluice.Hints{ReadOnly: a.ReadOnlyHint, Idempotent: a.IdempotentHint, OpenWorld: says(a.OpenWorldHint)}
		s.Hints.Destructive = !s.Hints.ReadOnly && says(a.DestructiveHint) // it means nothing of what only reads
	}
	return s
}

// says is a hint whose default is true.
func says(hint *bool) bool { return hint == nil || *hint }

// schema is a schema in whatever form a tool has it; nil if there is none.
func schema(v any) (b json.RawMessage) {
	if v == nil || agent.Contain("", func() { b, _ = json.Marshal(v) }) != nil || string(b) == "null" {
		return nil
	}
	return b
}

// infer fills in the schema of T, as the library does for itself, unless there is one. Of what it cannot infer the
// library says so.
func infer[T any](field *any) {
	t := reflect.TypeFor[T]()
	if *field != nil || t == reflect.TypeFor[any]() {
		return
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, err := jsonschema.ForType(t, &jsonschema.ForOptions{}); err == nil {
		*field = s
	}
}

// registryName is what the registry calls a tool: prefix and name, or, where it does not take that name, what
// [agent.NewNames] makes of it: what can be kept, and eight digits of its hash.
func registryName(prefix, name string) string {
	if fits(prefix + name) {
		return prefix + name
	}
	names, err := agent.NewNames(slices.Values([]sluice.Spec{{Name: name}}))
	if err != nil { // it is empty, which the registry says
		return prefix
	}
	return prefix + names.Name(name)
}

// fits reports whether the registry takes a name.
func fits(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return 0 < len(name) && len(name) <= 128
}
