package value

import (
	"encoding/json"
	"reflect"
	"strconv"
)

// sizeParts is how many parts of a value are looked at to estimate its size.
const sizeParts = 1000

// mostBytes is the largest estimate. Parts that are shared at several levels of a value can
// add up to more than any number holds; sums of some thousand estimates still fit.
const mostBytes = 1 << 50

// word is the size of a pointer and of an int in bytes.
const word = strconv.IntSize / 8

// sizeOf estimates the memory of *p in bytes.
func sizeOf[T any](p *T) int64 {
	switch p := any(p).(type) {
	case *string:
		return int64(2*word + len(*p))
	case *[]byte:
		return int64(3*word + cap(*p))
	case *json.RawMessage:
		return int64(3*word + cap(*p))
	}
	t := reflect.TypeFor[T]()
	if !refers(t) {
		return int64(t.Size())
	}
	m := measure{left: sizeParts}
	return min(int64(t.Size())+m.beyond(reflect.ValueOf(p).Elem()), mostBytes)
}

// refers reports whether a value of t can hold memory outside itself that is counted.
func refers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Slice, reflect.Map, reflect.Pointer, reflect.Interface:
		return true
	case reflect.Array:
		return t.Len() > 0 && refers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if refers(t.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// measure walks a value. Its budget also ends the walk of a value that contains itself.
type measure struct{ left int }

// beyond returns the bytes that v refers to.
func (m *measure) beyond(v reflect.Value) (n int64) {
	if m.left--; m.left < 0 {
		return 0
	}
	switch v.Kind() {
	case reflect.String:
		return int64(v.Len())
	case reflect.Slice:
		return int64(v.Cap())*int64(v.Type().Elem().Size()) + m.elements(v)
	case reflect.Array:
		return m.elements(v)
	case reflect.Map:
		t := v.Type()
		n = int64(v.Len()) * int64(t.Key().Size()+t.Elem().Size()+16)
		if !refers(t.Key()) && !refers(t.Elem()) {
			return n
		}
		sum, seen := int64(0), 0
		for i := v.MapRange(); m.left > 0 && i.Next(); seen++ {
			sum += m.beyond(i.Key()) + m.beyond(i.Value())
		}
		return n + scale(sum, seen, v.Len())
	case reflect.Pointer:
		if !v.IsNil() {
			return int64(v.Type().Elem().Size()) + m.beyond(v.Elem())
		}
	case reflect.Interface:
		if !v.IsNil() {
			return int64(v.Elem().Type().Size()) + m.beyond(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); refers(f.Type()) {
				n += m.beyond(f)
			}
		}
	}
	return n
}

func (m *measure) elements(v reflect.Value) int64 {
	if !refers(v.Type().Elem()) {
		return 0
	}
	sum, seen := int64(0), 0
	for ; m.left > 0 && seen < v.Len(); seen++ {
		sum += m.beyond(v.Index(seen))
	}
	return scale(sum, seen, v.Len())
}

// scale takes the parts that were not seen to be like those that were.
func scale(sum int64, seen, all int) int64 {
	if seen == 0 || seen == all {
		return sum
	}
	return int64(min(float64(sum)/float64(seen)*float64(all), mostBytes))
}
