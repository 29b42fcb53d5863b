package sluicegenkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"sync"

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/core/api"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// maxTools bounds how many tools a guard remembers; beyond that it looks at them anew.
const maxTools = 10_000

// guard knows the tools that are called.
type guard struct {
	exec *sluice.Executor
	conf Config

	mu    sync.RWMutex
	tools map[string]*tool // by genkit's name
}

// tool is one as it was declared; it does not change.
type tool struct {
	title  string         // genkit's name
	name   string         // in the registry
	input  map[string]any // its schema as genkit has it
	schema *schema        // the same, to check arguments by; nil if they are not
}

func newGuard(e *sluice.Executor, c Config) *guard {
	return &guard{exec: e, conf: c, tools: map[string]*tool{}}
}

func (g *guard) isMade() error {
	if g.exec.Registry() == nil {
		return errors.New("sluicegenkit: the Executor is nil or zero: use sluice.NewExecutor")
	}
	return nil
}

// declared is a tool that is called, which has been declared as it is now.
func (g *guard) declared(t ai.Tool) (*tool, error) {
	title := t.Name()
	g.mu.RLock()
	was := g.tools[title]
	g.mu.RUnlock()
	if was != nil && same(was.input, inputOf(t)) {
		return was, nil
	}
	now, err := g.declare(t)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.tools) >= maxTools {
		clear(g.tools)
	}
	g.tools[title] = now
	return now, nil
}

// forget has a tool declared when it is called again.
func (g *guard) forget(t *tool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.tools, t.title)
}

// inputOf is the schema of a tool's arguments. It is asked at each call.
func inputOf(t ai.Tool) map[string]any {
	if a, ok := t.(api.Action); ok {
		return a.Desc().InputSchema
	}
	return t.Definition().InputSchema
}

// same reports whether a schema is what it was. Tools that are made anew for each run have ever new ones alike.
func same(a, b map[string]any) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer() || reflect.DeepEqual(a, b)
}

// declaring is held while a tool is looked up and declared: several guards may have one of that name.
var declaring sync.Mutex

// declare declares a tool, unless the registry has it as it is. What somebody has declared before stays what he said
// it is. Once there were tools of one name with different schemas, the registry has none for that name.
func (g *guard) declare(t ai.Tool) (*tool, error) {
	def, r := t.Definition(), g.exec.Registry()
	x := &tool{title: def.Name, name: registryName(g.conf.Prefix, def.Name), input: inputOf(t), schema: newSchema(def.InputSchema)}
	spec := sluice.Spec{Name: x.name, Description: def.Description, Check: checkArguments,
		InputSchema: asObject(def.InputSchema), OutputSchema: asObject(def.OutputSchema)}
	if _, there := r.Lookup(x.name); !there {
		var err error
		if spec.Policy, err = g.conf.policy(x.name); err != nil {
			return nil, err
		}
	}
	declaring.Lock()
	defer declaring.Unlock()
	if was, there := r.Lookup(x.name); there {
		spec.Type, spec.Hints = was.Type, was.Hints
		if was.Check != nil {
			spec.Check = was.Check
			alike := bytes.Equal(was.InputSchema, spec.InputSchema)
			if alike && was.Description == spec.Description {
				return x, nil
			}
			if !alike {
				spec.InputSchema, spec.OutputSchema = nil, nil
			}
		}
	}
	return x, sluice.Declare(r, spec)
}

// checkArguments checks those of a call by the schema of the tool that it is of.
func checkArguments(ctx context.Context, c sluice.Call) error {
	x, _ := ctx.Value(callingKey{}).(*calling)
	if x == nil || x.tool.name != c.Tool || x.tool.schema == nil {
		return nil
	}
	args, err := c.JSON()
	if err != nil {
		return err
	}
	return x.tool.schema.check(args)
}

// asObject is a schema for the registry, which takes those of objects alone.
func asObject(schema map[string]any) json.RawMessage {
	if schema["type"] != "object" {
		return nil
	}
	raw, err := json.Marshal(schema)
	if err != nil {
		return nil
	}
	return raw
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
