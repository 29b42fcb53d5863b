package sluice

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// bounded writes Go values and raw JSON as JSON until max bytes are full. Unlike
// encoding/json it stops there, does not follow depth without end, and leaves out
// secrets. Its methods return false once the text has ended early.
type bounded struct {
	b      []byte
	max    int // length of b to stop at
	scan   int // bytes of raw JSON that may be passed over without writing
	redact *redactor
	types  *typeCache
	why    string // the text ended early

	secretEnd int // where in b a raw document's first secret ends; zero if it has none
}

const (
	whyTruncated = "truncated"
	whyTooDeep   = "too deep"
	whyInvalid   = "invalid JSON"
)

func (w *bounded) stop(why string) bool {
	w.why = why
	return false
}

// text appends s, which is JSON already.
func (w *bounded) text(s string) bool {
	w.b = append(w.b, s...)
	return len(w.b) <= w.max || w.stop(whyTruncated)
}

// string appends s quoted, of which it reads no more than there is room for.
func (w *bounded) string(s string) bool {
	if room := w.max - len(w.b); len(s) > room {
		w.b = appendJSONString(w.b, s[:max(room, 0)], len(s))
		w.b = w.b[:len(w.b)-1]
		return w.stop(whyTruncated)
	}
	w.b = appendJSONString(w.b, s, len(s))
	return len(w.b) <= w.max || w.stop(whyTruncated)
}

// result is what was written: JSON, or a text of cut JSON with a mark.
func (w *bounded) result() any {
	if w.why == "" {
		return json.RawMessage(w.b)
	}
	n := min(len(w.b), w.max)
	for n > 0 && n < len(w.b) && !utf8.RuneStart(w.b[n]) {
		n--
	}
	return string(w.b[:n]) + "…[" + w.why + "]"
}

var (
	timeType    = reflect.TypeFor[time.Time]()
	numberType  = reflect.TypeFor[json.Number]()
	rawType     = reflect.TypeFor[json.RawMessage]()
	jsonMarshal = reflect.TypeFor[json.Marshaler]()
	textMarshal = reflect.TypeFor[encoding.TextMarshaler]()
	zeroer      = reflect.TypeFor[interface{ IsZero() bool }]()
)

// value appends v, which lies depth levels down. A pointer is a level too, or a cycle
// of pointers would not end.
func (w *bounded) value(v reflect.Value, depth int) bool {
	if depth > maxPayloadDepth {
		return w.stop(whyTooDeep)
	}
	if !v.IsValid() {
		return w.text("null")
	}
	t, kind := v.Type(), v.Kind()
	switch kind {
	case reflect.Pointer, reflect.Interface, reflect.Map, reflect.Slice:
		if v.IsNil() {
			return w.text("null")
		}
	}
	if kind == reflect.Interface {
		return w.value(v.Elem(), depth+1)
	}
	switch t {
	case rawType:
		return w.document(v.Bytes())
	case timeType:
		return w.text(strconv.Quote(v.Interface().(time.Time).Format(time.RFC3339Nano)))
	case numberType:
		if s := v.String(); s == "" {
			return w.text("0")
		} else if len(s) < 64 && isNumber([]byte(s)) {
			return w.text(s)
		}
	}
	if done, ok := w.marshaler(v, t); done {
		return ok
	}
	switch kind {
	case reflect.Bool:
		return w.text(strconv.FormatBool(v.Bool()))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		w.b = strconv.AppendInt(w.b, v.Int(), 10)
		return w.text("")
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		w.b = strconv.AppendUint(w.b, v.Uint(), 10)
		return w.text("")
	case reflect.Float32, reflect.Float64:
		return w.float(v.Float(), t.Bits())
	case reflect.String:
		return w.string(v.String())
	case reflect.Pointer:
		return w.value(v.Elem(), depth+1)
	case reflect.Struct:
		return w.structure(v, t, depth)
	case reflect.Map:
		return w.mapping(v, depth)
	case reflect.Slice, reflect.Array:
		if kind == reflect.Slice && t.Elem().Kind() == reflect.Uint8 {
			return w.bytes(v.Bytes())
		}
		return w.list(v, depth)
	}
	return w.string("[" + kind.String() + "]") // chan, func, complex, unsafe pointer
}

func (w *bounded) float(f float64, bits int) bool {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return w.string(strconv.FormatFloat(f, 'g', -1, bits))
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	w.b = strconv.AppendFloat(w.b, f, format, -1, bits)
	return w.text("")
}

// bytes appends b in base64, as encoding/json does.
func (w *bounded) bytes(b []byte) bool {
	whole := true
	if room := max(w.max-len(w.b), 0)/4*3 + 3; len(b) > room {
		b, whole = b[:room], false
	}
	w.b = base64.StdEncoding.AppendEncode(append(w.b, '"'), b)
	return w.text(`"`) && whole
}

func (w *bounded) list(v reflect.Value, depth int) bool {
	w.b = append(w.b, '[')
	for i := range v.Len() {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		if !w.value(v.Index(i), depth+1) {
			return false
		}
	}
	return w.text("]")
}

func (w *bounded) mapping(v reflect.Value, depth int) bool {
	type entry struct {
		key    string
		secret bool
		value  reflect.Value
	}
	// An entry takes four bytes at least: of a large map only as many as can fit are
	// looked at, so that there it is chance which.
	room := max((w.max-len(w.b))/4, 256)
	entries := make([]entry, 0, min(v.Len(), room))
	for it := v.MapRange(); len(entries) < room && it.Next(); {
		entries = append(entries, entry{keyText(it.Key()), w.secretName(it.Key(), 0), it.Value()})
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	w.b = append(w.b, '{')
	for i, e := range entries {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		if !w.string(e.key) {
			return false
		}
		w.b = append(w.b, ':')
		if e.secret || w.redact.secret(e.key) {
			if !w.text(redacted) {
				return false
			}
		} else if !w.value(e.value, depth+1) {
			return false
		}
	}
	return w.text("}")
}

const redacted = `"[redacted]"`

// keyText is a map key as encoding/json writes it, without calling foreign code for
// kinds that JSON has no form for.
func keyText(k reflect.Value) string {
	switch {
	case k.Kind() == reflect.String:
		return k.String()
	case k.Kind() == reflect.Interface:
		if k.IsNil() {
			return "null"
		}
		return keyText(k.Elem())
	case k.Type().Implements(textMarshal) && k.CanInterface() && small(k):
		if text, ok := marshalText(k.Interface().(encoding.TextMarshaler)); ok {
			return string(text)
		}
	case k.CanInt():
		return strconv.FormatInt(k.Int(), 10)
	case k.CanUint():
		return strconv.FormatUint(k.Uint(), 10)
	}
	return "[" + k.Kind().String() + "]"
}

// maxKeyDepth bounds how deep a map key is looked into, and maxKeyParts how much of it.
const (
	maxKeyDepth = 8
	maxKeyParts = 64
)

// secretName reports whether a map key may name a secret, whatever it is written as: it, its
// MarshalText or a text that it consists of does, or nobody can tell.
func (w *bounded) secretName(k reflect.Value, depth int) bool {
	if w.redact == nil {
		return false
	}
	switch k.Kind() {
	case reflect.Interface, reflect.Pointer:
		if k.IsNil() {
			return false
		}
	}
	if depth > maxKeyDepth {
		return true
	}
	if k.Kind() != reflect.Interface && k.CanInterface() && k.Type().Implements(textMarshal) {
		if !small(k) {
			return true
		}
		text, ok := marshalText(k.Interface().(encoding.TextMarshaler))
		if !ok || w.redact.secret(tail(string(text))) {
			return true
		}
	}
	switch k.Kind() {
	case reflect.String:
		return w.redact.secret(tail(k.String()))
	case reflect.Interface, reflect.Pointer:
		return w.secretName(k.Elem(), depth+1)
	case reflect.Struct:
		for i := range k.NumField() {
			if i == maxKeyParts || w.secretName(k.Field(i), depth+1) {
				return true
			}
		}
	case reflect.Array:
		if k.Type().Elem().Kind() == reflect.Uint8 {
			return k.Len() > maxKeyParts || w.redact.secret(arrayText(k))
		}
		for i := range k.Len() {
			if i == maxKeyParts || w.secretName(k.Index(i), depth+1) {
				return true
			}
		}
	}
	return false
}

// arrayText is an array of bytes as text, up to its first zero.
func arrayText(k reflect.Value) string {
	var b []byte
	for i := range k.Len() {
		c := byte(k.Index(i).Uint())
		if c == 0 {
			break
		}
		b = append(b, c)
	}
	return string(b)
}

// tail is the end of a name, by which a secret is known.
func tail(name string) string { return name[max(0, len(name)-maxName):] }

func (w *bounded) structure(v reflect.Value, t reflect.Type, depth int) bool {
	w.b = append(w.b, '{')
	first := true
	for _, f := range w.fieldsOf(t) {
		fv, ok := fieldAt(v, f.index)
		if !ok || f.omitEmpty && isEmpty(fv) || f.omitZero && isZero(fv) {
			continue
		}
		if !first {
			w.b = append(w.b, ',')
		}
		first = false
		if !w.string(f.name) {
			return false
		}
		w.b = append(w.b, ':')
		switch {
		case f.secret:
			ok = w.text(redacted)
		case f.quoted && quotable(fv.Kind()):
			w.b = append(w.b, '"')
			ok = w.value(fv, depth+1) && w.text(`"`)
		default:
			ok = w.value(fv, depth+1)
		}
		if !ok {
			return false
		}
	}
	return w.text("}")
}

// marshaler appends v by its own MarshalJSON or MarshalText, if it has one. done is
// false if it has none.
func (w *bounded) marshaler(v reflect.Value, t reflect.Type) (done, ok bool) {
	if !v.CanInterface() {
		return false, true
	}
	isJSON, isText := t.Implements(jsonMarshal), t.Implements(textMarshal)
	if !isJSON && !isText && v.CanAddr() {
		if p := reflect.PointerTo(t); p.Implements(jsonMarshal) || p.Implements(textMarshal) {
			v, t = v.Addr(), p
			isJSON, isText = t.Implements(jsonMarshal), t.Implements(textMarshal)
		}
	}
	if !isJSON && !isText {
		return false, true
	}
	if !small(v) {
		return true, w.string("[too large]")
	}
	if isJSON {
		out, ok := marshalJSON(v.Interface().(json.Marshaler))
		if !ok {
			return true, w.string("[MarshalJSON failed]")
		}
		return true, w.document(out)
	}
	out, ok := marshalText(v.Interface().(encoding.TextMarshaler))
	if !ok {
		return true, w.string("[MarshalText failed]")
	}
	return true, w.string(string(out))
}

func marshalJSON(m json.Marshaler) (out []byte, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	out, err := m.MarshalJSON()
	return out, err == nil
}

func marshalText(m encoding.TextMarshaler) (out []byte, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	out, err := m.MarshalText()
	return out, err == nil
}

// small reports whether foreign code may be asked to encode v: encoding/json overflows
// the stack, which nobody can recover from, on a value that is deep enough.
func small(v reflect.Value) bool {
	parts := 10_000
	return smallPart(v, maxPayloadDepth, &parts)
}

func smallPart(v reflect.Value, depth int, parts *int) bool {
	*parts--
	if depth < 0 || *parts < 0 {
		return false
	}
	switch v.Kind() {
	case reflect.String:
		*parts -= v.Len() / 64
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() || v.Type() == timeLocation {
			return true
		}
		return smallPart(v.Elem(), depth-1, parts)
	case reflect.Struct:
		for i := range v.NumField() {
			if !smallPart(v.Field(i), depth-1, parts) {
				return false
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if !smallPart(it.Key(), depth-1, parts) || !smallPart(it.Value(), depth-1, parts) {
				return false
			}
		}
	case reflect.Slice, reflect.Array:
		if k := v.Type().Elem().Kind(); k >= reflect.Bool && k <= reflect.Complex128 {
			*parts -= v.Len() / 64
			break
		}
		for i := range v.Len() {
			if !smallPart(v.Index(i), depth-1, parts) {
				return false
			}
		}
	}
	return *parts >= 0
}

var timeLocation = reflect.TypeFor[*time.Location]()

// payloadField is one field of a struct as JSON shows it.
type payloadField struct {
	name                        string
	index                       []int
	tagged                      bool
	secret                      bool
	omitEmpty, omitZero, quoted bool
}

// typeCache remembers the fields of types: of so many as a program has, but not of any
// number that it makes.
type typeCache struct {
	known sync.Map // reflect.Type to []payloadField
	size  atomic.Int32
}

const maxTypes = 10_000

func (w *bounded) fieldsOf(t reflect.Type) []payloadField {
	if f, ok := w.types.known.Load(t); ok {
		return f.([]payloadField)
	}
	all := collectFields(t, nil, nil, w.redact)
	// Of fields with one name the shallowest counts, among equals the tagged one; if
	// that leaves two, neither does.
	var fields []payloadField
	for i, f := range all {
		wins := true
		for j, g := range all {
			if i != j && f.name == g.name && !beats(f, g) {
				wins = false
			}
		}
		if wins {
			fields = append(fields, f)
		}
	}
	if w.types.size.Load() < maxTypes {
		if _, ok := w.types.known.LoadOrStore(t, fields); !ok {
			w.types.size.Add(1)
		}
	}
	return fields
}

func beats(f, g payloadField) bool {
	if len(f.index) != len(g.index) {
		return len(f.index) < len(g.index)
	}
	return f.tagged && !g.tagged
}

func collectFields(t reflect.Type, index []int, within []reflect.Type, redact *redactor) (fields []payloadField) {
	if slices.Contains(within, t) {
		return nil
	}
	within = append(slices.Clip(within), t)
	for i := range t.NumField() {
		f := t.Field(i)
		ft := f.Type
		if f.Anonymous && ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if !f.IsExported() && (!f.Anonymous || ft.Kind() != reflect.Struct) {
			continue
		}
		tag := f.Tag.Get("json")
		if tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		at := append(slices.Clip(index), i)
		if f.Anonymous && name == "" && ft.Kind() == reflect.Struct {
			fields = append(fields, collectFields(ft, at, within, redact)...)
			continue
		}
		if !f.IsExported() {
			continue
		}
		p := payloadField{name: name, index: at, tagged: name != ""}
		if name == "" {
			p.name = f.Name
		}
		p.secret = redact.secret(p.name) || redact.secret(f.Name)
		for o := range strings.SplitSeq(options, ",") {
			switch o {
			case "omitempty":
				p.omitEmpty = true
			case "omitzero":
				p.omitZero = true
			case "string":
				p.quoted = true
			}
		}
		fields = append(fields, p)
	}
	return fields
}

// fieldAt is false behind an embedded pointer that is nil.
func fieldAt(v reflect.Value, index []int) (reflect.Value, bool) {
	for i, x := range index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return v, false
			}
			v = v.Elem()
		}
		v = v.Field(x)
	}
	return v, true
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

func isZero(v reflect.Value) (zero bool) {
	if v.Type().Implements(zeroer) && v.CanInterface() && !(v.Kind() == reflect.Pointer && v.IsNil()) {
		defer func() {
			if recover() != nil {
				zero = false
			}
		}()
		return v.Interface().(interface{ IsZero() bool }).IsZero()
	}
	return v.IsZero()
}

func quotable(k reflect.Kind) bool { return k >= reflect.Bool && k <= reflect.Float64 }
