package jsonschema_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/contrib/jsonschema"
)

type (
	query struct {
		Text   string         `json:"text" jsonschema:"what to look for"`
		Limit  int            `json:"limit,omitempty"`
		Filter []filter       `json:"filter"`
		Within *time.Duration `json:"within,omitempty"`
	}
	filter struct {
		Field string `json:"field"`
		Value any    `json:"value,omitempty"`
	}
	hits struct {
		Titles []string `json:"titles"`
	}
)

func newExecutor(t *testing.T, c sluice.Config) *sluice.Executor {
	t.Helper()
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, exec.Close(context.Background())) })
	return exec
}

func call(exec *sluice.Executor, tool, args string) (sluice.Result, error) {
	return exec.Invoke(context.Background(), sluice.Request{Tool: tool, Args: json.RawMessage(args)})
}

// cause is what a refused call is told of its arguments.
func cause(t *testing.T, err error) string {
	t.Helper()
	var e *sluice.Error
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, sluice.ErrRejected)
	require.Equal(t, sluice.ErrInvalidArguments, e.Reason)
	return e.Cause.Error()
}

func TestRegister(t *testing.T) {
	ran := 0
	rec := new(sluice.Recorder)
	exec := newExecutor(t, sluice.Config{Sink: rec})
	tool, err := jsonschema.Register(exec.Registry(), sluice.Spec{Name: "search", Description: "finds", Policy: sluice.Policy{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}, MaxWait: sluice.NoWait}},
		func(_ context.Context, q query) (hits, error) {
			ran++
			return hits{[]string{q.Text}}, nil
		})
	require.NoError(t, err)
	spec, ok := exec.Registry().Lookup("search")
	require.True(t, ok)
	require.Equal(t, "finds", spec.Description)
	require.JSONEq(t, `{"type":"object","properties":{"text":{"type":"string","description":"what to look for"},"limit":{"type":"integer"},
		"filter":{"type":["array","null"],"items":{"type":"object","properties":{"field":{"type":"string"},"value":{}},"required":["field"],"additionalProperties":false}},
		"within":{"type":"integer","description":"nanoseconds"}},"required":["text","filter"],"additionalProperties":false}`, string(spec.InputSchema))
	require.JSONEq(t, `{"type":"object","properties":{"titles":{"type":["array","null"],"items":{"type":"string"}}},"required":["titles"],"additionalProperties":false}`, string(spec.OutputSchema))

	// Refused before admission: the one token of the hour is still there.
	_, err = call(exec, "search", `{"text":"go","filter":[{"field":"a"},{"value":1},{}]}`)
	require.Equal(t, `$.filter[1] lacks "field": required; $.filter[2] lacks "field": required`, cause(t, err))
	d := exec.Explain(context.Background(), sluice.Request{Tool: "search", Args: json.RawMessage(`{"text":null,"filter":[]}`)})
	require.Equal(t, `$.text is null: must be a string`, cause(t, d.Refusal))
	require.Zero(t, ran)
	require.NotContains(t, rec.Trace(), "started")
	require.Contains(t, sluice.ModelText(err), `$.filter[1] lacks`)

	res, err := call(exec, "search", `{"text":"go","filter":[{"field":"a","value":null}],"limit":null}`)
	require.NoError(t, err)
	require.Equal(t, hits{[]string{"go"}}, res.Value)
	require.Equal(t, 1, ran)

	_, err = tool.Invoke(context.Background(), exec, query{Text: "a typed call fits its own type"})
	require.NotErrorIs(t, err, sluice.ErrInvalidArguments)
}

// What came is what is held against the schema, and not what the tool's type makes of it: what is left out is
// not zero.
func TestArgumentsAreCheckedAsTheyCame(t *testing.T) {
	type in struct {
		N  int   `json:"n"`
		ID int64 `json:"id"`
	}
	exec := newExecutor(t, sluice.Config{})
	var got in
	_, err := jsonschema.Register(exec.Registry(), sluice.Spec{Name: "x", InputSchema: json.RawMessage(
		`{"type":"object","properties":{"n":{"type":"integer","minimum":1},"id":{"minimum":9007199254740993}}}`,
	)}, func(_ context.Context, v in) (int, error) {
		got = v
		return v.N, nil
	})
	require.NoError(t, err)
	for _, args := range []string{``, ` `, `null`, `{}`} {
		_, err = call(exec, "x", args)
		require.NoError(t, err, args)
	}
	_, err = call(exec, "x", `{"n":0,"id":9007199254740992}`)
	require.Equal(t, "$.n is too small: must be at least 1; $.id is too small: must be at least 9007199254740993", cause(t, err))
	_, err = call(exec, "x", `{"id":9007199254740993}`)
	require.NoError(t, err)
	require.Equal(t, in{0, 9007199254740993}, got)

	// A typed call is held against a schema that somebody wrote as what encoding/json makes of it.
	_, err = exec.Invoke(context.Background(), sluice.Request{Tool: "x", Input: in{N: 1}})
	require.Equal(t, "$.id is too small: must be at least 9007199254740993", cause(t, err))
}

func TestRawTools(t *testing.T) {
	exec := newExecutor(t, sluice.Config{})
	echo := func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil }
	_, err := jsonschema.Register(exec.Registry(), sluice.Spec{Name: "any"}, echo)
	require.NoError(t, err)
	spec, _ := exec.Registry().Lookup("any")
	require.Empty(t, spec.InputSchema)
	require.Empty(t, spec.OutputSchema)
	_, err = call(exec, "any", `[1]`)
	require.NoError(t, err)

	const schema = `{"properties":{"n":{"type":"integer","maximum":9007199254740993}}}`
	_, err = jsonschema.Register(exec.Registry(), sluice.Spec{Name: "some", InputSchema: json.RawMessage(schema)}, echo)
	require.NoError(t, err)
	spec, _ = exec.Registry().Lookup("some")
	require.Equal(t, schema, string(spec.InputSchema), "it stays as it is")
	res, err := call(exec, "some", `{ "n": 9007199254740993 }`)
	require.NoError(t, err)
	require.Equal(t, `{ "n": 9007199254740993 }`, string(res.Value.(json.RawMessage)))
	_, err = call(exec, "some", `{"n":9007199254740994}`)
	require.Equal(t, "$.n is too large: must be at most 9007199254740993", cause(t, err))
	_, err = call(exec, "some", strings.Repeat(`{"n":`, 10_000)+"1"+strings.Repeat("}", 10_000))
	require.ErrorContains(t, err, "is nested too deep")
}

// A Check that the spec has comes after the schema, and Declare, Replace and Wrap take what For gives.
func TestFor(t *testing.T) {
	asked := 0
	no := errors.New("not on Sundays")
	own := sluice.Spec{Name: "x", Check: func(_ context.Context, c sluice.Call) error {
		asked++
		return no
	}}
	spec, err := jsonschema.For[query, hits](own)
	require.NoError(t, err)
	exec := newExecutor(t, sluice.Config{})
	run, err := sluice.Wrap(exec, spec, func(context.Context, query) (hits, error) { return hits{}, nil })
	require.NoError(t, err)
	_, err = call(exec, "x", `{"text":1}`)
	require.Error(t, err)
	require.Zero(t, asked)
	_, err = call(exec, "x", `{"text":"a","filter":[{}]}`)
	require.Equal(t, `$.filter[0] lacks "field": required`, cause(t, err))
	require.Zero(t, asked)
	_, err = call(exec, "x", `{"text":"a","filter":[]}`)
	require.ErrorIs(t, err, no)
	_, err = run(context.Background(), query{})
	require.ErrorIs(t, err, no)
	require.Equal(t, 2, asked)

	spec.Check = nil
	spec, err = jsonschema.For[query, hits](spec) // of a spec that has its schemas: they are compiled
	require.NoError(t, err)
	_, err = sluice.Replace(exec.Registry(), spec, func(context.Context, query) (hits, error) { return hits{}, nil })
	require.NoError(t, err)
	_, err = call(exec, "x", `{"text":"a","filter":[{}]}`)
	require.Equal(t, `$.filter[0] lacks "field": required`, cause(t, err))

	declared, err := jsonschema.For[query, hits](sluice.Spec{Name: "declared"})
	require.NoError(t, err)
	require.NoError(t, sluice.Declare(exec.Registry(), declared))
	r := sluice.Request{Tool: "declared", Args: json.RawMessage(`{"text":"a","filter":[{}]}`)}
	_, err = sluice.Do(context.Background(), exec, r, func(context.Context) (int, error) { return 1, nil })
	require.Equal(t, `$.filter[0] lacks "field": required`, cause(t, err))
}

// A typed call need not have a form in JSON, unless somebody wrote the schema.
func TestTypedCallsWithoutJSON(t *testing.T) {
	type in struct{ F float64 }
	exec := newExecutor(t, sluice.Config{})
	id := func(_ context.Context, v in) (bool, error) { return math.IsNaN(v.F), nil }
	tool, err := jsonschema.Register(exec.Registry(), sluice.Spec{Name: "inferred"}, id)
	require.NoError(t, err)
	nan, err := tool.Invoke(context.Background(), exec, in{math.NaN()})
	require.NoError(t, err)
	require.True(t, nan)
	byPointer, err := jsonschema.Register(exec.Registry(), sluice.Spec{Name: "pointer"}, func(_ context.Context, v *in) (bool, error) { return v == nil, nil })
	require.NoError(t, err)
	none, err := byPointer.Invoke(context.Background(), exec, nil)
	require.NoError(t, err)
	require.True(t, none)
	for _, args := range []string{`null`, `{}`, ``} { // as JSON that is no input
		_, err = call(exec, "pointer", args)
		require.Equal(t, `$ lacks "F": required`, cause(t, err))
	}
	tool, err = jsonschema.Register(exec.Registry(), sluice.Spec{Name: "written", InputSchema: json.RawMessage(`{"properties":{"F":{"type":"number"}}}`)}, id)
	require.NoError(t, err)
	_, err = tool.Invoke(context.Background(), exec, in{math.NaN()})
	require.ErrorIs(t, err, sluice.ErrInvalidArguments)
}

func TestForRefuses(t *testing.T) {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	_, err := jsonschema.For[string, int](sluice.Spec{Name: "x"})
	assert.EqualError(t, err, `jsonschema: the arguments of "x" are a string: must be an object, so a struct, a map or any`)
	_, err = jsonschema.For[[]int, int](sluice.Spec{Name: "x"})
	assert.EqualError(t, err, `jsonschema: the arguments of "x" are a []int: must be an object, so a struct, a map or any`)
	_, err = jsonschema.For[struct{ F func() }, int](sluice.Spec{Name: "x"})
	assert.EqualError(t, err, `jsonschema: the arguments of "x": $.F is a func(): JSON has none`)
	_, err = jsonschema.For[struct{}, chan int](sluice.Spec{Name: "x"})
	assert.EqualError(t, err, `jsonschema: the result of "x": $ is a chan int: JSON has none`)
	_, err = jsonschema.For[query, int](sluice.Spec{Name: "x", InputSchema: raw(`{"type":"objekt"}`)})
	assert.EqualError(t, err, `jsonschema: Spec.InputSchema of "x": #/type must be of "array", "boolean", "integer", "null", "number", "object" and "string"`)
	_, err = jsonschema.For[query, int](sluice.Spec{Name: "x", OutputSchema: raw(`{"minimum":true}`)})
	assert.EqualError(t, err, `jsonschema: Spec.OutputSchema of "x": #/minimum must be a number`)
	_, err = jsonschema.Register(sluice.NewToolRegistry(), sluice.Spec{Name: "x", InputSchema: raw(`{"$ref":"https://example.com/s.json"}`)},
		func(context.Context, query) (int, error) { return 0, nil })
	assert.EqualError(t, err, `jsonschema: Spec.InputSchema of "x": $ref "https://example.com/s.json" leads elsewhere: must begin with #`)
	_, err = jsonschema.Register(nil, sluice.Spec{Name: "x"}, func(context.Context, query) (int, error) { return 0, nil })
	assert.ErrorContains(t, err, "the ToolRegistry is nil")
}

type node struct {
	Name string  `json:"name" jsonschema:"what it is called"`
	Kids []*node `json:"kids"`
	Next *node   `json:"next,omitempty" jsonschema:"the one behind it"`
}

// Inferred schemas are what all four providers take, strict where there is such a mode; what a model makes of
// them, with null where it has nothing to say, fits.
func TestAgents(t *testing.T) {
	exec := newExecutor(t, sluice.Config{})
	_, err := jsonschema.Register(exec.Registry(), sluice.Spec{Name: "search"}, func(_ context.Context, q query) (string, error) { return q.Text, nil })
	require.NoError(t, err)
	_, err = jsonschema.Register(exec.Registry(), sluice.Spec{Name: "tree"}, func(_ context.Context, n node) (string, error) { return n.Name, nil })
	require.NoError(t, err)
	for _, f := range []agent.Format{agent.OpenAIChat, agent.OpenAIResponses, agent.Anthropic, agent.Gemini} {
		codec, err := f.With(agent.CodecConfig{Strict: true})
		require.NoError(t, err)
		tools, err := codec.Tools(exec.Registry().Tools())
		require.NoError(t, err)
		require.True(t, json.Valid(tools))
		strict := f == agent.OpenAIChat || f == agent.OpenAIResponses
		require.Equal(t, strict, strings.Count(string(tools), `"strict":true`) == 2, "%s", tools)
		require.NotContains(t, string(tools), `"strict":false`)
		require.Equal(t, strict, strings.Contains(string(tools), `"limit":{"type":["integer","null"]}`))
	}
	spec, _ := exec.Registry().Lookup("tree")
	strict, err := agent.StrictSchema(spec.InputSchema)
	require.NoError(t, err)
	require.JSONEq(t, `{"type":"object","properties":{"name":{"type":"string","description":"what it is called"},
		"kids":{"type":["array","null"],"items":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},
		"next":{"anyOf":[{"description":"the one behind it","anyOf":[{"$ref":"#"}]},{"type":"null"}]}},
		"required":["name","kids","next"],"additionalProperties":false}`, string(strict))

	for args, want := range map[string]string{
		`{"text":"go","limit":null,"filter":[{"field":"a","value":null}],"within":null}`:         "go",
		`{"text":"go","limit":1,"filter":[],"within":5}`:                                         "go",
		`{"name":"a","kids":[{"name":"b","kids":[],"next":null}],"next":{"name":"c","kids":[]}}`: "a",
	} {
		tool := "search"
		if want == "a" {
			tool = "tree"
		}
		res, err := call(exec, tool, args)
		require.NoError(t, err, args)
		require.Equal(t, want, res.Value)
	}
	_, err = call(exec, "tree", `{"name":"a","kids":[{"kids":[null,{"name":"d","kids":null,"next":{}}]}]}`)
	require.Equal(t, `$.kids[0] lacks "name": required; $.kids[0].kids[1].next lacks "name", "kids": required`, cause(t, err))
}
