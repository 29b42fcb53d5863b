package eventtext

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/jsonx"
)

// Bounds of what a layer says in an event of its own.
const (
	MaxAttrs  = 16
	maxKind   = 64
	maxKey    = 64
	cutMarker = "…"
)

// own are the library's kinds.
var own = map[string]bool{
	"tool.invoked": true, "tool.queued": true, "tool.started": true, "tool.retrying": true,
	"tool.abandoned": true, "tool.completed": true, "tool.failed": true, "tool.denied": true,
	"breaker.state_changed": true, "limit.changed": true, "limit.stalled": true,
	"ratelimit.paused": true, "ratelimit.debt": true,
}

// Check says what is wrong with an event of a layer's own, if something is. Else it answers a copy of what the
// layer says, with long texts cut.
func Check(kind string, attrs []slog.Attr) ([]slog.Attr, error) {
	if own[kind] {
		return nil, fmt.Errorf("the kind %q is one of the library's: must be another", kind)
	}
	if !isKind(kind) {
		return nil, fmt.Errorf("the kind is %q: must be words of [a-z0-9_] with points between them, each from a letter on, two at least and %d bytes at most",
			jsonx.Cut(kind, maxKind, cutMarker), maxKind)
	}
	if len(attrs) > MaxAttrs {
		return nil, fmt.Errorf("it has %d attributes: must have at most %d", len(attrs), MaxAttrs)
	}
	list := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		if a.Key == "" || len(a.Key) > maxKey {
			return nil, fmt.Errorf("the key of attribute %d is %q: must have from 1 to %d bytes", i, jsonx.Cut(a.Key, maxKey, cutMarker), maxKey)
		}
		for _, b := range attrs[:i] {
			if a.Key == b.Key {
				return nil, fmt.Errorf("it has attribute %q twice: must have each once", a.Key)
			}
		}
		if !isPlain(a.Value) {
			return nil, fmt.Errorf("attribute %q is a %v: must be a string, a number, a bool, a time or a duration", a.Key, a.Value.Kind())
		}
		list[i] = short(a)
	}
	return list, nil
}

// isKind reports whether kind has the form of one.
func isKind(kind string) bool {
	words, begins := 0, true
	for _, c := range []byte(kind) {
		switch {
		case 'a' <= c && c <= 'z':
			if begins {
				words, begins = words+1, false
			}
		case begins:
			return false
		case c == '.':
			begins = true
		case c != '_' && (c < '0' || c > '9'):
			return false
		}
	}
	return words > 1 && !begins && len(kind) <= maxKind
}

// isPlain reports whether nothing of v is code of others, or refers to what they may change.
func isPlain(v slog.Value) bool {
	switch v.Kind() {
	case slog.KindString, slog.KindBool, slog.KindInt64, slog.KindUint64, slog.KindFloat64, slog.KindTime, slog.KindDuration:
		return true
	}
	return false
}

// short is a with its text cut.
func short(a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindString {
		a.Value = slog.StringValue(jsonx.Cut(a.Value.String(), errtext.MaxName, cutMarker))
	}
	return a
}

// said is what of attrs is written: whoever made the event by hand may have put in anything.
func said(attrs []slog.Attr) (list []slog.Attr) {
	for _, a := range attrs[:min(len(attrs), MaxAttrs)] {
		if isPlain(a.Value) {
			a.Key = jsonx.Cut(a.Key, maxKey, cutMarker)
			list = append(list, short(a))
		}
	}
	return list
}

// appendSaid appends attrs as an object. Durations are in milliseconds, as others are.
func appendSaid(b []byte, attrs []slog.Attr) []byte {
	list := said(attrs)
	if len(list) == 0 {
		return b
	}
	b = append(b, `,"attrs":`...)
	for i, a := range list {
		b = append(b, "{,"[min(i, 1)])
		b = append(jsonx.AppendString(b, a.Key, maxKey+len(cutMarker)), ':')
		b = appendPlain(b, a.Value)
	}
	return append(b, '}')
}

// appendPlain appends a value that is plain. A number that JSON does not have is a text.
func appendPlain(b []byte, v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindBool:
		return strconv.AppendBool(b, v.Bool())
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10)
	case slog.KindUint64:
		return strconv.AppendUint(b, v.Uint64(), 10)
	case slog.KindFloat64:
		if f := v.Float64(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return strconv.AppendFloat(b, f, 'g', -1, 64)
		}
	case slog.KindTime:
		return append(jsonx.AppendTime(append(b, '"'), v.Time()), '"')
	case slog.KindDuration:
		return jsonx.AppendMillis(b, v.Duration())
	}
	return jsonx.AppendString(b, v.String(), errtext.MaxName+len(cutMarker))
}
