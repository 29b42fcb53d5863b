package strictjson

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// structField is a field as encoding/json sees it.
type structField struct {
	name     string
	path     []int
	typ      reflect.Type
	tagged   bool
	quoted   bool // the option "string"
	optional bool // omitempty or omitzero
}

// fieldsOf lists the fields that encoding/json reads and writes, in the order in which they
// are declared. It follows its rules: of fields with one name the least nested wins, among
// those the one with the name in its tag; where that does not decide, none counts.
func fieldsOf(t reflect.Type) []structField {
	type level struct {
		typ  reflect.Type
		path []int
	}
	var all []structField
	next := []level{{typ: t}}
	visited := map[reflect.Type]bool{}
	var count, nextCount map[reflect.Type]int
	for len(next) > 0 {
		current := next
		next, count, nextCount = nil, nextCount, map[reflect.Type]int{}
		for _, l := range current {
			if visited[l.typ] {
				continue
			}
			visited[l.typ] = true
			for i := range l.typ.NumField() {
				sf := l.typ.Field(i)
				tag := sf.Tag.Get("json")
				if tag == "-" || !sf.IsExported() && !(sf.Anonymous && isStruct(sf.Type)) {
					continue
				}
				name, options, _ := strings.Cut(tag, ",")
				if !validName(name) {
					name = ""
				}
				typ := sf.Type
				if typ.Name() == "" && typ.Kind() == reflect.Pointer {
					typ = typ.Elem()
				}
				path := append(slices.Clone(l.path), i)
				if name == "" && sf.Anonymous && typ.Kind() == reflect.Struct {
					if nextCount[typ]++; nextCount[typ] == 1 {
						next = append(next, level{typ, path})
					}
					continue
				}
				f := structField{name: name, path: path, typ: sf.Type, tagged: name != ""}
				if name == "" {
					f.name = sf.Name
				}
				for option := range strings.SplitSeq(options, ",") {
					switch k := typ.Kind(); option {
					case "string":
						f.quoted = k >= reflect.Bool && k <= reflect.Float64 || k == reflect.String
					case "omitempty", "omitzero":
						f.optional = true
					}
				}
				all = append(all, f)
				if count[l.typ] > 1 {
					all = append(all, f) // embedded twice at this level: they cancel out
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b structField) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(len(a.path), len(b.path)), compareBool(b.tagged, a.tagged))
	})
	var out []structField
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j].name == all[i].name {
			j++
		}
		if j == i+1 || len(all[i].path) != len(all[i+1].path) || all[i].tagged != all[i+1].tagged {
			out = append(out, all[i])
		}
		i = j
	}
	slices.SortFunc(out, func(a, b structField) int { return slices.Compare(a.path, b.path) })
	return out
}

func isStruct(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// validName reports whether encoding/json takes the name in a tag.
func validName(s string) bool {
	for _, r := range s {
		if !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	return s != ""
}

// written holds what fieldsOf says, for encoding.
var written sync.Map // reflect.Type -> []structField

func writtenFields(t reflect.Type) []structField {
	if f, ok := written.Load(t); ok {
		return f.([]structField)
	}
	f, _ := written.LoadOrStore(t, fieldsOf(t))
	return f.([]structField)
}
