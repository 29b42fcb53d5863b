package sluice

import (
	"context"
	"reflect"
	"unicode"
	"unicode/utf8"
)

const (
	defaultPayloadBytes = 4096
	maxPayloadDepth     = 64
)

// secretNames are always redacted, written without separators. A field is redacted if
// its name ends in one of them: client_secret, X-Api-Key, refreshToken.
var secretNames = []string{
	"password", "passwords", "passwd", "passphrase", "pwd",
	"secret", "secrets", "token", "authorization", "bearer", "jwt",
	"apikey", "accesskey", "secretkey", "privatekey", "signingkey", "encryptionkey",
	"cookie", "cookies", "credential", "credentials",
}

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
	if max < 1 {
		max = defaultPayloadBytes
	}
	return &payloadFilter{next: s, max: max, redact: newRedactor(redact)}
}

// payloadFilter replaces the values of events by bounded copies.
type payloadFilter struct {
	next   EventSink // nil discards
	max    int
	redact *redactor
	types  typeCache
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
		e.Call.Input = p.copyOf(e.Call.Input)
	} else {
		e.Call.Input = nil
	}
	if e.Kind == ToolCompleted {
		e.Result.Value = p.copyOf(e.Result.Value)
	} else {
		e.Result.Value = nil
	}
}

// copyOf is v as bounded JSON.
func (p *payloadFilter) copyOf(v any) any {
	if v == nil {
		return nil
	}
	w := bounded{b: make([]byte, 0, min(p.max, 512)), max: p.max, scan: 16*p.max + 1<<16, redact: p.redact, types: &p.types}
	w.value(reflect.ValueOf(v), 0)
	return w.result()
}

// redactor knows which fields hold secrets.
type redactor struct{ exact map[string]struct{} }

func newRedactor(names []string) *redactor {
	r := &redactor{exact: make(map[string]struct{}, len(names))}
	for _, name := range names {
		if n := appendFolded(nil, name); len(n) > 0 {
			r.exact[string(n)] = struct{}{}
		}
	}
	return r
}

// secret reports whether a field of this name must not be shown.
func (r *redactor) secret(name string) bool {
	if r == nil {
		return false
	}
	var buf [96]byte
	n := appendFolded(buf[:0], name)
	if _, ok := r.exact[string(n)]; ok {
		return true
	}
	for _, s := range secretNames {
		if len(n) >= len(s) && string(n[len(n)-len(s):]) == s {
			return true
		}
	}
	return false
}

// appendFolded is name without case and separators. Upper before lower also folds the
// long s and the Kelvin sign, which JSON decoders take for s and k.
func appendFolded(b []byte, name string) []byte {
	for _, r := range name {
		switch {
		case r == '_' || r == '-' || r == '.' || r == ' ' || unsafeRune(r):
		case r < utf8.RuneSelf:
			if r >= 'A' && r <= 'Z' {
				r += 'a' - 'A'
			}
			b = append(b, byte(r))
		default:
			b = utf8.AppendRune(b, unicode.ToLower(unicode.ToUpper(r)))
		}
	}
	return b
}
