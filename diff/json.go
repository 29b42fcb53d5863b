package diff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Values is [JSON] of what a and b are in JSON, as encoding/json writes them.
func Values(a, b any) (patch []byte, err error) {
	x, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("diff: a: %w", err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("diff: b: %w", err)
	}
	return JSON(x, y)
}

// JSON is a patch (RFC 6902) that makes b of a when it is applied: removes, adds and replaces, in an order in
// which all paths are right. It is "[]" if they say the same: the order of names and space do not count, but
// how a number is written does. Of a name that comes twice the last counts. The patch is not longer than one
// that replaces all of a by b. The error says which of the two is no JSON.
func JSON(a, b []byte) (patch []byte, err error) {
	p := &patcher{ids: map[string]int{}, aligner: aligner{maxWork}}
	x, err := p.parse(a)
	if err != nil {
		return nil, fmt.Errorf("diff: a is no JSON: %w", err)
	}
	y, err := p.parse(b)
	if err != nil {
		return nil, fmt.Errorf("diff: b is no JSON: %w", err)
	}
	whole := []byte("[")
	whole = append(appendOp(whole, "replace", "", y), ']')
	p.most = len(whole)
	p.out = append(p.out, '[')
	p.diff("", x, y)
	if p.out = append(p.out, ']'); len(p.out) > p.most {
		return whole, nil
	}
	return p.out, nil
}

// node is a value. Two have the same id if they say the same.
type node struct {
	id    int
	value any // of those without kids
	list  []*node
	names map[string]*node
}

type patcher struct {
	aligner
	ids  map[string]int
	out  []byte
	most int // when out is longer it is not wanted
}

func (p *patcher) parse(text []byte) (*node, error) {
	if !json.Valid(text) { // which says where, and that nothing follows
		return nil, json.Unmarshal(text, new(any))
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return p.node(v), nil
}

// node numbers v, and all in it.
func (p *patcher) node(v any) *node {
	n, key := &node{}, []byte(nil)
	switch v := v.(type) {
	case []any:
		key = append(key, '[')
		n.list = make([]*node, len(v))
		for i, x := range v {
			n.list[i] = p.node(x)
			key = append(strconv.AppendInt(key, int64(n.list[i].id), 10), ',')
		}
	case map[string]any:
		key = append(key, '{')
		n.names = make(map[string]*node, len(v))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			x := p.node(v[name])
			n.names[name] = x
			key = strconv.AppendQuote(key, name)
			key = append(strconv.AppendInt(append(key, ':'), int64(x.id), 10), ',')
		}
	case string:
		n.value, key = v, append([]byte{'"'}, v...)
	default: // a json.Number, a bool, nil
		n.value, key = v, fmt.Append(nil, v)
	}
	id, ok := p.ids[string(key)]
	if !ok {
		id = len(p.ids)
		p.ids[string(key)] = id
	}
	n.id = id
	return n
}

// op appends one operation.
func (p *patcher) op(what, path string, v *node) {
	if len(p.out) > p.most {
		return
	}
	if len(p.out) > 1 {
		p.out = append(p.out, ',')
	}
	p.out = appendOp(p.out, what, path, v)
}

func appendOp(out []byte, what, path string, v *node) []byte {
	out = append(out, `{"op":"`+what+`","path":`...)
	out = appendText(out, path)
	if v != nil {
		out = v.append(append(out, `,"value":`...))
	}
	return append(out, '}')
}

func appendText(out []byte, s any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // strings, numbers, bools and nil can be written
	return append(out, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// append writes n.
func (n *node) append(out []byte) []byte {
	switch {
	case n.list != nil:
		out = append(out, '[')
		for i, x := range n.list {
			if i > 0 {
				out = append(out, ',')
			}
			out = x.append(out)
		}
		return append(out, ']')
	case n.names != nil:
		out = append(out, '{')
		for i, name := range slices.Sorted(maps.Keys(n.names)) {
			if i > 0 {
				out = append(out, ',')
			}
			out = n.names[name].append(append(appendText(out, name), ':'))
		}
		return append(out, '}')
	}
	return appendText(out, n.value)
}

var escape = strings.NewReplacer("~", "~0", "/", "~1") // RFC 6901

// diff appends what makes y of x, at the path.
func (p *patcher) diff(path string, x, y *node) {
	switch {
	case x.id == y.id || len(p.out) > p.most:
	case x.names != nil && y.names != nil:
		p.object(path, x, y)
	case x.list != nil && y.list != nil:
		p.list(path, x.list, y.list)
	default:
		p.op("replace", path, y)
	}
}

func (p *patcher) object(path string, x, y *node) {
	for _, name := range slices.Sorted(maps.Keys(x.names)) {
		at := path + "/" + escape.Replace(name)
		if to, ok := y.names[name]; ok {
			p.diff(at, x.names[name], to)
		} else {
			p.op("remove", at, nil)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(y.names)) {
		if _, ok := x.names[name]; !ok {
			p.op("add", path+"/"+escape.Replace(name), y.names[name])
		}
	}
}

// list goes from left to right: what is left of where it is, is as in y.
func (p *patcher) list(path string, x, y []*node) {
	ids := func(list []*node) []int {
		out := make([]int, len(list))
		for i, n := range list {
			out[i] = n.id
		}
		return out
	}
	i, j := 0, 0
	for _, pair := range append(p.common(ids(x), ids(y)), [2]int{len(x), len(y)}) {
		for ; i < pair[0] && j < pair[1]; i, j = i+1, j+1 {
			p.diff(path+"/"+strconv.Itoa(j), x[i], y[j])
		}
		at := path + "/" + strconv.Itoa(j)
		for ; i < pair[0] && len(p.out) <= p.most; i++ {
			p.op("remove", at, nil)
		}
		for ; j < pair[1] && len(p.out) <= p.most; j++ {
			p.op("add", path+"/"+strconv.Itoa(j), y[j])
		}
		i, j = pair[0]+1, pair[1]+1
	}
}
