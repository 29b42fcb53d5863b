package sluice

import (
	"context"

	"github.com/sluice-go/sluice/internal/payload"
)

// WithPayloads opts s in to argument and result values. They arrive as copies that share
// nothing with the call: Call.Input of ToolInvoked and Result.Value of ToolCompleted are
// a [json.RawMessage], or, where the JSON had to be
// cut, a string that ends in "…[truncated]". Each holds at most max bytes of JSON before
// such a mark; max below 1 means 4,096. Deeper than 64 levels it ends in "…[too deep]";
// a cycle ends so too.
//
// The value of a field whose name is in redact, or ends in a usual name of a secret
// (password, secret, token, authorization, apikey, accesskey, privatekey, cookie, …), is
// replaced by "[redacted]" at any depth, in structs, maps with keys of any type and raw
// JSON. Case, "_", "-", "." and blanks of names do not matter. Only names are looked at: a
// secret inside a text, or under another name, is shown. Raw JSON that is broken ends at its
// first secret, since nobody knows where that ends; a document of more than 64 KiB and 16
// times max is read no further to find out.
//
// The work is bounded by max, not by the size of the value, except in values with a
// MarshalJSON or MarshalText method of their own; these are called only if they are
// small, and may panic. Values are read on the goroutine of the call, so nobody else may
// write to them meanwhile. The sink is as safe for concurrent
// use as s.
func WithPayloads(s EventSink, max int, redact ...string) EventSink {
	return &payloadFilter{next: s, filter: payload.New(max, redact)}
}

// payloadFilter replaces the values of events by bounded copies.
type payloadFilter struct {
	next   EventSink // nil discards
	filter *payload.Filter
}

func (p *payloadFilter) Enabled(k EventKind) bool { return p.next != nil && p.next.Enabled(k) }

func (p *payloadFilter) Emit(ctx context.Context, e Event) error {
	if p.next == nil {
		return nil
	}
	p.replace(&e)
	return p.next.Emit(ctx, e)
}

func (p *payloadFilter) wantsPayloads() bool { return p.next != nil }

func (p *payloadFilter) emitPayloads(ctx context.Context, e Event) error { return p.Emit(ctx, e) }

func (p *payloadFilter) freeze(e Event) func(context.Context) error {
	p.replace(&e)
	return func(ctx context.Context) error { return p.next.Emit(ctx, e) }
}

func (p *payloadFilter) replace(e *Event) {
	e.hasData = e.hasData || e.Result.Value != nil
	if e.Kind == ToolInvoked {
		e.Call.Input = p.filter.Copy(e.Call.Input)
	} else {
		e.Call.Input = nil
	}
	if e.Kind == ToolCompleted {
		e.Result.Value = p.filter.Copy(e.Result.Value)
	} else {
		e.Result.Value = nil
	}
}
