package jsonx

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// Field is a field of a struct as encoding/json sees it.
type Field struct {
	Name   string
	Path   []int // for reflect.Value.FieldByIndexErr
	Type   reflect.Type
	Quoted bool // the option "string", where it counts

	OmitEmpty, OmitZero bool

	tagged bool
}

// Fields lists the fields of the struct t that encoding/json reads and writes, in the order
// in which they are declared. It follows its rules: of fields with one name the least nested
// wins, among those the one with the name in its tag; where that does not decide, none counts.
func Fields(t reflect.Type) []Field {
	type level struct {
		typ  reflect.Type
		path []int
	}
	var all []Field
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
				path := append(slices.Clone(l.path), i)
				f, inner, counts := fieldOf(l.typ.Field(i), path)
				switch {
				case !counts:
				case inner != nil:
					if nextCount[inner]++; nextCount[inner] == 1 {
						next = append(next, level{inner, path})
					}
				case count[l.typ] > 1:
					all = append(all, f, f) // embedded twice at this level: they cancel out
				default:
					all = append(all, f)
				}
			}
		}
	}
	return dominant(all)
}

// fieldOf is the field sf, which stands at path, or the struct that it embeds. Fields that
// are not exported or not wanted do not count.
func fieldOf(sf reflect.StructField, path []int) (f Field, inner reflect.Type, counts bool) {
	tag := sf.Tag.Get("json")
	if tag == "-" || !sf.IsExported() && !(sf.Anonymous && isStruct(sf.Type)) {
		return f, nil, false
	}
	name, options, _ := strings.Cut(tag, ",")
	if !validName(name) {
		name = ""
	}
	typ := sf.Type
	if typ.Name() == "" && typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if name == "" && sf.Anonymous && typ.Kind() == reflect.Struct {
		return f, typ, true
	}
	f = Field{Name: cmp.Or(name, sf.Name), Path: path, Type: sf.Type, tagged: name != ""}
	for option := range strings.SplitSeq(options, ",") {
		switch k := typ.Kind(); option {
		case "string":
			f.Quoted = k >= reflect.Bool && k <= reflect.Float64 || k == reflect.String
		case "omitempty":
			f.OmitEmpty = true
		case "omitzero":
			f.OmitZero = true
		}
	}
	return f, nil, true
}

// dominant leaves one field of each name, or none.
func dominant(all []Field) (out []Field) {
	slices.SortStableFunc(all, func(a, b Field) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(len(a.Path), len(b.Path)), compareBool(b.tagged, a.tagged))
	})
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j].Name == all[i].Name {
			j++
		}
		if j == i+1 || len(all[i].Path) != len(all[i+1].Path) || all[i].tagged != all[i+1].tagged {
			out = append(out, all[i])
		}
		i = j
	}
	slices.SortFunc(out, func(a, b Field) int { return slices.Compare(a.Path, b.Path) })
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
