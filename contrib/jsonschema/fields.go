package jsonschema

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// field is a field of a struct as encoding/json sees it.
type field struct {
	reflect.StructField
	name     string
	path     []int
	tagged   bool
	optional bool // omitempty or omitzero
	maybe    bool // it is in an embedded pointer, which may be nil
	quoted   bool // the option "string", where it counts
}

// fieldsOf lists the fields of the struct t that encoding/json reads and writes, in the order in which they
// are declared: of those with one name the least nested, among them the one with the name in its tag; where
// that does not decide, none.
func fieldsOf(t reflect.Type) []field {
	type embedded struct {
		typ   reflect.Type
		path  []int
		maybe bool
	}
	var all []field
	visited := map[reflect.Type]bool{}
	times := map[reflect.Type]int{t: 1}
	for level := []embedded{{typ: t}}; len(level) > 0; {
		var deeper []embedded
		next := map[reflect.Type]int{}
		for _, in := range level {
			if visited[in.typ] {
				continue
			}
			visited[in.typ] = true
			for i := range in.typ.NumField() {
				f, inner, ok := fieldOf(in.typ.Field(i))
				f.path, f.maybe = append(slices.Clone(in.path), i), in.maybe
				switch {
				case !ok:
				case inner != nil:
					if next[inner]++; next[inner] == 1 {
						deeper = append(deeper, embedded{inner, f.path, in.maybe || in.typ.Field(i).Type.Kind() == reflect.Pointer})
					}
				case times[in.typ] > 1: // the struct is there twice, so that nobody is meant
					all = append(all, f, f)
				default:
					all = append(all, f)
				}
			}
		}
		level, times = deeper, next
	}
	return dominant(all)
}

// fieldOf is the field sf, or the struct whose fields count instead. It is not ok if neither does.
func fieldOf(sf reflect.StructField) (f field, inner reflect.Type, ok bool) {
	typ := sf.Type
	if typ.Name() == "" && typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	isStruct := typ.Kind() == reflect.Struct
	tag := sf.Tag.Get("json")
	if tag == "-" || !sf.IsExported() && !(sf.Anonymous && isStruct) {
		return f, nil, false
	}
	name, options, _ := strings.Cut(tag, ",")
	if !validName(name) {
		name = ""
	}
	if sf.Anonymous && isStruct && name == "" {
		return f, typ, true
	}
	f = field{StructField: sf, name: cmp.Or(name, sf.Name), tagged: name != ""}
	for option := range strings.SplitSeq(options, ",") {
		switch k := typ.Kind(); option {
		case "omitempty", "omitzero":
			f.optional = true
		case "string":
			f.quoted = k >= reflect.Bool && k <= reflect.Float64 || k == reflect.String
		}
	}
	return f, nil, true
}

func dominant(all []field) (out []field) {
	slices.SortStableFunc(all, func(a, b field) int {
		if d := cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(len(a.path), len(b.path))); d != 0 {
			return d
		}
		return rank(a) - rank(b)
	})
	for i, j := 0, 0; i < len(all); i = j {
		for j = i + 1; j < len(all) && all[j].name == all[i].name; j++ {
		}
		if j == i+1 || len(all[i].path) != len(all[i+1].path) || all[i].tagged != all[i+1].tagged {
			out = append(out, all[i])
		}
	}
	slices.SortFunc(out, func(a, b field) int { return slices.Compare(a.path, b.path) })
	return out
}

func rank(f field) int {
	if f.tagged {
		return 0
	}
	return 1
}

// validName reports whether encoding/json takes the name in a tag.
func validName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}
