package strictjson

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// node is what the check knows of a Go type. Nodes of recursive types are cyclic.
type node struct {
	kind    kind
	accepts form
	want    string // what is accepted, in words
	reads   string // what conversion takes of that, if it is opaque
	typ     reflect.Type

	bits   int              // of numbers
	size   int              // of arrays
	elem   *node            // of lists, arrays, maps
	key    *node            // of maps with integer keys
	fields []field          // of records, by name
	index  map[string]int32 // nil if the fields are few
	opaque bool             // encoding/json or a method may refuse what the check lets pass
	quoted bool             // typ is a struct whose one field has the option "string", for try
}

type field struct {
	name string
	path []int // for reflect
	node *node
}

// form is a set of JSON types; null is accepted everywhere.
type form uint8

const (
	object form = 1 << iota
	array
	text
	number
	boolean
	anything = object | array | text | number | boolean
)

type kind uint8

const (
	foreign  kind = iota // checked for form alone
	dynamic              // an any
	scalar               // strings, booleans, and what opaque says
	signed               // integers
	unsigned             //
	float                //
	record               // struct
	mapping              // map
	list                 // slice
	fixed                // array
	hopeless             // no value can be decoded
)

var (
	formNode = node{accepts: anything}

	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	jsonNumber      = reflect.TypeFor[json.Number]()
	timeType        = reflect.TypeFor[time.Time]()
)

// nodes grows with the types of the program that are decoded or encoded.
var nodes sync.Map // reflect.Type -> *node

func nodeOf(t reflect.Type) *node {
	if n, ok := nodes.Load(t); ok {
		return n.(*node)
	}
	c := compiler{}
	n, _ := nodes.LoadOrStore(t, c.node(t))
	return n.(*node)
}

// compiler holds the nodes under construction, so that recursive types end.
type compiler map[reflect.Type]*node

const maxPointers = 32 // in a row; type P *P has no end

func (c compiler) node(t reflect.Type) *node {
	if n := c[t]; n != nil {
		return n
	}
	n := &node{typ: t}
	c[t] = n
	base := t
	for i := 0; base.Kind() == reflect.Pointer; i++ {
		if i == maxPointers {
			n.kind, n.want = hopeless, "null, since "+t.String()+" has no end"
			return n
		}
		if n.decodesItself(base) {
			return n
		}
		base = base.Elem()
	}
	// encoding/json looks for methods of the pointer to a value only if the type has a name.
	if base == t && t.Name() != "" && n.decodesItself(reflect.PointerTo(t)) {
		return n
	}
	c.fill(n, base)
	return n
}

func (n *node) decodesItself(p reflect.Type) bool {
	switch {
	case p.Implements(unmarshaler):
		n.kind, n.accepts, n.opaque = foreign, anything, true
		if n.reads = "what " + nameOf(p) + " reads"; p.Elem() == timeType {
			n.reads = "a time like \"2006-01-02T15:04:05Z\""
		}
	case p.Implements(textUnmarshaler):
		n.kind, n.accepts, n.want, n.opaque = scalar, text, "a string", true
		n.reads = "one that " + nameOf(p) + " reads"
	default:
		return false
	}
	return true
}

// nameOf is t, without pointers to it, in an error.
func nameOf(t reflect.Type) string {
	for t.Kind() == reflect.Pointer && t.Elem() != t {
		t = t.Elem()
	}
	return jsonx.Cut(t.String(), 64, "...")
}

// try converts a value on its own.
func (n *node) try(value []byte) error {
	if n.quoted {
		value = slices.Concat([]byte(`{"F":`), value, []byte("}"))
	}
	return convert(slices.Clone(value), reflect.New(n.typ).Interface(), false)
}

func (c compiler) fill(n *node, t reflect.Type) {
	switch t.Kind() {
	case reflect.Bool:
		n.kind, n.accepts, n.want = scalar, boolean, "true or false"
	case reflect.String:
		n.kind, n.accepts, n.want = scalar, text, "a string"
		if t == jsonNumber {
			n.accepts, n.want, n.reads, n.opaque = text|number, "a number", "a number", true
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n.kind, n.accepts, n.bits = signed, number, t.Bits()
		n.want = fmt.Sprintf("a whole number from %d to %d", int64(-1)<<(n.bits-1), int64(1)<<(n.bits-1)-1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		n.kind, n.accepts, n.bits = unsigned, number, t.Bits()
		n.want = fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<(n.bits-1)-1+uint64(1)<<(n.bits-1))
	case reflect.Float32, reflect.Float64:
		n.kind, n.accepts, n.bits, n.want = float, number, t.Bits(), "a number"
	case reflect.Interface:
		n.kind, n.accepts, n.opaque = foreign, anything, true
		if t.NumMethod() == 0 {
			n.kind, n.opaque = dynamic, false
		}
		n.reads = "null, since " + nameOf(t) + " cannot be decoded"
	case reflect.Slice:
		n.kind, n.accepts, n.want, n.elem = list, array, "an array", c.node(t.Elem())
		if t.Elem().Kind() == reflect.Uint8 {
			n.accepts, n.want, n.opaque = array|text, "a string in base64", true
			n.reads = n.want
		}
	case reflect.Array:
		n.kind, n.accepts, n.size, n.elem = fixed, array, t.Len(), c.node(t.Elem())
		n.want = fmt.Sprintf("an array of at most %d", n.size)
	case reflect.Map:
		n.kind, n.accepts, n.want, n.elem, n.opaque = mapping, object, "an object", c.node(t.Elem()), true
		n.reads = "one whose keys " + nameOf(t.Key()) + " reads"
		if k := t.Key().Kind(); !reflect.PointerTo(t.Key()).Implements(textUnmarshaler) {
			if n.opaque = k != reflect.String; k >= reflect.Int && k <= reflect.Uintptr {
				n.key = new(node)
				c.fill(n.key, t.Key())
			}
		}
	case reflect.Struct:
		n.kind, n.accepts, n.want = record, object, "an object"
		c.record(n, t)
	default: // channels, functions, complex numbers
		n.kind, n.want = hopeless, "null, since "+t.String()+" cannot be decoded"
	}
}

func (c compiler) record(n *node, t reflect.Type) {
	for _, f := range jsonx.Fields(t) {
		child := c.node(f.Type)
		if f.Quoted {
			typ := reflect.StructOf([]reflect.StructField{{Name: "F", Type: f.Type, Tag: `json:",string"`}})
			child = &node{kind: scalar, accepts: text, typ: typ, opaque: true, quoted: true}
			child.want = "a string that holds the value"
			child.reads = "one that holds " + c.node(f.Type).want
		}
		n.fields = append(n.fields, field{f.Name, f.Path, child})
	}
	if len(n.fields) > 8 {
		n.index = make(map[string]int32, len(n.fields))
		for i := range n.fields {
			n.index[n.fields[i].name] = int32(i)
		}
	}
}

// field returns the place of the field with exactly this name, -1 if there is none.
func (n *node) field(key []byte) int {
	if n.index != nil {
		if i, ok := n.index[string(key)]; ok {
			return int(i)
		}
		return -1
	}
	for i := range n.fields {
		if n.fields[i].name == string(key) {
			return i
		}
	}
	return -1
}

// names lists the fields for an error.
func (n *node) names() string {
	if len(n.fields) == 0 {
		return "none is allowed"
	}
	return "allowed are " + n.list()
}

func (n *node) list() string {
	var b strings.Builder
	for i := range n.fields {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == 16 {
			fmt.Fprintf(&b, "and %d more", len(n.fields)-i)
			break
		}
		b.WriteString(quote([]byte(n.fields[i].name)))
	}
	return b.String()
}
