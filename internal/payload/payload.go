// Package payload turns the arguments and results of calls into JSON that may be shown:
// copies that share nothing with the call, bounded in size, depth and work, without the
// values of fields whose names say that they are secret.
//
// A [Filter] says what is secret and how much is shown. Its Copy reads Go values along
// reflection (value.go, and marshal.go for types that encode themselves) and raw JSON along
// its text (document.go); both write into a writer, which ends as soon as the room is full.
//
// It calls foreign code only where a value has a MarshalJSON, MarshalText or IsZero of its
// own, on the goroutine of the caller and without a lock; their panics are caught. A Filter
// is safe for concurrent use: what it learns about types stands in a sync.Map.
package payload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/jsonx"
)

const (
	defaultBytes = 4096
	maxDepth     = 64
)

// maxFieldName is how many bytes of a name's end tell a secret.
const maxFieldName = 256

// secretNames are always redacted, written without separators. A field is redacted if its
// name ends in one of them: client_secret, X-Api-Key, refreshToken.
var secretNames = []string{
	"password", "passwords", "passwd", "passphrase", "pwd",
	"secret", "secrets", "token", "authorization", "bearer", "jwt",
	"apikey", "accesskey", "secretkey", "privatekey", "signingkey", "encryptionkey",
	"cookie", "cookies", "credential", "credentials",
}

const redacted = `"[redacted]"`

// Filter makes copies of values. Make one with [New].
type Filter struct {
	max   int
	exact map[string]struct{} // names, folded, that are secret beside secretNames
	types typeCache
}

// Names refuses, in the configuration's field, names of secret fields of which one cannot be told from others.
func Names(field string, names []string) error {
	for i, name := range names {
		if len(name) > maxFieldName || len(jsonx.AppendFolded(nil, name)) == 0 {
			return fmt.Errorf("%s[%d] is %q: must be the name of a field, of %d bytes at most",
				field, i, jsonx.Cut(name, 128, "…"), maxFieldName)
		}
	}
	return nil
}

// New returns a Filter of copies of at most max bytes, below 1 of 4,096, that redacts the
// fields named so too.
func New(max int, redact []string) *Filter {
	if max < 1 {
		max = defaultBytes
	}
	f := &Filter{max: max, exact: make(map[string]struct{}, len(redact))}
	for _, name := range redact {
		if n := jsonx.AppendFolded(nil, name); len(n) > 0 {
			f.exact[string(n)] = struct{}{}
		}
	}
	return f
}

// Copy is v as a json.RawMessage, or, where it had to be cut, as a string with a mark that
// says why. Nil stays nil.
func (f *Filter) Copy(v any) any {
	if v == nil {
		return nil
	}
	w := writer{b: make([]byte, 0, min(f.max, 512)), max: f.max, filter: f}
	w.value(reflect.ValueOf(v), 0)
	return w.result()
}

// Keep is a copy of v if it is what Copy makes, else nil.
func Keep(v any) any {
	switch v := v.(type) {
	case json.RawMessage:
		return json.RawMessage(bytes.Clone(v))
	case string:
		return v
	}
	return nil
}

// AppendJSON appends raw without its blanks and safe to show, all of it; ok is false and b
// as it was if raw is no JSON or nested too deep.
func AppendJSON(b, raw []byte) (out []byte, ok bool) {
	w := writer{b: b, max: math.MaxInt}
	if !w.document(raw) {
		return b, false
	}
	return w.b, true
}

// secret reports whether a field of this name must not be shown.
func (f *Filter) secret(name string) bool {
	if f == nil {
		return false
	}
	var room [96]byte
	n := jsonx.AppendFolded(room[:0], name)
	if _, ok := f.exact[string(n)]; ok {
		return true
	}
	for _, s := range secretNames {
		if len(n) >= len(s) && string(n[len(n)-len(s):]) == s {
			return true
		}
	}
	return false
}

// Why a text ended early.
const (
	truncated = "truncated"
	tooDeep   = "too deep"
	invalid   = "invalid JSON"
)

// writer writes JSON until max bytes are full. Unlike encoding/json it stops there, does
// not follow depth without end, and leaves out secrets. Its methods return false once the
// text has ended early.
type writer struct {
	b      []byte
	max    int // length of b to stop at
	filter *Filter
	why    string // the text ended early
}

func (w *writer) stop(why string) bool {
	w.why = why
	return false
}

// text appends s, which is JSON already.
func (w *writer) text(s string) bool {
	w.b = append(w.b, s...)
	return len(w.b) <= w.max || w.stop(truncated)
}

// string appends s quoted, of which it reads no more than there is room for.
func (w *writer) string(s string) bool {
	if room := w.max - len(w.b); len(s) > room {
		w.b = jsonx.AppendString(w.b, s[:max(room, 0)], len(s))
		w.b = w.b[:len(w.b)-1]
		return w.stop(truncated)
	}
	w.b = jsonx.AppendString(w.b, s, len(s))
	return len(w.b) <= w.max || w.stop(truncated)
}

// result is what was written: JSON, or a text of cut JSON with a mark.
func (w *writer) result() any {
	if w.why == "" {
		return json.RawMessage(w.b)
	}
	n := min(len(w.b), w.max)
	for n > 0 && n < len(w.b) && !utf8.RuneStart(w.b[n]) {
		n--
	}
	return string(w.b[:n]) + "…[" + w.why + "]"
}
