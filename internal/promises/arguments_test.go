package promises_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const canary = "sk-CANARY"

type (
	tattles      struct{}
	panics       struct{}
	textPanics   string
	typedPanics  struct{}
	customString string
)

func (*tattles) UnmarshalJSON(b []byte) error     { return fmt.Errorf("what is %s", b) }
func (*panics) UnmarshalJSON(b []byte) error      { panic(fmt.Sprintf("what is %s", b)) }
func (*textPanics) UnmarshalText(b []byte) error  { panic(fmt.Errorf("what is %s", b)) }
func (*typedPanics) UnmarshalJSON(b []byte) error { panic(json.RawMessage(b)) }

// refusedAll invokes a tool of In with each of args, all of which it must refuse, and hands
// over every text that came of it.
func refusedAll[In any](t *testing.T, spec sluice.Spec, each func(args, where, text string), args ...string) {
	t.Helper()
	for _, a := range args {
		var lines, logged bytes.Buffer
		sink := sluice.MultiSink(sluice.NewJSONSink(&lines), sluice.NewSlogSink(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))))
		r := newRig(t, sluice.Config{Sink: sink})
		spec.Name = "x"
		sluice.Must(sluice.Register(r.reg, spec, func(context.Context, In) (string, error) { return "", nil }))
		q := sluice.Request{Tool: "x", Args: json.RawMessage(a)}
		_, err := r.Invoke(r.ctx, q)
		var e *sluice.Error
		if !errors.As(err, &e) || e.Reason != sluice.ErrInvalidArguments || !errors.Is(err, sluice.ErrRejected) {
			t.Errorf("%T takes %s: %v", *new(In), a, err)
			continue
		}
		if d := r.Explain(r.ctx, q); d.Refusal == nil || d.Refusal.Error() != err.Error() {
			t.Errorf("%s: Invoke says %v, Explain %v", a, err, d.Refusal)
		}
		for err := error(err); err != nil; err = errors.Unwrap(err) {
			each(a, "an error", err.Error())
			each(a, "an error", fmt.Sprintf("%+v %q", err, err))
			if _, ok := err.(*sluice.PanicError); ok {
				break // what was given to panic is there for who asks
			}
		}
		b, err := json.Marshal(e)
		require.NoError(t, err)
		each(a, "an error's JSON", string(b))
		each(a, "the events", lines.String())
		each(a, "the log", logged.String())
		for _, ev := range r.rec.Events() {
			b, err := json.Marshal(ev)
			require.NoError(t, err)
			each(a, "an event's JSON", string(b))
		}
		assert.NotZero(t, lines.Len(), "nothing was written: this shows nothing")
		assert.NotZero(t, logged.Len(), "nothing was written: this shows nothing")
	}
}

// No value of a call is in any text that comes of refusing it, whatever refuses it.
func TestNoTextShowsAValueOfACall(t *testing.T) {
	type at[T any] struct{ At T }
	const digits = "9182736455463728191"
	clean := func(args, where, text string) {
		for _, leak := range []string{"CANARY", digits[:7], digits[12:]} {
			if strings.Contains(text, leak) {
				t.Errorf("%s: %s shows it: %s", args, where, text)
				return
			}
		}
	}
	text := `{"At":"sk-CANARY"}`
	refusedAll[at[time.Time]](t, sluice.Spec{}, clean, text, `{"At":`+digits+`}`)
	refusedAll[at[net.IP]](t, sluice.Spec{}, clean, text)
	refusedAll[at[big.Int]](t, sluice.Spec{}, clean, text, `{"At":`+digits+`.5}`)
	refusedAll[at[json.Number]](t, sluice.Spec{}, clean, text)
	refusedAll[at[[]byte]](t, sluice.Spec{}, clean, `{"At":"sk-CANARY!"}`)
	refusedAll[at[tattles]](t, sluice.Spec{}, clean, text, `{"At":{"sk-CANARY":`+digits+`}}`)
	refusedAll[at[panics]](t, sluice.Spec{}, clean, text)
	refusedAll[at[textPanics]](t, sluice.Spec{}, clean, text)
	refusedAll[[]typedPanics](t, sluice.Spec{}, clean, `["sk-CANARY"]`)
	refusedAll[at[bool]](t, sluice.Spec{}, clean, text, `{"At":`+digits+`}`)
	refusedAll[at[int]](t, sluice.Spec{}, clean, text, `{"At":`+digits+`0}`, `{"At":1.`+digits+`}`, `{"At":`+digits+`e400}`)
	refusedAll[at[float64]](t, sluice.Spec{}, clean, `{"At":`+digits+`e400}`)
	refusedAll[map[string]int](t, sluice.Spec{}, clean, `{"sk-CANARY":"x"}`, `{"sk-CANARY":1,"sk-CANARY":2}`, `{"a":sk-CANARY}`)
	refusedAll[map[int]int](t, sluice.Spec{}, clean, `{"sk-CANARY":1}`, `{"0`+digits+`":1}`)
	refusedAll[map[int8]int](t, sluice.Spec{}, clean, `{"`+digits+`":1}`)
	refusedAll[at[map[string]map[string]bool]](t, sluice.Spec{}, clean, `{"At":{"sk-CANARY":{"sk-CANARY":1}}}`)
	refusedAll[any](t, sluice.Spec{}, clean, `{"sk-CANARY":tru}`, `"sk-CANARY`, `{"a":{"sk-CANARY":1,"sk-CANARY":1}}`)
	refusedAll[json.RawMessage](t, sluice.Spec{}, clean, `{"sk-CANARY":tru}`, `["sk-CANARY\ud800"]`, `{"sk-CANARY":1,"sk-CANARY":1}`)
	refusedAll[json.RawMessage](t, sluice.Spec{InputSchema: json.RawMessage(`{"required":["query"]}`)}, clean, `{"sk-CANARY":"sk-CANARY"}`, `["sk-CANARY"]`, `"sk-CANARY"`)
	refusedAll[fmt.Stringer](t, sluice.Spec{}, clean, `{"sk-CANARY":1}`, `"sk-CANARY"`)

	// What the caller gives by its own means is a value too, and so is what a cost is made of.
	r := newRig(t, sluice.Config{Interceptors: interceptors(
		limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByKey("host", func(c sluice.Call) string { return strings.Repeat(string(c.Input.(customString)), 200) })}))})
	sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "key"}, func(context.Context, customString) (string, error) { return "", nil }))
	sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "cost", Policy: sluice.Policy{
		Rates: []sluice.Rate{{N: 1}}, Cost: func(c sluice.Call, _ string) int64 { return -9182736455463728191 },
	}}, func(context.Context, customString) (string, error) { return "", nil }))
	for _, q := range []sluice.Request{
		{Tool: "key", Input: customString(canary)},
		{Tool: "key", Input: canary},
		{Tool: "cost", Input: customString("")},
	} {
		_, err := r.Invoke(r.ctx, q)
		if !errors.Is(err, sluice.ErrInvalidArguments) {
			t.Errorf("%s with %T: %v", q.Tool, q.Input, err)
		} else {
			clean(q.Tool, "an error", err.Error())
		}
	}

	// Results are values as well.
	for _, v := range []any{map[string]any{canary: make(chan int)}, json.Number(canary), encodesBadly{}, encodesWithPanic{}} {
		if _, err := (sluice.Result{Value: v}).JSON(); err == nil {
			t.Errorf("%T was encoded", v)
		} else {
			clean(fmt.Sprintf("%T", v), "an error", err.Error())
		}
	}
}

type (
	encodesBadly     struct{}
	encodesWithPanic struct{}
)

func (encodesBadly) MarshalJSON() ([]byte, error)     { return nil, errors.New(canary) }
func (encodesWithPanic) MarshalJSON() ([]byte, error) { panic(canary) }

// A method that panics as it decodes is code of the call: the caller gets the panic.
func TestPanicOfADecodingMethodReachesTheCaller(t *testing.T) {
	r := newRig(t, sluice.Config{})
	ran := 0
	sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "x"}, func(context.Context, []panics) (int, error) { ran++; return 0, nil }))
	_, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Args: json.RawMessage(`["a"]`)})
	var p *sluice.PanicError
	if !errors.As(err, &p) || p.Value != `what is "a"` || p.Tool != "x" || !bytes.Contains(p.Stack, []byte("UnmarshalJSON")) {
		t.Errorf("%v, want a PanicError with value and stack", err)
	}
	if want := `sluice: tool "x": invalid arguments: sluice: code of tool "x" panicked`; err.Error() != want || ran != 0 {
		t.Errorf("%v, want %s; the tool ran %d times", err, want, ran)
	}
	r.end()
}

// What the top-level required of a tool's input schema names must be in arguments that come
// as JSON, for every kind of tool; a typed input is what it is.
func TestRequiredArgumentsMustBeThere(t *testing.T) {
	type search struct {
		Query string   `json:"query"`
		Limit *float64 `json:"limit"`
		More  any      `json:"more"`
	}
	spec := func(name, schema string) sluice.Spec {
		return sluice.Spec{Name: name, InputSchema: json.RawMessage(schema)}
	}
	const schema = `{"type":"object","properties":{"query":{"type":"string"},"more":{"required":["deeper"]}},"required":["query","limit"]}`
	r := newRig(t, sluice.Config{})
	ran := 0
	sluice.Must(sluice.Register(r.reg, spec("typed", schema), func(context.Context, search) (int, error) { ran++; return 0, nil }))
	sluice.Must(sluice.Register(r.reg, spec("pointer", schema), func(context.Context, *search) (int, error) { ran++; return 0, nil }))
	sluice.Must(sluice.Register(r.reg, spec("raw", schema), func(context.Context, json.RawMessage) (int, error) { ran++; return 0, nil }))
	sluice.Must(sluice.Register(r.reg, spec("any", schema), func(context.Context, any) (int, error) { ran++; return 0, nil }))
	sluice.Must(sluice.Register(r.reg, spec("map", schema), func(context.Context, map[string]any) (int, error) { ran++; return 0, nil }))
	for _, tool := range []string{"typed", "pointer", "raw", "any", "map"} {
		for args, want := range map[string]string{
			"":                            `$ lacks "limit", "query": required`,
			" \t\r\n":                     `$ lacks "limit", "query": required`,
			"null":                        `$ lacks "limit", "query": required`,
			"{}":                          `$ lacks "limit", "query": required`,
			`{"query":"go"}`:              `$ lacks "limit": required`,
			`{"more":{"query":1}}`:        `$ lacks "limit", "query": required`,
			`{"query":"","limit":null}`:   "",
			`{"limit":3,"qu\u0065ry":""}`: "",
		} {
			ran = 0
			q := sluice.Request{Tool: tool, Args: json.RawMessage(args)}
			_, err := r.Invoke(r.ctx, q)
			d := r.Explain(r.ctx, q)
			if want == "" {
				if err != nil || ran != 1 || d.Refusal != nil {
					t.Errorf("%s(%s): %v, ran %d times; Explain %v", tool, args, err, ran, d.Refusal)
				}
				continue
			}
			full := `sluice: tool "` + tool + `": invalid arguments: ` + want
			require.EqualError(t, err, full, "%s(%s)", tool, args)
			assert.ErrorIs(t, err, sluice.ErrInvalidArguments, "%s(%s)", tool, args)
			assert.Zero(t, ran, "%s(%s)", tool, args)
			require.NotNil(t, d.Refusal, "%s(%s)", tool, args)
			assert.ErrorIs(t, d.Refusal, sluice.ErrInvalidArguments, "%s(%s)", tool, args)
		}
	}
	ran = 0
	for tool, in := range map[string]any{"typed": search{}, "pointer": (*search)(nil), "raw": json.RawMessage("{}"), "any": 7, "map": map[string]any{}} {
		_, err := r.Invoke(r.ctx, sluice.Request{Tool: tool, Input: in})
		assert.NoError(t, err, "%s with a typed input", tool)
	}
	free := sluice.Must(sluice.Wrap(r.Executor, spec("handle", schema), func(_ context.Context, in any) (bool, error) { ran++; return in == nil, nil }))
	if isNil, err := free(r.ctx, nil); err != nil || !isNil || ran != 6 {
		t.Errorf("a typed handle with nil: nil %v, %v, %d calls ran, want 6", isNil, err, ran)
	}
	r.end()
}

func TestSchemasMustBeOfObjects(t *testing.T) {
	register := func(s sluice.Spec) error {
		s.Name = "x"
		return errOf(sluice.Register(sluice.NewToolRegistry(), s, func(context.Context, any) (int, error) { return 0, nil }))
	}
	for schema, want := range map[string]string{
		``: "", `{}`: "", `{"type":"object"}`: "", `{"required":[]}`: "", `{"required":null}`: "", `{"required":["a","b"],"type":"object"}`: "",
		`{"Type":"string","Required":3}`: "", `{"properties":{"type":{"type":"string"}}}`: "",
		`42`:                           `$ is a number: must be an object`,
		`[]`:                           `$ is an array: must be an object`,
		`"x"`:                          `$ is a string: must be an object`,
		`true`:                         `$ is a boolean: must be an object`,
		`false`:                        `$ is a boolean: must be an object`,
		`null`:                         `$ is null: must be an object`,
		`{"type":"object","type":"x"}`: `$ has one key twice, as key 1 and as key 2`,
		`{`:                            "is not JSON",
		`{"type":"string"}`:            `another type than "object"`,
		`{"type":["object","null"]}`:   `another type than "object"`,
		`{"type":7}`:                   `another type than "object"`,
		`{"type":null}`:                `another type than "object"`,
		`{"required":"a"}`:             `required is no array: must be one of names`,
		`{"required":{"a":1}}`:         `required is no array: must be one of names`,
		`{"required":["a",null]}`:      `required[1] is no string: must be a name`,
		`{"required":["a",["b"]]}`:     `required[1] is no string: must be a name`,
		`{"required":["a","b","a"]}`:   `required names "a" twice: must name each once`,
	} {
		err := register(sluice.Spec{InputSchema: json.RawMessage(schema)})
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), `sluice: Spec.InputSchema of "x"`)) {
			t.Errorf("InputSchema %s: %v, want %q", schema, err, want)
		}
	}
	for schema, good := range map[string]bool{`{"type":"string"}`: true, `{"required":7}`: true, `42`: false, `[]`: false, `null`: false, `true`: false} {
		err := register(sluice.Spec{OutputSchema: json.RawMessage(schema)})
		assert.Equal(t, good, err == nil, "OutputSchema %s: %v", schema, err)
	}
}

// No arguments, in every spelling, are an object without any.
func TestBlankArgumentsAreAnEmptyObject(t *testing.T) {
	r := newRig(t, sluice.Config{})
	got := make(map[string]any)
	keep := func(name string) func(any) { return func(v any) { got[name] = v } }
	register := func(name string, f func(s sluice.Spec, keep func(any)) error) {
		require.NoError(t, f(sluice.Spec{Name: name}, keep(name)))
	}
	register("raw", func(s sluice.Spec, k func(any)) error {
		return errOf(sluice.Register(r.reg, s, func(_ context.Context, in json.RawMessage) (int, error) { k(string(in)); return 0, nil }))
	})
	register("any", func(s sluice.Spec, k func(any)) error {
		return errOf(sluice.Register(r.reg, s, func(_ context.Context, in any) (int, error) { k(in); return 0, nil }))
	})
	register("map", func(s sluice.Spec, k func(any)) error {
		return errOf(sluice.Register(r.reg, s, func(_ context.Context, in map[string]int) (int, error) { k(in); return 0, nil }))
	})
	register("struct", func(s sluice.Spec, k func(any)) error {
		return errOf(sluice.Register(r.reg, s, func(_ context.Context, in struct{ N int }) (int, error) { k(in); return 0, nil }))
	})
	for _, args := range []string{"", " ", "\n\t \r", "{}", " { } "} {
		for name, want := range map[string]any{"raw": "{}", "any": map[string]any{}, "map": map[string]int{}, "struct": struct{ N int }{}} {
			if name == "raw" && args == " { } " {
				want = args
			}
			require.NoError(t, errOf(r.Invoke(r.ctx, sluice.Request{Tool: name, Args: json.RawMessage(args)})))
			assert.Equal(t, want, got[name], "arguments %q: a tool of %s gets", args, name)
		}
	}
	for _, args := range []string{"", " "} { // whoever writes into it keeps it for itself
		require.NoError(t, errOf(r.Invoke(r.ctx, sluice.Request{Tool: "any", Args: json.RawMessage(args)})))
		m := got["any"].(map[string]any)
		assert.Empty(t, m, "the map is another call's")
		m["mine"] = true
	}
	r.end()
}

func TestIntegersInAnySpellingReachATool(t *testing.T) {
	r := newRig(t, sluice.Config{})
	f := func(_ context.Context, in struct{ N int64 }) (int64, error) { return in.N, nil }
	sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "n"}, f))
	for num, want := range map[string]int64{"3.0": 3, "5e0": 5, "1.20e1": 12, "9007199254740993.0": 9007199254740993} {
		res, err := r.Invoke(r.ctx, sluice.Request{Tool: "n", Args: json.RawMessage(`{"N":` + num + `}`)})
		if err != nil || res.Value != want {
			t.Errorf("%s: %v, %v", num, res.Value, err)
		}
	}
	_, err := r.Invoke(r.ctx, sluice.Request{Tool: "n", Args: json.RawMessage(`{"N":1e400}`)})
	if want := `sluice: tool "n": invalid arguments: $.N is a number out of range: must be a whole number from -9223372036854775808 to 9223372036854775807`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// Spec.Check sees the input that the tool would get, of JSON and typed calls, before anything
// is decided, and refuses with its own error.
func TestCheckRunsBeforeAdmission(t *testing.T) {
	type in struct{ N int }
	errOdd := errors.New("N must be even")
	type key struct{}
	bubble(t, func(t *testing.T) {
		quota := rates(sluice.Rate{N: 1, Per: time.Hour})
		asked, ran := 0, 0
		r := newRig(t, sluice.Config{Interceptors: interceptors(quota, limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByKey("k", func(sluice.Call) string { asked++; return "k" })}))})
		defer r.end()
		var seen []sluice.Call
		check := func(ctx context.Context, c sluice.Call) error {
			seen = append(seen, c)
			time.Sleep(time.Second) // a validator may take its time: no lock is held
			if r.Snapshot(); ctx.Value(key{}) != "caller" {
				t.Error("the check has another context than its caller")
			}
			if c.Input.(in).N%2 == 1 {
				return fmt.Errorf("rule: %w", errOdd)
			}
			return nil
		}
		f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Check: check}, func(context.Context, in) (int, error) { ran++; return 0, nil }))
		ctx := context.WithValue(r.ctx, key{}, "caller")
		odd := sluice.Request{Tool: "x", Args: json.RawMessage(`{"N":1}`)}
		for name, call := range map[string]func() error{
			"typed":   func() error { return errOf(f(ctx, in{1})) },
			"JSON":    func() error { return errOf(r.Invoke(ctx, odd)) },
			"Submit":  func() error { return errOf(r.Submit(ctx, odd).Wait(ctx)) },
			"Explain": func() error { return r.Explain(ctx, odd).Refusal },
		} {
			err := call()
			var e *sluice.Error
			if !errors.As(err, &e) || e.Reason != sluice.ErrInvalidArguments || !errors.Is(err, errOdd) || !errors.Is(err, sluice.ErrRejected) {
				t.Errorf("%s: %v", name, err)
			} else if want := `sluice: tool "x": invalid arguments: rule: N must be even`; err.Error() != want {
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
		if len(seen) != 4 || asked != 0 || ran != 0 {
			t.Errorf("%d checks, %d keys asked for, %d calls ran: want 4, 0 and 0", len(seen), asked, ran)
		}
		for _, c := range seen {
			require.Equal(t, "x", c.Tool)
			require.Zero(t, c.Attempt)
			require.Equal(t, sluice.PriorityNormal, c.Priority)
			assert.Equal(t, r.pc.RunID, c.Pipeline.RunID)
		}
		require.NoError(t, errOf(f(ctx, in{2}))) // the token is still there
		assert.Equal(t, 1, ran, "a good call did not run")
		seen = nil
		r.Invoke(ctx, sluice.Request{Tool: "x", Args: json.RawMessage(`{"N":"1"}`)})
		assert.Empty(t, seen, "the check was asked about what could not be decoded")
	})
}

func TestCheckThatPanicsOrExitsRunsNothing(t *testing.T) {
	r := newRig(t, sluice.Config{})
	ran := 0
	tool := func(name string, check func(context.Context, sluice.Call) error) {
		sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: name, Check: check}, func(context.Context, any) (int, error) { ran++; return 0, nil }))
	}
	tool("panics", func(context.Context, sluice.Call) error { panic("secret " + canary) })
	tool("nested", func(ctx context.Context, _ sluice.Call) error {
		return errOf(r.Invoke(ctx, sluice.Request{Tool: "panics"}))
	})
	_, err := r.Invoke(r.ctx, sluice.Request{Tool: "panics"})
	var p *sluice.PanicError
	if !errors.As(err, &p) || p.Tool != "panics" || len(p.Stack) == 0 || !errors.Is(err, sluice.ErrRejected) || strings.Contains(err.Error(), canary) {
		t.Errorf("%v, want a refusal with the panic behind it", err)
	}
	if _, err := r.Invoke(r.ctx, sluice.Request{Tool: "nested"}); !errors.Is(err, sluice.ErrInvalidArguments) || ran != 0 {
		t.Errorf("%v, %d ran", err, ran)
	}
	assert.NotNil(t, r.Explain(r.ctx, sluice.Request{Tool: "panics"}).Refusal,
		"Explain does not say that the check panics")
	tool("exits", func(context.Context, sluice.Call) error { runtime.Goexit(); return nil })
	parallel(1, func(int) {
		r.Invoke(r.ctx, sluice.Request{Tool: "exits"})
		t.Error("Goexit did not end the goroutine")
	})
	if list := r.rec.Events(); list[len(list)-1].Kind != sluice.ToolFailed || ran != 0 {
		t.Errorf("the last event is %s, %d ran", list[len(list)-1].Kind, ran)
	}
	r.end()
}

func TestArgumentsAreStrict(t *testing.T) {
	type in struct {
		Name  string `json:"name"`
		ID    int64  `json:"id"`
		Param string `json:"params"`
	}
	e := newExec(t, sluice.Config{MaxArgBytes: 1000})
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, v in) (in, error) { return v, nil }))
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "raw"}, func(_ context.Context, v json.RawMessage) (json.RawMessage, error) { return v, nil }))
	for args, want := range map[string]string{
		`{"name":"a","id":9007199254740993}`:           `{"name":"a","id":9007199254740993,"params":""}`,
		`{"name":"a","NAME":"b"}`:                      "",
		`{"name":"a","name":"b"}`:                      "",
		`{"paramſ":"x"}`:                               "",
		`{"unknown":1}`:                                "",
		`{"name":1}`:                                   "",
		`{"name":"a"} x`:                               "",
		`{"name":"` + strings.Repeat("a", 1000) + `"}`: "",
		`[`: "",
	} {
		res, err := e.Invoke(t.Context(), sluice.Request{Tool: "x", Args: json.RawMessage(args)})
		if want == "" {
			assert.ErrorIs(t, err, sluice.ErrInvalidArguments, "%.40s", args)
			assert.ErrorIs(t, err, sluice.ErrRejected, "%.40s", args)
			continue
		}
		if got, err2 := res.JSON(); err != nil || err2 != nil || string(got) != want {
			t.Errorf("%s: %s, %v, %v", args, got, err, err2)
		}
	}
	args := json.RawMessage(`{"a":[1,2]}`)
	res, err := e.Invoke(t.Context(), sluice.Request{Tool: "raw", Args: args})
	args[2] = 'b'
	if got, _ := res.JSON(); err != nil || string(got) != `{"a":[1,2]}` {
		t.Errorf("raw: %s, %v", got, err)
	}
	if _, err := e.Invoke(t.Context(), sluice.Request{Tool: "raw", Args: json.RawMessage(strings.Repeat("[", 100) + strings.Repeat("]", 100))}); !errors.Is(err, sluice.ErrInvalidArguments) {
		t.Errorf("depth: %v", err)
	}
	if _, err := e.Invoke(t.Context(), sluice.Request{Tool: "x", Input: 7}); !errors.Is(err, sluice.ErrInvalidArguments) || !strings.Contains(err.Error(), "Request.Input is int") {
		t.Errorf("wrong type: %v", err)
	}
}

// A Check sees the arguments as they came, and not what the tool's type makes of them: what is left out is not
// zero, and null not either. What it changes is its own.
func TestCheckSeesTheArgumentsAsTheyCame(t *testing.T) {
	type in struct{ A, B int }
	var seen []string
	r := newRig(t, sluice.Config{})
	spec := sluice.Spec{Name: "x", Check: func(_ context.Context, c sluice.Call) error {
		raw, err := c.JSON()
		seen = append(seen, string(raw))
		for i := range raw {
			raw[i] = 'x'
		}
		return err
	}}
	sluice.Must(sluice.Register(r.reg, spec, func(_ context.Context, v in) (in, error) { return v, nil }))
	for _, args := range []string{` {"A": 1e0}`, `{"B":null}`, `null`, ``, "\t"} {
		raw := json.RawMessage(args)
		_, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Args: raw})
		require.NoError(t, err, args)
		require.Equal(t, args, string(raw))
	}
	res, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Input: in{1, 2}})
	require.NoError(t, err)
	require.Equal(t, in{1, 2}, res.Value)
	_, err = r.Submit(r.ctx, sluice.Request{Tool: "x", Args: json.RawMessage(`{ }`)}).Wait(r.ctx)
	require.NoError(t, err)
	require.Equal(t, []string{` {"A": 1e0}`, `{"B":null}`, `null`, `{}`, `{}`, `{"A":1,"B":2}`, `{ }`}, seen)

	// What goes around a call sees what the tool gets.
	around := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			raw, err := c.JSON()
			require.NoError(t, err)
			require.JSONEq(t, `{"A":3,"B":0}`, string(raw))
			return next(ctx, c)
		}
	})
	r = newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{around}})
	sluice.Must(sluice.Register(r.reg, spec, func(_ context.Context, v in) (in, error) { return v, nil }))
	_, err = r.Invoke(r.ctx, sluice.Request{Tool: "x", Args: json.RawMessage(`{"A":3}`)})
	require.NoError(t, err)
}
