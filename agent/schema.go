package agent

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/rawjson"
)

// maxSchemaDepth bounds how deep a schema is nested.
const maxSchemaDepth = 64

// StrictSchema is schema in the form that OpenAI's strict mode demands, in which a model's arguments always
// fit it: each object allows its own properties alone and requires them all, and those that were
// optional may be null instead. So an argument that the model leaves out comes as null: typed tools read it
// as if it were not there, and a Spec.Check must take it. A default is left out, as strict mode does not
// take it.
//
// What strict mode cannot say is an error that names the place: maps (an object with other properties, or
// without any below the top), and allOf, oneOf, not, if and their like.
func StrictSchema(schema json.RawMessage) (json.RawMessage, error) {
	c := rawjson.New(schema)
	if c.Skip(); c.End() != nil {
		return nil, fmt.Errorf("agent: the schema %w", c.Err())
	}
	b, err := strict(nil, bytes.TrimSpace(schema), "$", 0)
	if err != nil {
		return nil, fmt.Errorf("agent: the schema cannot be strict: %w", err)
	}
	return b, nil
}

// strict appends raw, the schema at path, in its strict form.
func strict(b, raw []byte, path string, depth int) ([]byte, error) {
	if depth > maxSchemaDepth {
		return nil, fmt.Errorf("%s is nested too deep: at most %d levels are allowed", path, maxSchemaDepth)
	}
	if len(raw) == 0 || raw[0] != '{' {
		return nil, fmt.Errorf("%s is no object: must be one", path)
	}
	var object, others, props bool
	required := map[string]bool{}
	c := rawjson.New(raw)
	for more := c.Open('{'); more; more = c.More('}') {
		switch key := string(c.Key()); key {
		case "type":
			object = bytes.Contains(c.Skip(), []byte(`"object"`))
		case "additionalProperties":
			others = string(c.Skip()) != "false"
		case "properties":
			c.Skip()
			props = true
		case "required":
			var names []string
			if json.Unmarshal(c.Skip(), &names) != nil {
				return nil, fmt.Errorf("%s.required is no list of names: must be one", path)
			}
			for _, name := range names {
				required[name] = true
			}
		case "allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas",
			"patternProperties", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "prefixItems",
			"contains", "minContains", "maxContains", "uniqueItems", "minProperties", "maxProperties":
			return nil, fmt.Errorf("%s has %s: strict mode does not have it", path, key)
		default:
			c.Skip()
		}
	}
	object = object || props
	if object && (others || !props && depth > 0) {
		return nil, fmt.Errorf("%s is an object with any properties: must list all that it may have", path)
	}
	b = append(b, '{')
	n := 0
	member := func(key string) {
		if n++; n > 1 {
			b = append(b, ',')
		}
		b = append(jsonx.AppendString(b, key, len(key)), ':')
	}
	var all []byte // the names of the properties, as they are written
	var err error
	c = rawjson.New(raw)
	for more := c.Open('{'); more; more = c.More('}') {
		key := string(c.Key())
		value := c.Skip()
		switch key {
		case "required", "additionalProperties", "default", "examples", "$schema":
			continue
		}
		member(key)
		switch at := path + "." + key; {
		case key == "properties":
			b, all, err = strictProperties(b, value, required, at, depth)
		case key == "items":
			b, err = strict(b, value, at, depth+1)
		case key == "$defs" || key == "definitions":
			b, err = strictEach(b, value, at, depth)
		case key == "anyOf":
			b, err = strictEach(b, value, at, depth)
		default:
			b = append(b, value...)
		}
		if err != nil {
			return nil, err
		}
	}
	if object {
		if !props {
			member("properties")
			b = append(b, `{}`...)
		}
		member("required")
		b = append(append(append(b, '['), all...), ']')
		member("additionalProperties")
		b = append(b, `false`...)
	}
	return append(b, '}'), nil
}

func strictProperties(b, raw []byte, required map[string]bool, path string, depth int) (_, all []byte, err error) {
	if raw[0] != '{' {
		return nil, nil, fmt.Errorf("%s is no object: must be one", path)
	}
	b = append(b, '{')
	names := map[string]bool{}
	c := rawjson.New(raw)
	for more := c.Open('{'); more; more = c.More('}') {
		name := string(c.Key())
		if names[name] {
			return nil, nil, fmt.Errorf("%s has %q twice: names must differ", path, name)
		}
		if len(names) > 0 {
			b, all = append(b, ','), append(all, ',')
		}
		names[name] = true
		all = jsonx.AppendString(all, name, len(name))
		b = append(jsonx.AppendString(b, name, len(name)), ':')
		one, err := strict(nil, c.Skip(), path+"."+name, depth+1)
		if err != nil {
			return nil, nil, err
		}
		if required[name] {
			b = append(b, one...)
		} else {
			b = nullable(b, one)
		}
	}
	return append(b, '}'), all, nil
}

// strictEach appends a list or an object of schemas.
func strictEach(b, raw []byte, path string, depth int) ([]byte, error) {
	if raw[0] != '{' && raw[0] != '[' {
		return nil, fmt.Errorf("%s is no list or object of schemas: must be one", path)
	}
	var err error
	b = append(b, raw[0])
	c := rawjson.New(raw)
	n := 0
	for more := c.Open(raw[0]); more; more = c.More(raw[0] + 2) {
		if n++; n > 1 {
			b = append(b, ',')
		}
		if raw[0] == '{' {
			name := string(c.Key())
			b = append(jsonx.AppendString(b, name, len(name)), ':')
		}
		if b, err = strict(b, c.Skip(), fmt.Sprintf("%s[%d]", path, n-1), depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, raw[0]+2), nil
}

// nullable appends schema, or null. A plain type gets another beside it; a schema with other words about its
// value stands in an anyOf.
func nullable(b, schema []byte) []byte {
	var kind []byte
	plain := true
	c := rawjson.New(schema)
	for more := c.Open('{'); more; more = c.More('}') {
		switch string(c.Key()) {
		case "type":
			kind = c.Skip()
		case "enum", "const", "$ref", "anyOf":
			plain = false
			c.Skip()
		default:
			c.Skip()
		}
	}
	switch {
	case bytes.Contains(kind, []byte(`"null"`)) && plain:
		return append(b, schema...)
	case len(kind) == 0 && plain, !plain:
		return append(append(append(b, `{"anyOf":[`...), schema...), `,{"type":"null"}]}`...)
	}
	i := typeAt(schema)
	b = append(b, schema[:i]...)
	if kind[0] == '[' {
		b = append(append(b, kind[:len(kind)-1]...), `,"null"]`...)
	} else {
		b = append(append(append(b, '['), kind...), `,"null"]`...)
	}
	return append(b, schema[i+len(kind):]...)
}

// typeAt is where the value of a schema's type begins.
func typeAt(schema []byte) (at int) {
	c := rawjson.New(schema)
	for more := c.Open('{'); more; more = c.More('}') {
		is := string(c.Key()) == "type"
		if c.Kind(); is {
			at = c.Pos()
		}
		c.Skip()
	}
	return at
}
