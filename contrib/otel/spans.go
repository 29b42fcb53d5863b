package sluiceotel

import (
	"context"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-go/sluice"
)

// Attributes of the conventions for GenAI and MCP.
const (
	operationKey    = attribute.Key("gen_ai.operation.name")
	toolNameKey     = attribute.Key("gen_ai.tool.name")
	toolTypeKey     = attribute.Key("gen_ai.tool.type")
	descriptionKey  = attribute.Key("gen_ai.tool.description")
	callIDKey       = attribute.Key("gen_ai.tool.call.id")
	argumentsKey    = attribute.Key("gen_ai.tool.call.arguments")
	resultKey       = attribute.Key("gen_ai.tool.call.result")
	agentKey        = attribute.Key("gen_ai.agent.name")
	conversationKey = attribute.Key("gen_ai.conversation.id")
	methodKey       = attribute.Key("mcp.method.name")
	sessionKey      = attribute.Key("mcp.session.id")
	errorTypeKey    = attribute.Key("error.type")
)

// The library's own.
const (
	callKeyKey     = attribute.Key("sluice.call.key") // as in event_id
	kindKey        = attribute.Key("sluice.tool.type")
	priorityKey    = attribute.Key("sluice.priority")
	tenantKey      = attribute.Key("sluice.tenant")
	runKey         = attribute.Key("sluice.run.id")
	attemptKey     = attribute.Key("sluice.attempt")
	attemptsKey    = attribute.Key("sluice.attempts")
	waitKey        = attribute.Key("sluice.queue.wait")   // s
	heldKey        = attribute.Key("sluice.run.duration") // s, of the tool's code
	retryAfterKey  = attribute.Key("sluice.retry_after")  // s
	answeredByKey  = attribute.Key("sluice.answered_by")
	limiterKey     = attribute.Key("sluice.limiter")
	stateKey       = attribute.Key("sluice.breaker.state")
	breakerFromKey = attribute.Key("sluice.breaker.from")
	breakerToKey   = attribute.Key("sluice.breaker.to")
	executorKey    = attribute.Key("sluice.executor")
	layerKey       = attribute.Key("sluice.layer")
)

const (
	other       = "_OTHER" // for what is no label
	unknownTool = "unknown_tool"
	maxText     = 1024 // bytes of an error's text
	maxID       = 256  // of a call's id
	maxAttrs    = 32   // of a layer's own event
)

// open opens the span of e's call, which has begun then, unless it is there already.
func (o *Observer) open(ctx context.Context, e *sluice.Event, began time.Time) *call {
	x := &call{tool: o.tools.known(e.Call.Tool)}
	if o.conf.Annotate && e.ParentKey == 0 { // what a tool opens around calls of its own is not the framework's
		x.span = trace.SpanFromContext(ctx)
	}
	if x.own = x.span == nil || !x.span.SpanContext().IsValid(); x.own {
		_, x.span = o.tracer.Start(ctx, x.tool.title, trace.WithTimestamp(began), x.tool.kind, x.tool.begins)
	}
	return x
}

// describe has x know what its span says of how the call began. On one of its own that is written at the end, with the
// rest, since each writing costs; a framework's may end before a stream does.
func (o *Observer) describe(ctx context.Context, e *sluice.Event, x *call) {
	if !x.span.IsRecording() {
		return
	}
	c := &e.Call
	list := make([]attribute.KeyValue, 0, 16)
	list = append(list, callKeyKey.String(e.CallKey.String()), priorityKey.Int(int(c.Priority)))
	if x.own {
		list = append(list, callIDKey.String(cut(c.ID, maxID)))
	}
	if p := c.Pipeline; p != nil {
		if x.own && o.conf.MCP == trace.SpanKindUnspecified {
			list = add(list, conversationKey, p.SessionID)
		} else if x.own {
			list = add(list, sessionKey, p.SessionID)
		}
		tenant := p.Tenant
		if tenant == "" {
			tenant = p.OrgID
		}
		list = add(add(list, tenantKey, tenant), runKey, p.RunID)
	}
	list = add(list, kindKey, c.Type)
	if c.Input != nil { // the sink was given payloads
		if b, err := c.JSON(); err == nil {
			list = append(list, argumentsKey.String(string(b)))
		}
	}
	if x.attrs = list; o.conf.Attributes != nil {
		x.attrs = append(list, o.more(ctx, *c)...)
	}
	if !x.own {
		x.span.SetAttributes(x.attrs...)
		x.attrs = nil
	}
}

// more is what the user has to say of c.
func (o *Observer) more(ctx context.Context, c sluice.Call) (list []attribute.KeyValue) {
	defer func() {
		if recover() != nil {
			list = nil
		}
	}()
	c.Input = nil
	return o.conf.Attributes(ctx, c)
}

// rename has x be a call of t.
func (o *Observer) rename(x *call, t *tool) {
	if x.tool == t {
		return
	}
	if x.tool = t; x.own && x.span.IsRecording() {
		x.span.SetName(t.title)
		x.span.SetAttributes(t.shown...)
	}
}

// finish writes on x's span what there is to say of it.
func (x *call) finish(e *sluice.Event, code string) {
	list := x.attrs
	if e.Call.Attempt > 0 {
		list = append(list, attemptsKey.Int(int(e.Call.Attempt)))
	}
	if x.started {
		list = append(list, heldKey.Float64(e.Duration.Seconds()))
	}
	if x.queuedBy != "" {
		list = append(list, waitKey.Float64(e.Queued.Seconds()))
	}
	if e.Err == nil {
		if e.Result.Value != nil { // the sink was given payloads
			if b, err := e.Result.JSON(); err == nil {
				list = append(list, resultKey.String(string(b)))
			}
		}
		x.span.SetAttributes(list...)
		return
	}
	list = append(list, errorTypeKey.String(code))
	list = add(list, limiterKey, e.By)
	if e.RetryAfter > 0 {
		list = append(list, retryAfterKey.Float64(e.RetryAfter.Seconds()))
	}
	x.span.SetAttributes(list...)
	x.span.SetStatus(codes.Error, textOf(e.Err))
}

// mark writes what happens to x, which is under way, on its span.
func (o *Observer) mark(x *call, e *sluice.Event) {
	list := make([]attribute.KeyValue, 0, 2+len(e.Attrs))
	switch e.Kind {
	case sluice.ToolQueued:
		list = add(list, limiterKey, e.By)
	case sluice.ToolStarted:
		list = append(list, attemptKey.Int(int(e.Call.Attempt)), waitKey.Float64(e.Queued.Seconds()))
	case sluice.ToolRetrying:
		list = append(list, attemptKey.Int(int(e.Call.Attempt)), retryAfterKey.Float64(e.RetryAfter.Seconds()))
		list = add(add(list, errorTypeKey, o.codeOf(e.Err)), limiterKey, e.By)
	case sluice.ToolAbandoned:
		list = append(list, attemptKey.Int(int(e.Call.Attempt)), heldKey.Float64(e.Duration.Seconds()))
	default:
		for _, a := range e.Attrs[:min(len(e.Attrs), maxAttrs)] {
			list = append(list, plain(a))
		}
	}
	x.span.AddEvent("sluice."+strings.TrimPrefix(string(e.Kind), "tool."), trace.WithTimestamp(e.Time), trace.WithAttributes(list...))
}

// add appends an attribute unless it is empty.
func add(list []attribute.KeyValue, k attribute.Key, v string) []attribute.KeyValue {
	if v == "" {
		return list
	}
	return append(list, k.String(v))
}

// plain is what a layer says in an event of its own. Durations are in seconds.
func plain(a slog.Attr) attribute.KeyValue {
	k := attribute.Key(a.Key)
	switch v := a.Value; v.Kind() {
	case slog.KindBool:
		return k.Bool(v.Bool())
	case slog.KindInt64:
		return k.Int64(v.Int64())
	case slog.KindFloat64:
		return k.Float64(v.Float64())
	case slog.KindDuration:
		return k.Float64(v.Duration().Seconds())
	case slog.KindTime:
		return k.String(v.Time().UTC().Format(time.RFC3339Nano))
	default:
		return k.String(v.String())
	}
}

// textOf is what err says, in at most 1,024 bytes; empty if it panics.
func textOf(err error) (s string) {
	defer func() {
		if recover() != nil {
			s = ""
		}
	}()
	return cut(err.Error(), maxText)
}

// cut is s as UTF-8 in at most n bytes.
func cut(s string, n int) string {
	return prefix(strings.ToValidUTF8(prefix(s, n), "\uFFFD"), n) // which may have made it longer
}

// prefix is at most n bytes of s, whole runes if those are UTF-8.
func prefix(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for least := n - utf8.UTFMax; n > least && !utf8.RuneStart(s[n]); {
		n--
	}
	return s[:n]
}
