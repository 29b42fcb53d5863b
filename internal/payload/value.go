package payload

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

	"github.com/sluice-go/sluice/internal/jsonx"
)

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
func (w *writer) value(v reflect.Value, depth int) bool {
	if depth > maxDepth {
		return w.stop(tooDeep)
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
		} else if n, _, ok := jsonx.Number([]byte(s[:min(len(s), 64)])); ok && n == len(s) {
			return w.text(s)
		}
	}
	if done, ok := w.marshaler(v, t); done {
		return ok
	}
	switch kind {
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
	return w.scalar(v, kind)
}

func (w *writer) scalar(v reflect.Value, kind reflect.Kind) bool {
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
		return w.float(v.Float(), v.Type().Bits())
	case reflect.String:
		return w.string(v.String())
	}
	return w.string("[" + kind.String() + "]") // chan, func, complex, unsafe pointer
}

func (w *writer) float(f float64, bits int) bool {
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
func (w *writer) bytes(b []byte) bool {
	whole := true
	if room := max(w.max-len(w.b), 0)/4*3 + 3; len(b) > room {
		b, whole = b[:room], false
	}
	w.b = base64.StdEncoding.AppendEncode(append(w.b, '"'), b)
	return w.text(`"`) && whole
}

func (w *writer) list(v reflect.Value, depth int) bool {
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

func (w *writer) mapping(v reflect.Value, depth int) bool {
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
		if e.secret || w.filter.secret(e.key) {
			if !w.text(redacted) {
				return false
			}
		} else if !w.value(e.value, depth+1) {
			return false
		}
	}
	return w.text("}")
}

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
func (w *writer) secretName(k reflect.Value, depth int) bool {
	if w.filter == nil {
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
		if !ok || w.filter.secret(tail(string(text))) {
			return true
		}
	}
	switch k.Kind() {
	case reflect.String:
		return w.filter.secret(tail(k.String()))
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
			return k.Len() > maxKeyParts || w.filter.secret(arrayText(k))
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
func tail(name string) string { return name[max(0, len(name)-maxFieldName):] }

func (w *writer) structure(v reflect.Value, t reflect.Type, depth int) bool {
	w.b = append(w.b, '{')
	first := true
	for _, f := range w.filter.fieldsOf(t) {
		fv, err := v.FieldByIndexErr(f.Path)
		if err != nil || f.OmitEmpty && isEmpty(fv) || f.OmitZero && isZero(fv) {
			continue
		}
		if !first {
			w.b = append(w.b, ',')
		}
		first = false
		if !w.string(f.Name) {
			return false
		}
		w.b = append(w.b, ':')
		ok := false
		switch {
		case f.secret:
			ok = w.text(redacted)
		case f.Quoted && quotable(fv.Kind()):
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

// field is one field of a struct as JSON shows it.
type field struct {
	jsonx.Field
	secret bool
}

// typeCache remembers the fields of types: of so many as a program has, but not of any
// number that it makes.
type typeCache struct {
	known sync.Map // reflect.Type to []field
	size  atomic.Int32
}

const maxTypes = 10_000

func (f *Filter) fieldsOf(t reflect.Type) []field {
	if known, ok := f.types.known.Load(t); ok {
		return known.([]field)
	}
	all := jsonx.Fields(t)
	fields := make([]field, len(all))
	for i, x := range all {
		fields[i] = field{x, f.secret(x.Name) || f.secret(t.FieldByIndex(x.Path).Name)}
	}
	if f.types.size.Load() < maxTypes {
		if _, ok := f.types.known.LoadOrStore(t, fields); !ok {
			f.types.size.Add(1)
		}
	}
	return fields
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

// Bytes is the size of v where it is known without encoding it.
func Bytes(v any) int {
	switch v := v.(type) {
	case json.RawMessage:
		return len(v)
	case []byte:
		return len(v)
	case string:
		return len(v)
	}
	return 0
}
