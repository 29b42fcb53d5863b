package jsonschema

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// rooms are where documents were taken apart; of at most maxKept nodes.
var rooms = sync.Pool{New: func() any { return new([]node) }}

const maxKept = 1024

// check says what is wrong with data, which is JSON, or nil.
func (p *program) check(data []byte) error {
	room := rooms.Get().(*[]node)
	d, err := parse(data, *room)
	defer func() {
		if cap(d.nodes) <= maxKept {
			clear(d.nodes) // which keep the data
			*room = d.nodes[:0]
		}
		rooms.Put(room)
	}()
	if err != nil {
		return problems{"$ " + err.Error()}.error()
	}
	c := checker{document: d, program: p, quiet: true}
	if p.full != nil {
		return p.decide(&c)
	}
	if c.run() {
		return nil
	}
	if c.steps >= 0 {
		c.quiet = false
		c.run()
	}
	return c.found()
}

// checker holds one document against a program.
type checker struct {
	document
	*program
	quiet bool // only the verdict counts
	steps int  // how much may still be done
	path  []step
	list  problems
}

// baseSteps and nodeSteps bound the work for one document: a schema may ask the same of a value again and
// again, and of those in it each time. To compare bytes is a step for stepBytes of them.
const (
	baseSteps = 1 << 20
	nodeSteps = 64
	stepBytes = 16
)

func (c *checker) run() bool {
	c.steps = baseSteps + nodeSteps*len(c.nodes)
	return c.fits(c.root, 0)
}

// found is what is wrong, of which something is known to be.
func (c *checker) found() error {
	switch {
	case len(c.list) > 0:
	case c.steps < 0:
		c.list = problems{"$ is too much to check: must be smaller"}
	case c.foreign != "":
		c.list = problems{"$ does not fit what the schema says by " + c.foreign}
	default:
		c.list = problems{"$ does not fit the schema"}
	}
	return c.list.error()
}

// decide asks jsonschema-go.
func (p *program) decide(c *checker) error {
	v, ok := c.foreignValue(0, 0)
	if !ok {
		return problems{"$ has a number out of range, or is nested too deep: at most 512 levels are allowed"}.error()
	}
	if p.full.Validate(v) == nil {
		return nil
	}
	c.quiet = false
	c.run()
	return c.found()
}

// maxForeignDepth bounds what jsonschema-go gets to see.
const maxForeignDepth = 512

// foreignValue is the node i as jsonschema-go takes it, its numbers exact if they are whole.
func (d *document) foreignValue(i, depth int) (v any, ok bool) {
	if depth > maxForeignDepth {
		return nil, false
	}
	switch n := &d.nodes[i]; n.kind {
	case number:
		raw := string(d.raw(i))
		if x := decimalOf([]byte(raw)); x.whole() && x.exp < 20 {
			whole := string(x.digits) + strings.Repeat("0", int(x.exp))
			if n, err := strconv.ParseUint(or(whole, "0"), 10, 64); err == nil && !x.negative {
				return n, true
			}
			if n, err := strconv.ParseInt("-"+whole, 10, 64); err == nil && x.negative {
				return n, true
			}
		}
		f, err := strconv.ParseFloat(raw, 64)
		return f, err == nil && !math.IsInf(f, 0)
	case array:
		list := make([]any, n.count)
		for m, e := range d.members(i) {
			if list[m], ok = d.foreignValue(e, depth+1); !ok {
				return nil, false
			}
		}
		return list, true
	case object:
		all := make(map[string]any, n.count)
		for _, m := range d.members(i) {
			if v, ok = d.foreignValue(m, depth+1); !ok {
				return nil, false
			}
			all[string(d.nodes[m].key)] = v
		}
		return all, true
	case text:
		return string(d.text(i)), true
	case boolean:
		return d.data[n.at] == 't', true
	}
	return nil, true
}

// fits reports whether the value v fits s. Unless quiet it says what does not.
func (c *checker) fits(s *schema, v int) (ok bool) {
	n := &c.nodes[v]
	if c.steps -= 1 + n.count; c.steps < 0 {
		return false
	}
	if s.never {
		return c.say("must not be there")
	}
	if s.types != 0 && !c.typed(s.types, v) {
		return c.say(c.kindOf(s, v) + ": must be " + s.types.words())
	}
	if s.ref != nil && !c.fits(s.ref, v) {
		return false
	}
	ok = true
	for i := range s.choices {
		if one := &s.choices[i]; !c.one(one, v) {
			return c.say("is none of the allowed values: must be " + either(one.words))
		}
	}
	switch n.kind {
	case number:
		ok = c.number(s, v)
	case text:
		ok = c.string(s, v)
	case array:
		ok = c.array(s, v)
	case object:
		ok = c.object(s, v)
	}
	if !ok && c.quiet {
		return false
	}
	return c.logic(s, v) && ok
}

func (c *checker) typed(t types, v int) bool {
	n := &c.nodes[v]
	if t.has(n.kind) {
		return true
	}
	if n.kind != number || t&integers == 0 {
		return false
	}
	raw := c.raw(v)
	if len(raw) < 300 && !bytes.ContainsAny(raw, ".eE") {
		return true
	}
	x := decimalOf(raw)
	return x.whole()
}

func (c *checker) one(choice *choice, v int) bool {
	n := &c.nodes[v]
	if c.steps -= (n.end - n.at) / stepBytes; c.steps < 0 || !choice.kinds.has(n.kind) {
		return false
	}
	var room [64]byte
	b := c.canonical(room[:0], v)
	return slices.ContainsFunc(choice.values, func(x []byte) bool { return bytes.Equal(x, b) })
}

func (c *checker) number(s *schema, v int) (ok bool) {
	if s.low == nil && s.high == nil && s.multipleOf == nil {
		return true
	}
	ok = true
	x := decimalOf(c.raw(v))
	if b := s.low; b != nil {
		if d := x.compare(&b.decimal); d < 0 || d == 0 && b.exclusive {
			ok = c.say("is too small: must be " + b.beyond("at least ", "more than "))
		}
	}
	if b := s.high; b != nil {
		if d := x.compare(&b.decimal); d > 0 || d == 0 && b.exclusive {
			ok = c.say("is too large: must be " + b.beyond("at most ", "less than "))
		}
	}
	if b := s.multipleOf; b != nil && !x.multipleOf(&b.decimal) {
		ok = c.say("must be a multiple of " + b.words)
	}
	return ok
}

func (b *bound) beyond(inclusive, exclusive string) string {
	if b.exclusive {
		return exclusive + b.words
	}
	return inclusive + b.words
}

func (c *checker) string(s *schema, v int) (ok bool) {
	if s.minLength < 0 && s.maxLength < 0 && s.pattern == nil {
		return true
	}
	ok = true
	t := c.text(v)
	if s.minLength >= 0 || s.maxLength >= 0 {
		ok = c.within(utf8.RuneCount(t), s.minLength, s.maxLength, "characters")
	}
	if s.pattern != nil && !s.pattern.Match(t) {
		ok = c.say("must match the pattern " + cut(s.pattern.String(), maxPattern))
	}
	return ok
}

// within reports whether there are not too few nor too many, if least and most are not below zero.
func (c *checker) within(n, least, most int, what string) bool {
	switch {
	case n < least:
		return c.say("has " + strconv.Itoa(n) + " " + what + ": must have at least " + strconv.Itoa(least))
	case most >= 0 && n > most:
		return c.say("has " + strconv.Itoa(n) + " " + what + ": must have at most " + strconv.Itoa(most))
	}
	return true
}

func (c *checker) array(s *schema, v int) (ok bool) {
	ok = c.within(c.nodes[v].count, s.minItems, s.maxItems, "elements")
	if s.prefix != nil || s.items != nil {
		for i, e := range c.members(v) {
			item := s.items
			if i < len(s.prefix) {
				item = s.prefix[i]
			}
			if item != nil && !c.at(step{index: i}, item, e) {
				if ok = false; c.quiet {
					return false
				}
			}
		}
	}
	if s.unique && !c.distinct(v) {
		ok = false
	}
	if s.contains != nil {
		n := 0
		for _, e := range c.members(v) {
			if c.quietly(s.contains, e) {
				n++
			}
		}
		if n < s.minContains || s.maxContains >= 0 && n > s.maxContains {
			ok = c.within(n, s.minContains, s.maxContains, "elements that are "+or(s.contains.want(0), "of the required form"))
		}
	}
	return ok
}

func (c *checker) distinct(v int) bool {
	n := &c.nodes[v]
	if c.steps -= (n.end - n.at) / stepBytes; c.steps < 0 {
		return false
	}
	seen := make(map[string]int, n.count)
	for i, e := range c.members(v) {
		key := string(c.canonical(nil, e))
		if first, twice := seen[key]; twice {
			return c.say("has the same element twice, at " + strconv.Itoa(first) + " and " + strconv.Itoa(i) + ": must not")
		}
		seen[key] = i
	}
	return true
}

func (c *checker) object(s *schema, v int) (ok bool) {
	ok = c.within(c.nodes[v].count, s.minProperties, s.maxProperties, "keys")
	ok = c.has(v, s.required, "required") && ok
	if !ok && c.quiet {
		return false
	}
	for i, m := range c.members(v) {
		if !c.memberFits(s, i, m) {
			if ok = false; c.quiet {
				return false
			}
		}
	}
	for i := range s.dependentRequired {
		if d := &s.dependentRequired[i]; c.member(v, d.name) > 0 && !c.has(v, d.names, "required beside "+strconv.QuoteToASCII(cut(d.name, maxName))) {
			ok = false
		}
	}
	for i := range s.dependentSchemas {
		if d := &s.dependentSchemas[i]; c.member(v, d.name) > 0 && !c.fits(d.schema, v) {
			ok = false
		}
	}
	return ok
}

// has reports whether the object v has all the names.
func (c *checker) has(v int, names []string, why string) bool {
	var missing []string
	for _, name := range names {
		if c.member(v, name) == 0 {
			if c.quiet {
				return false
			}
			missing = append(missing, strconv.QuoteToASCII(cut(name, maxName)))
		}
	}
	return missing == nil || c.say("lacks "+listed(missing, ", ")+": "+why)
}

// memberFits reports whether the member m, the ith of an object, fits s.
func (c *checker) memberFits(s *schema, i, m int) (ok bool) {
	ok = true
	key := c.nodes[m].key
	known := false
	if p, is := s.properties[string(key)]; is {
		known = true
		leftOut := c.lenient && c.nodes[m].kind == null && !p.required
		if !leftOut && !c.at(step{to: byName, name: p.name}, p.schema, m) {
			ok = false
		}
	}
	other := step{to: byPlace, index: i}
	for j := range s.patterns {
		if p := &s.patterns[j]; p.Match(key) {
			known = true
			if !c.at(other, p.schema, m) {
				ok = false
			}
		}
	}
	switch {
	case known || s.additional == nil:
	case s.additional.never:
		ok = c.say("has an unknown key " + strconv.QuoteToASCII(cut(string(key), maxName)) + ": " + s.allowed())
	default:
		ok = c.at(other, s.additional, m)
	}
	if s.propertyNames != nil && (ok || !c.quiet) && !c.named(s.propertyNames, key) {
		if !c.quiet {
			c.path = append(c.path, other)
			c.say("has the wrong name: must be " + or(s.propertyNames.want(0), "of the required form"))
			c.path = c.path[:len(c.path)-1]
		}
		ok = false
	}
	return ok
}

// named reports whether a key fits s.
func (c *checker) named(s *schema, key []byte) bool {
	raw, err := json.Marshal(string(key))
	if err != nil {
		return false
	}
	d, err := parse(raw, nil)
	inner := checker{document: d, program: c.program, quiet: true, steps: c.steps}
	ok := err == nil && inner.fits(s, 0)
	c.steps = inner.steps
	return ok
}

// logic is what s says by other schemas of the same value.
func (c *checker) logic(s *schema, v int) (ok bool) {
	ok = true
	for _, each := range s.allOf {
		if !c.fits(each, v) {
			if ok = false; c.quiet {
				return false
			}
		}
	}
	if s.anyOf != nil && !slices.ContainsFunc(s.anyOf, func(x *schema) bool { return c.quietly(x, v) }) {
		ok = c.none(s.anyOf, v)
	}
	if s.oneOf != nil {
		n := 0
		for _, x := range s.oneOf {
			if c.quietly(x, v) {
				n++
			}
		}
		switch {
		case n == 0:
			ok = c.none(s.oneOf, v)
		case n > 1:
			ok = c.say("fits " + strconv.Itoa(n) + " of the allowed forms: must fit one")
		}
	}
	if s.not != nil && c.quietly(s.not, v) {
		ok = c.say("is of a form that is not allowed: must not be " + or(s.not.want(0), "so"))
	}
	if s.test != nil {
		then := s.other
		if c.quietly(s.test, v) {
			then = s.then
		}
		if then != nil && !c.fits(then, v) {
			ok = false
		}
	}
	return ok && c.steps >= 0 // else what went before may be wrong
}

// quietly is fits where nothing is said.
func (c *checker) quietly(s *schema, v int) bool {
	was := c.quiet
	c.quiet = true
	ok := c.fits(s, v)
	c.quiet = was
	return ok
}

// none says what is wrong with v, which fits no schema of the list: if only one of them can be meant, what that
// says, and else what they are.
func (c *checker) none(list []*schema, v int) bool {
	if c.quiet {
		return false
	}
	var meant []*schema
	for _, s := range list {
		if c.meant(s, v) {
			meant = append(meant, s)
		}
	}
	if len(meant) == 1 {
		return c.fits(meant[0], v)
	}
	var words []string
	for _, s := range list {
		if w := or(s.want(0), "of another form"); !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	return c.say("fits none of the allowed forms: must be " + either(words))
}

// meant reports whether v is of the type that s wants, and has the values that tell s from others.
func (c *checker) meant(s *schema, v int) bool {
	for n := 0; s.ref != nil && s.types == 0 && n < maxNested; n++ {
		s = s.ref
	}
	if s.never || s.types != 0 && !c.typed(s.types, v) {
		return false
	}
	for i := range s.choices {
		if !c.one(&s.choices[i], v) {
			return false
		}
	}
	if c.nodes[v].kind != object {
		return true
	}
	for name, p := range s.properties {
		m := c.member(v, name)
		for i := range p.choices {
			if m > 0 && !c.one(&p.choices[i], m) {
				return false
			}
		}
	}
	return true
}
