package payload

import (
	"encoding"
	"encoding/json"
	"reflect"
	"time"
)

// marshaler appends v by its own MarshalJSON or MarshalText, if it has one. done is
// false if it has none.
func (w *writer) marshaler(v reflect.Value, t reflect.Type) (done, ok bool) {
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
	return smallPart(v, maxDepth, &parts)
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
