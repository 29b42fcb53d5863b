package jsonschema

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	google "github.com/google/jsonschema-go/jsonschema"
)

// schema is a JSON Schema, compiled. What it does not say is nil, zero, or -1 for a least or most number.
type schema struct {
	never bool // nothing fits it
	types types
	ref   *schema

	choices []choice // of enum and const

	low, high  *bound
	multipleOf *bound

	minLength, maxLength int
	pattern              *regexp.Regexp

	prefix                   []*schema
	items, contains          *schema
	minItems, maxItems       int
	minContains, maxContains int
	unique                   bool

	names                        []string // of properties, in order
	properties                   map[string]property
	required                     []string
	patterns                     []pattern
	additional, propertyNames    *schema
	minProperties, maxProperties int
	dependentRequired            []dependent
	dependentSchemas             []dependent

	allOf, anyOf, oneOf    []*schema
	not, test, then, other *schema // test is the if
}

type property struct {
	*schema
	name     string
	required bool
}

type pattern struct {
	*regexp.Regexp
	schema *schema
}

type dependent struct {
	name   string
	names  []string
	schema *schema
}

// choice is values of which one must be there.
type choice struct {
	values [][]byte // canonical
	words  []string
	kinds  types
}

type bound struct {
	decimal
	words     string
	exclusive bool
}

// types is a set of kinds, and of whole numbers.
type types uint8

const integers = types(1 << 7)

func (t types) has(k kind) bool { return t&(1<<k) != 0 }

var typeNames = map[string]types{
	"null": 1 << null, "boolean": 1 << boolean, "number": 1 << number, "string": 1 << text,
	"array": 1 << array, "object": 1 << object, "integer": integers,
}

// maxSchemaDepth bounds how deep a schema is nested, as package sluice does.
const maxSchemaDepth = 64

// program checks values against one schema.
type program struct {
	root    *schema
	lenient bool // null stands for what is left out

	// If not nil it decides, since the schema has this keyword.
	full    *google.Resolved
	foreign string
}

// compile makes a program of doc. Errors begin with subject.
func compile(subject string, doc []byte) (p *program, err error) {
	defer func() {
		if v := recover(); v != nil {
			p, err = nil, fmt.Errorf("%s cannot be read: it made the reader panic", subject)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", subject, err)
		}
	}()
	doc = slices.Clone(doc)
	if !json.Valid(doc) {
		return nil, errors.New("is not JSON: must be a JSON Schema")
	}
	c := compiler{schemas: map[int]*schema{}, anchors: map[string]int{}}
	if c.document, err = parse(doc, nil); err != nil {
		return nil, fmt.Errorf("the schema %w", err)
	}
	if c.depth(0) > maxSchemaDepth {
		return nil, fmt.Errorf("the schema is nested too deep: at most %d levels are allowed", maxSchemaDepth)
	}
	p = &program{lenient: true}
	if p.root, err = c.compile(); err != nil {
		return nil, err
	}
	var s google.Schema
	if err := json.Unmarshal(doc, &s); err != nil {
		return nil, err
	}
	full, err := s.Resolve(&google.ResolveOptions{BaseURI: "https://schema.invalid/"}) // without a Loader nothing is fetched
	if err != nil {
		return nil, err
	}
	if p.foreign = c.foreign; p.foreign == "" {
		return p, nil
	}
	if p.full = full; s.Schema != "" && !c.draft7 && !strings.Contains(s.Schema, "2020-12") {
		return nil, fmt.Errorf("has %s and another $schema: must be draft 2020-12 or draft-07", c.foreign)
	}
	return p, nil
}

type compiler struct {
	document
	draft7  bool
	schemas map[int]*schema // by their nodes
	anchors map[string]int
	refs    []ref
	foreign string
}

type ref struct {
	from *schema
	to   string
}

// depth is how many levels the value i has. What is left out has been bounded by parse.
func (c *compiler) depth(i int) int {
	most := 0
	for _, v := range c.members(i) {
		most = max(most, c.depth(v)+1)
	}
	return most
}

func (c *compiler) compile() (*schema, error) {
	c.draft7 = strings.Contains(c.str(c.member(0, "$schema")), "draft-07")
	root, err := c.schema(0)
	for i := 0; i < len(c.refs) && err == nil; i++ { // what is referred to may refer to more
		r := c.refs[i]
		if r.from.ref, err = c.resolve(r.to); err != nil {
			err = fmt.Errorf("$ref %s %w", strconv.QuoteToASCII(cut(r.to, 128)), err)
		}
	}
	if err == nil {
		err = endless(c.schemas)
	}
	return root, err
}

func (c *compiler) str(i int) string {
	if i == 0 || c.nodes[i].kind != text {
		return ""
	}
	return string(c.text(i))
}

// resolve finds what a $ref speaks of. Elsewhere nothing is looked for.
func (c *compiler) resolve(to string) (*schema, error) {
	to = strings.TrimPrefix(to, strings.TrimSuffix(c.str(c.member(0, "$id")), "#"))
	where, inside := strings.CutPrefix(to, "#")
	if !inside && to != "" {
		return nil, errors.New("leads elsewhere: must begin with #")
	}
	where, err := url.PathUnescape(where)
	if err != nil {
		return nil, err
	}
	if where != "" && where[0] != '/' {
		if i, ok := c.anchors[where]; ok {
			return c.schema(i)
		}
		return nil, errors.New("is not in the schema")
	}
	i := 0
	for step := range strings.SplitSeq(strings.TrimPrefix(where, "/"), "/") {
		if where == "" {
			break
		}
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		found := 0
		if c.nodes[i].kind == object {
			found = c.member(i, step)
		} else if n, err := strconv.Atoi(step); err == nil {
			for at, v := range c.members(i) {
				if at == n {
					found = v
				}
			}
		}
		if found == 0 {
			return nil, errors.New("is not in the schema")
		}
		i = found
	}
	return c.schema(i)
}

// schema is the schema at node i.
func (c *compiler) schema(i int) (*schema, error) {
	if s := c.schemas[i]; s != nil {
		return s, nil
	}
	s := &schema{
		minLength: -1, maxLength: -1, minItems: -1, maxItems: -1, minContains: -1, maxContains: -1,
		minProperties: -1, maxProperties: -1,
	}
	c.schemas[i] = s
	switch n := &c.nodes[i]; n.kind {
	case boolean:
		s.never = c.data[n.at] == 'f'
		return s, nil
	case object:
	default:
		return nil, &misplaced{c.place(i), fmt.Errorf("is %s: must be a schema", kindWords[n.kind])}
	}
	if r := c.member(i, "$ref"); r > 0 && c.draft7 {
		c.refs = append(c.refs, ref{s, c.str(r)}) // what stands beside it does not count
		if d := c.member(i, "definitions"); d > 0 {
			_, err := c.each(d)
			return s, err
		}
		return s, nil
	}
	for _, v := range c.members(i) {
		if err := c.keyword(s, string(c.nodes[v].key), v, i == 0); err != nil {
			if _, known := errors.AsType[*misplaced](err); !known {
				err = &misplaced{c.place(v), err}
			}
			return nil, err
		}
	}
	for name, p := range s.properties {
		p.required = slices.Contains(s.required, name)
		s.properties[name] = p
	}
	if s.minContains < 0 {
		s.minContains = 1
	}
	return s, nil
}

// misplaced is an error that says where it is.
type misplaced struct {
	place string
	error
}

func (m *misplaced) Error() string { return m.place + " " + m.error.Error() }

// place is where the node i stands, for errors at registration.
func (c *compiler) place(i int) string {
	at := "#"
	for n := 0; n < i; {
		for m, v := range c.members(n) {
			if v <= i && i < c.nodes[v].next {
				step := strconv.Itoa(m)
				if c.nodes[v].key != nil {
					step = cut(string(c.nodes[v].key), 64)
				}
				at, n = at+"/"+step, v
				break
			}
		}
	}
	return at
}

func (c *compiler) keyword(s *schema, name string, v int, root bool) (err error) {
	switch name {
	case "$ref":
		c.refs = append(c.refs, ref{s, c.str(v)})
	case "$anchor", "$dynamicAnchor":
		c.anchors[c.str(v)] = v
		for i := range c.nodes { // the object that has it
			if i < v && v < c.nodes[i].next && c.nodes[i].kind == object {
				c.anchors[c.str(v)] = i
			}
		}
	case "$id":
		if !root {
			return errors.New("is not supported here: must stand at the top")
		}
	case "$dynamicRef", "$recursiveRef":
		return errors.New("is not supported: must be $ref")
	case "unevaluatedItems", "unevaluatedProperties":
		c.foreign = name
		_, err = c.schema(v)
	case "$defs", "definitions":
		_, err = c.each(v)

	case "type":
		return c.types(s, v)
	case "enum":
		if c.nodes[v].kind != array {
			return errors.New("must be an array")
		}
		var one choice
		for _, e := range c.members(v) {
			one.add(&c.document, e)
		}
		s.choices = append(s.choices, one)
	case "const":
		var one choice
		one.add(&c.document, v)
		s.choices = append(s.choices, one)

	case "minimum", "exclusiveMinimum":
		s.low, err = c.bound(s.low, v, name != "minimum", 1)
	case "maximum", "exclusiveMaximum":
		s.high, err = c.bound(s.high, v, name != "maximum", -1)
	case "multipleOf":
		if s.multipleOf, err = c.bound(nil, v, false, 1); err == nil && (s.multipleOf.sign() <= 0 || len(s.multipleOf.digits) > maxDigits) {
			return errors.New("must be more than 0")
		}
	case "minLength":
		s.minLength, err = c.count(v)
	case "maxLength":
		s.maxLength, err = c.count(v)
	case "pattern":
		s.pattern, err = regexp.Compile(c.str(v))

	case "prefixItems":
		s.prefix, err = c.list(v)
	case "items":
		if c.nodes[v].kind == array { // of draft-07
			s.prefix, err = c.list(v)
		} else {
			s.items, err = c.schema(v)
		}
	case "additionalItems":
		for i := range c.nodes {
			if i < v && v < c.nodes[i].next && c.schemas[i] == s {
				if list := c.member(i, "items"); list > 0 && c.nodes[list].kind == array {
					s.items, err = c.schema(v)
				}
			}
		}
	case "contains":
		s.contains, err = c.schema(v)
	case "minItems":
		s.minItems, err = c.count(v)
	case "maxItems":
		s.maxItems, err = c.count(v)
	case "minContains":
		s.minContains, err = c.count(v)
	case "maxContains":
		s.maxContains, err = c.count(v)
	case "uniqueItems":
		s.unique = c.data[c.nodes[v].at] == 't'

	case "properties":
		list, err := c.each(v)
		if err != nil {
			return err
		}
		s.properties = make(map[string]property, len(list))
		for _, d := range list {
			s.names = append(s.names, d.name)
			s.properties[d.name] = property{schema: d.schema, name: d.name}
		}
	case "required":
		s.required, err = c.strings(v)
	case "patternProperties":
		list, err := c.each(v)
		for _, d := range list {
			re, wrong := regexp.Compile(d.name)
			if wrong != nil {
				return wrong
			}
			s.patterns = append(s.patterns, pattern{re, d.schema})
		}
		return err
	case "additionalProperties":
		s.additional, err = c.schema(v)
	case "propertyNames":
		s.propertyNames, err = c.schema(v)
	case "minProperties":
		s.minProperties, err = c.count(v)
	case "maxProperties":
		s.maxProperties, err = c.count(v)
	case "dependentRequired", "dependencies":
		return c.dependencies(s, v, name == "dependencies")
	case "dependentSchemas":
		var list []dependent
		list, err = c.each(v)
		s.dependentSchemas = append(s.dependentSchemas, list...)

	case "allOf":
		s.allOf, err = c.list(v)
	case "anyOf":
		s.anyOf, err = c.list(v)
	case "oneOf":
		s.oneOf, err = c.list(v)
	case "not":
		s.not, err = c.schema(v)
	case "if":
		s.test, err = c.schema(v)
	case "then":
		s.then, err = c.schema(v)
	case "else":
		s.other, err = c.schema(v)
	}
	return err
}

func (one *choice) add(d *document, i int) {
	one.values = append(one.values, d.canonical(nil, i))
	one.kinds |= 1 << d.nodes[i].kind
	one.words = append(one.words, cut(string(d.raw(i)), maxValue))
}

func (c *compiler) types(s *schema, v int) error {
	list := []string{c.str(v)}
	if c.nodes[v].kind == array {
		var err error
		if list, err = c.strings(v); err != nil {
			return err
		}
	}
	for _, name := range list {
		t := typeNames[name]
		if t == 0 {
			return errors.New(`must be of "array", "boolean", "integer", "null", "number", "object" and "string"`)
		}
		s.types |= t
	}
	if s.types == 0 {
		return errors.New("must not be empty")
	}
	return nil
}

// bound is the number at v, or was if that is narrower. way is 1 for a least one, -1 for a most one.
func (c *compiler) bound(was *bound, v int, exclusive bool, way int) (*bound, error) {
	if c.nodes[v].kind != number {
		return nil, errors.New("must be a number")
	}
	b := &bound{decimalOf(c.raw(v)), cut(string(c.raw(v)), maxValue), exclusive}
	if was != nil {
		if d := was.compare(&b.decimal) * way; d > 0 || d == 0 && was.exclusive {
			return was, nil
		}
	}
	return b, nil
}

func (c *compiler) count(v int) (int, error) {
	x := decimalOf(c.raw(v))
	if c.nodes[v].kind != number || x.negative || !x.whole() {
		return 0, errors.New("must be a whole number that is not negative")
	}
	if len(x.digits) == 0 {
		return 0, nil
	}
	if int64(len(x.digits))+x.exp > 9 {
		return math.MaxInt32, nil // no document has so many
	}
	n, err := strconv.Atoi(string(x.digits) + strings.Repeat("0", int(x.exp)))
	return n, err
}

func (c *compiler) strings(v int) ([]string, error) {
	list := make([]string, 0, c.nodes[v].count)
	if c.nodes[v].kind != array {
		return nil, errors.New("must be an array of strings")
	}
	for _, e := range c.members(v) {
		if c.nodes[e].kind != text {
			return nil, errors.New("must be an array of strings")
		}
		list = append(list, c.str(e))
	}
	return list, nil
}

func (c *compiler) list(v int) ([]*schema, error) {
	if c.nodes[v].kind != array {
		return nil, errors.New("must be an array of schemas")
	}
	list := make([]*schema, 0, c.nodes[v].count)
	for _, e := range c.members(v) {
		s, err := c.schema(e)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// each is the schemas in an object, by their names.
func (c *compiler) each(v int) ([]dependent, error) {
	if c.nodes[v].kind != object {
		return nil, errors.New("must be an object of schemas")
	}
	var list []dependent
	for _, e := range c.members(v) {
		s, err := c.schema(e)
		if err != nil {
			return nil, err
		}
		list = append(list, dependent{name: string(c.nodes[e].key), schema: s})
	}
	return list, nil
}

func (c *compiler) dependencies(s *schema, v int, mixed bool) error {
	if c.nodes[v].kind != object {
		return errors.New("must be an object")
	}
	for _, e := range c.members(v) {
		d := dependent{name: string(c.nodes[e].key)}
		var err error
		if c.nodes[e].kind != array && mixed {
			d.schema, err = c.schema(e)
			s.dependentSchemas = append(s.dependentSchemas, d)
		} else {
			d.names, err = c.strings(e)
			s.dependentRequired = append(s.dependentRequired, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// endless finds a schema that asks, of the same value, for itself.
func endless(all map[int]*schema) error {
	const under, done = 1, 2
	state := map[*schema]int{}
	var visit func(s *schema) bool
	visit = func(s *schema) bool {
		if s == nil || state[s] == done {
			return true
		}
		if state[s] == under {
			return false
		}
		state[s] = under
		for _, list := range [][]*schema{s.allOf, s.anyOf, s.oneOf, {s.ref, s.not, s.test, s.then, s.other}} {
			for _, next := range list {
				if !visit(next) {
					return false
				}
			}
		}
		for _, d := range s.dependentSchemas {
			if !visit(d.schema) {
				return false
			}
		}
		state[s] = done
		return true
	}
	for _, s := range all {
		if !visit(s) {
			return errors.New("a $ref leads back to itself without end: must lead to a part of the value")
		}
	}
	return nil
}
