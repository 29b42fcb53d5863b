package agent

import (
	"encoding/json"
	"fmt"
	"iter"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/rawjson"
)

// listed is a tool as a model is told of it.
type listed struct {
	name, description string
	schema            []byte
	strict            bool
}

func (c *codec) Tools(lists ...iter.Seq[sluice.Spec]) (json.RawMessage, error) {
	p := &providers[c.format]
	b := append(make([]byte, 0, 1024), p.around[0]...)
	seen := map[string]bool{}
	for _, list := range lists {
		for spec := range list {
			t, err := c.listed(&spec)
			if err == nil && seen[t.name] {
				err = fmt.Errorf("agent: the tool %q is listed twice: names must differ", spec.Name)
			}
			if err != nil {
				return nil, err
			}
			if len(seen) > 0 {
				b = append(b, ',')
			}
			seen[t.name] = true
			b = p.tool(b, t)
		}
	}
	if len(seen) == 0 {
		return json.RawMessage("[]"), nil
	}
	return append(b, p.around[1]...), nil
}

func (c *codec) listed(spec *sluice.Spec) (*listed, error) {
	t := &listed{name: c.conf.Names.Name(spec.Name), description: spec.Description}
	const remedy = "set CodecConfig.Names to the NewNames of all tools"
	switch {
	case !fits(t.name):
		return nil, fmt.Errorf("agent: the tool %q: models take [A-Za-z0-9_-]{1,%d}: %s", spec.Name, maxName, remedy)
	case c.format == Gemini && !leads(t.name):
		return nil, fmt.Errorf("agent: the tool %q: Gemini takes a letter or _ at the front: %s", spec.Name, remedy)
	}
	var err error
	if t.schema, err = objectSchema(spec.InputSchema); err != nil {
		return nil, fmt.Errorf("agent: the InputSchema of the tool %q %w", spec.Name, err)
	}
	if c.conf.Strict && (c.format == OpenAIChat || c.format == OpenAIResponses) {
		if s, err := StrictSchema(t.schema); err == nil {
			t.schema, t.strict = s, true
		}
	}
	return t, nil
}

// objectSchema is a schema that says that arguments are an object, as providers demand.
func objectSchema(schema []byte) ([]byte, error) {
	c := rawjson.New(schema)
	if c.Kind() == 0 {
		return []byte(`{"type":"object","properties":{}}`), nil
	}
	typed, n := false, 0
	for more := c.Open('{'); more; more = c.More('}') {
		typed = string(c.Key()) == "type" || typed
		c.Skip()
		n++
	}
	if err := c.End(); err != nil {
		return nil, err
	}
	if typed {
		return schema, nil
	}
	inside := trim(schema)[1:]
	if n == 0 {
		return append([]byte(`{"type":"object"`), inside...), nil
	}
	return append([]byte(`{"type":"object",`), inside...), nil
}

func (t *listed) append(b []byte, schema string) []byte {
	b = jsonx.AppendString(append(b, `"name":`...), t.name, maxName)
	if t.description != "" {
		b = jsonx.AppendString(append(b, `,"description":`...), t.description, len(t.description))
	}
	return append(append(append(append(b, `,"`...), schema...), `":`...), t.schema...)
}

func (t *listed) appendStrict(b []byte) []byte {
	if t.strict {
		return append(b, `,"strict":true}`...)
	}
	return append(b, `,"strict":false}`...)
}

func chatTool(b []byte, t *listed) []byte {
	b = t.append(append(b, `{"type":"function","function":{`...), "parameters")
	return append(t.appendStrict(b), '}')
}

func responsesTool(b []byte, t *listed) []byte {
	return t.appendStrict(t.append(append(b, `{"type":"function",`...), "parameters"))
}

func anthropicTool(b []byte, t *listed) []byte {
	return append(t.append(append(b, '{'), "input_schema"), '}')
}

func geminiTool(b []byte, t *listed) []byte {
	return append(t.append(append(b, '{'), "parametersJsonSchema"), '}')
}
