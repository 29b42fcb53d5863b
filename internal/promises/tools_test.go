package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// The code of a declared tool comes with each call: with its arguments, its limits and its events
// it is a tool like any other.
func TestDo_TheCodeComesWithTheCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		require.NoError(t, sluice.Declare(r.Registry(), sluice.Spec{Name: "fetch", InputSchema: json.RawMessage(`{"required":["url"]}`), Policy: sluice.Policy{Concurrency: 1}}))
		start := r.at()
		parallel(3, func(i int) {
			args := json.RawMessage(fmt.Sprintf(`{"url":"u%d"}`, i))
			got, err := sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "fetch", Args: args}, func(ctx context.Context) (string, error) {
				if c, ok := sluice.CallFrom(ctx); !ok || c.Tool != "fetch" {
					t.Errorf("the context is of %q", c.Tool)
				}
				time.Sleep(time.Second)
				return fmt.Sprint("page ", i), nil
			})
			if err != nil || got != fmt.Sprint("page ", i) {
				t.Errorf("call %d got %q, %v", i, got, err)
			}
		})
		if d := r.at() - start; d != 3*time.Second {
			t.Errorf("three calls took %v, one at a time they take 3s", d)
		}
		_, err := sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "fetch", Args: json.RawMessage(`{}`)}, func(context.Context) (int, error) { return 1, nil })
		wantRefusal(t, err, sluice.ErrInvalidArguments, "", 0)
		_, err = sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "fetch", Input: 7}, func(context.Context) (int, error) { return 0, errTool })
		if err != errTool {
			t.Errorf("the code's own error came as %v", err)
		}
		var p *sluice.PanicError
		_, err = sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "fetch", Input: "u"}, func(context.Context) (int, error) { panic("no") })
		if !errors.As(err, &p) || p.Value != "no" {
			t.Errorf("a panic came as %v", err)
		}
		r.end()
	})
}

// Declaring again changes what is said of a tool and nothing of what its limits have counted.
func TestDeclare_Again(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{MaxWait: sluice.NoWait})
		reg := r.Registry()
		spec := sluice.Spec{Name: "x", Description: "first", Policy: sluice.Policy{Rates: []sluice.Rate{{N: 2, Per: time.Minute}}}}
		require.NoError(t, sluice.Declare(reg, spec))
		do := func() error {
			_, err := sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "x"}, func(context.Context) (int, error) { return 1, nil })
			return err
		}
		require.NoError(t, do())
		spec.Description, spec.Policy = "second", sluice.Policy{}
		require.NoError(t, sluice.Declare(reg, spec))
		if s, _ := reg.Lookup("x"); s.Description != "second" || len(s.Policy.Rates) != 1 {
			t.Errorf("declared again it is %+v", s)
		}
		require.NoError(t, do())
		wantRefusal(t, do(), sluice.ErrWaitTooLong, "tool/x calls per minute", 30*time.Second)
		require.NoError(t, sluice.Reconfigure("me", reg.WithPolicy("x", sluice.Policy{})))
		require.NoError(t, do())
		require.NoError(t, sluice.Declare(reg, spec))
		require.NoError(t, do())
		r.end()
	})
}

func TestDeclare_Misuse(t *testing.T) {
	reg := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{MaxArgBytes: 20}))
	sluice.Must(sluice.Register(reg, sluice.Spec{Name: "own"}, echo))
	require.NoError(t, sluice.Declare(reg, sluice.Spec{Name: "declared"}))
	do := func(r sluice.Request) error {
		_, err := sluice.Do(t.Context(), e, r, func(context.Context) (int, error) { return 1, nil })
		return err
	}
	for _, tt := range []struct {
		name   string
		err    error
		reason error // nil: it is no refusal of a call
		text   string
	}{
		{"a name that has a function", sluice.Declare(reg, sluice.Spec{Name: "own"}), nil, `sluice: tool "own" is registered with a function of its own: must be another name`},
		{"no registry", sluice.Declare(nil, sluice.Spec{Name: "x"}), nil, "sluice: the ToolRegistry is nil: use NewToolRegistry"},
		{"a bad name", sluice.Declare(reg, sluice.Spec{Name: "x y"}), nil, ""},
		{"Do of one with a function", do(sluice.Request{Tool: "own", Input: "x"}), sluice.ErrInvalidArguments, `sluice: tool "own": invalid arguments: sluice: the tool has a function of its own: Do must call one that is declared`},
		{"Invoke of a declared one", errOf(e.Invoke(t.Context(), sluice.Request{Tool: "declared"})), sluice.ErrInvalidArguments, `sluice: tool "declared": invalid arguments: sluice: the tool is declared: must be called by Do, with the code of the call`},
		{"Submit of a declared one", errOf(e.Submit(t.Context(), sluice.Request{Tool: "declared"}).Wait(t.Context())), sluice.ErrInvalidArguments, ""},
		{"too large arguments", do(sluice.Request{Tool: "declared", Args: json.RawMessage(`{"q":"more than twenty bytes"}`)}), sluice.ErrInvalidArguments, ""},
		{"Do of none", do(sluice.Request{Tool: "nobody"}), sluice.ErrUnknownTool, ""},
		{"Register of a declared one", errOf(sluice.Register(reg, sluice.Spec{Name: "declared"}, echo)), nil, `sluice: tool "declared" is registered already: use Replace, or another name`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.err == nil || tt.text != "" && tt.err.Error() != tt.text || errors.Is(tt.err, sluice.ErrRejected) != (tt.reason != nil) || tt.reason != nil && !errors.Is(tt.err, tt.reason) {
				t.Errorf("got %v", tt.err)
			}
		})
	}
	if _, err := sluice.Do[int](t.Context(), e, sluice.Request{Tool: "declared"}, nil); err == nil {
		t.Error("a nil function ran")
	}
	if d := e.Explain(t.Context(), sluice.Request{Tool: "declared"}); d.Refusal != nil {
		t.Errorf("Explain refuses: %v", d.Refusal)
	}
	require.NoError(t, e.Close(t.Context()))
}
