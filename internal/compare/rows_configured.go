package compare

import (
	"context"
	"encoding/json"
	"sync/atomic"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/strictjson"
)

// The contestants of the row whose calls are configured as people do it.
const (
	withArgs    = "JSON arguments"
	decoding    = "decoding alone"
	withKeys    = "limits by tenant and by key"
	keyFunction = "key function alone"
	withAround  = "an interceptor around"
	withRatio   = "a breaker with a ratio"
	withOwnSink = "a sink of the run, too"
	secondSink  = "three events to that sink alone"
)

func configuredRows() []Row {
	plain := oursConfig{limit: wide, sink: discard{}}
	around, ratio := plain, plain
	around.more = []sluice.Interceptor{sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
	})}
	ratio.breaker.Ratio = 0.5
	return []Row{{
		Section: "The whole call",
		Name:    configured,
		Note:    "The whole call beside itself with one thing added. What decoding, the function of a key and the sink of a run take by themselves, in a loop of their own, is measured beside it, and the budget takes it off: it is the tool's work or the program's. In a loop it takes no longer than inside a call, so too little is taken off rather than too much. The keyed call asks a limit by tenant and one by a key, besides the four gates.",
		Loads:   []Load{alone},
		Contestants: []Contestant{
			{byInvoke, Ours, oursCall(tool, plain)},
			{withArgs, Ours, oursCallOf(context.Background(), sluice.Request{ID: request.ID, Tool: toolName, Args: someArgs}, tool, plain)},
			{decoding, Part, decodingAlone},
			{withKeys, Ours, oursKeyed},
			{keyFunction, Part, keyFunctionAlone},
			{withAround, Ours, oursCall(tool, around)},
			{withRatio, Ours, oursCall(tool, ratio)},
			{withOwnSink, Ours, oursOwnSink},
			{secondSink, Part, secondSinkAlone},
		},
	}}
}

var someArgs = json.RawMessage(`{"Query":"go"}`)

func decodingAlone(int) (Body, func(), error) {
	return callBody(func(context.Context) (int, error) {
		in, err := strictjson.Into[Input](someArgs, strictjson.Limits{MaxBytes: 4 << 20})
		v, _ := in.(Input)
		return len(v.Query), err
	}), nil, nil
}

// userOf is the function of a key. It is a variable so that it is called as the library calls it.
var userOf = func(c sluice.Call) string { return c.Pipeline.UserID }

var someRun = sluice.PipelineContext{Tenant: "acme", UserID: "ada"}

func oursKeyed(workers int) (Body, func(), error) {
	keyed, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "keyed", Limits: []sluice.Limit{
		{Max: wide, Scope: sluice.ByTenant},
		{Max: wide, Scope: sluice.ByKey("user", userOf)},
	}})
	if err != nil {
		return nil, nil, err
	}
	ctx := sluice.WithPipelineContext(context.Background(), someRun)
	return oursCallOf(ctx, request, tool, oursConfig{limit: wide, sink: discard{}, more: []sluice.Interceptor{keyed}})(workers)
}

func keyFunctionAlone(int) (Body, func(), error) {
	c := someCall
	c.Pipeline = &someRun
	return func(_, n int) error {
		for range n {
			if userOf(c) != someRun.UserID {
				return errWrong
			}
		}
		return nil
	}, nil, nil
}

// counting is a sink that counts what it gets.
type counting struct{ events atomic.Int64 }

func (s *counting) Enabled(sluice.EventKind) bool { return true }
func (s *counting) Emit(context.Context, *sluice.Event) error {
	s.events.Add(1)
	return nil
}

// three is body, whose operations must each send three events to s.
func (s *counting) three(body Body) Body {
	return func(worker, n int) error {
		before := s.events.Load()
		if err := body(worker, n); err != nil {
			return err
		}
		if s.events.Load()-before != 3*int64(n) {
			return errWrong
		}
		return nil
	}
}

func oursOwnSink(workers int) (Body, func(), error) {
	s := new(counting)
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Sink: s})
	body, done, err := oursCallOf(ctx, request, tool, oursConfig{limit: wide, sink: discard{}})(workers)
	return s.three(body), done, err
}

func secondSinkAlone(int) (Body, func(), error) {
	s := new(counting)
	var sink sluice.EventSink = s
	ctx, e := context.Background(), sluice.Event{Kind: sluice.ToolStarted, Call: someCall}
	return s.three(func(_, n int) error {
		for range 3 * n {
			if !sink.Enabled(e.Kind) {
				return errWrong
			}
			if err := sink.Emit(ctx, &e); err != nil {
				return err
			}
		}
		return nil
	}), nil, nil
}
