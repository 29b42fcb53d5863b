package sluice

import (
	"context"
	"sync"

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

func (p *payloadFilter) Emit(ctx context.Context, e *Event) error {
	if p.next == nil {
		return nil
	}
	if e.Call.Input == nil && e.Result.Value == nil {
		return p.next.Emit(ctx, e)
	}
	c := filtered.Get().(*Event)
	*c = *e
	p.replace(c)
	err := p.next.Emit(ctx, c)
	*c = Event{}
	filtered.Put(c)
	return err
}

// filtered are events with values replaced, to be used again: no sink keeps one.
var filtered = sync.Pool{New: func() any { return new(Event) }}

func (p *payloadFilter) wantsValues() bool { return p.next != nil }

func (p *payloadFilter) emitBoth(ctx context.Context, _, full *Event) error { return p.Emit(ctx, full) }

func (p *payloadFilter) freeze(_, full *Event) func(context.Context) error {
	e := *full
	p.replace(&e)
	return func(ctx context.Context) error { return p.next.Emit(ctx, &e) }
}

// replace makes bounded copies of the values that an event like e is about, and takes others
// away.
func (p *payloadFilter) replace(e *Event) {
	input, value := e.Call.Input, e.Result.Value
	e.hasData = e.hasData || value != nil
	e.Call.Input, e.Result.Value = nil, nil
	switch e.Kind {
	case ToolInvoked:
		e.Call.Input = p.filter.Copy(input)
	case ToolCompleted:
		e.Result.Value = p.filter.Copy(value)
	}
}
