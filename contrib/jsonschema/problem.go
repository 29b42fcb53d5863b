package jsonschema

import (
	"errors"
	"strconv"
	"strings"
)

// What an error shows at most: problems, and bytes of all, of a path, of names and values of the schema.
const (
	maxProblems = 8
	maxText     = 1000
	maxPath     = 200
	maxName     = 64
	maxValue    = 40
	maxPattern  = 100
	maxListed   = 16
	maxNested   = 4
)

// problems is what is wrong with arguments. It shows what the schema says, and of the arguments where and of
// what kind something is, and names that are unknown.
type problems []string

func (p problems) error() error {
	var b strings.Builder
	for i, s := range p {
		if i > 0 {
			b.WriteString("; ")
		}
		if i == maxProblems {
			b.WriteString("and more")
			break
		}
		b.WriteString(s)
	}
	return errors.New(cut(b.String(), maxText))
}

// step leads from a value to one in it.
type step struct {
	to    way
	name  string
	index int
}

type way uint8

const (
	byIndex way = iota // an element
	byName             // a member whose name the schema has
	byPlace            // a member with another name, which may be a value
)

// at is fits for the value v in the one that the checker is at.
func (c *checker) at(to step, s *schema, v int) bool {
	if c.quiet {
		return c.fits(s, v)
	}
	c.path = append(c.path, to)
	ok := c.fits(s, v)
	c.path = c.path[:len(c.path)-1]
	return ok
}

// say notes what is wrong with the value that the checker is at. It is false.
func (c *checker) say(what string) bool {
	if c.quiet {
		return false
	}
	c.list = append(c.list, c.place()+" "+what)
	c.quiet = len(c.list) > maxProblems
	return false
}

func (c *checker) place() string {
	b := []byte("$")
	for _, s := range c.path {
		switch {
		case s.to == byPlace:
			b = append(strconv.AppendInt(append(b, "[key "...), int64(s.index)+1, 10), ']')
		case s.to == byIndex:
			b = append(strconv.AppendInt(append(b, '['), int64(s.index), 10), ']')
		case plain(s.name):
			b = append(append(b, '.'), s.name...)
		default:
			b = append(strconv.AppendQuoteToASCII(append(b, '['), cut(s.name, maxName)), ']')
		}
	}
	if len(b) > maxPath { // what is left out is ASCII
		b = append(append(b[:maxPath/2:maxPath/2], "..."...), b[len(b)-maxPath/2:]...)
	}
	return string(b)
}

func plain(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') || i == maxName {
			return false
		}
	}
	return true
}

var kindWords = [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}

// kindOf says what v is, which is not what s wants.
func (c *checker) kindOf(s *schema, v int) string {
	k := c.nodes[v].kind
	if k == number && s.types&integers != 0 {
		return "is a number with a fraction"
	}
	return "is " + kindWords[k]
}

// words says what t allows.
func (t types) words() string {
	var list []string
	for _, k := range [...]kind{text, number, boolean, array, object, null} {
		switch {
		case k == number && t&integers != 0 && !t.has(number):
			list = append(list, "a whole number")
		case !t.has(k):
		case k == boolean:
			list = append(list, "true or false")
		default:
			list = append(list, kindWords[k])
		}
	}
	return either(list)
}

// want says in few words what fits s, or nothing if that takes many.
func (s *schema) want(depth int) string {
	if s.ref != nil && s.types == 0 {
		if depth == maxNested {
			return ""
		}
		return s.ref.want(depth + 1)
	}
	for _, one := range s.choices {
		return either(one.words)
	}
	for _, name := range s.names {
		if p := s.properties[name]; len(p.choices) > 0 && len(p.choices[0].values) == 1 {
			return "an object whose " + strconv.QuoteToASCII(cut(name, maxName)) + " is " + p.choices[0].words[0]
		}
	}
	switch {
	case s.never:
		return ""
	case s.pattern != nil && s.types == 1<<text:
		return "a string that matches the pattern " + cut(s.pattern.String(), maxPattern)
	case s.pattern != nil && s.types == 0:
		return "one that matches the pattern " + cut(s.pattern.String(), maxPattern)
	case s.types != 0:
		return s.types.words()
	}
	return ""
}

// allowed says which keys an object may have that may have no other.
func (s *schema) allowed() string {
	if len(s.names) == 0 {
		return "none is allowed"
	}
	quoted := make([]string, 0, len(s.names))
	for _, name := range s.names {
		quoted = append(quoted, strconv.QuoteToASCII(cut(name, maxName)))
	}
	return "allowed are " + listed(quoted, ", ")
}

// either lists what is allowed.
func either(words []string) string {
	switch n := len(words); {
	case n == 0:
		return "nothing"
	case n == 1:
		return words[0]
	case n > maxListed:
		return listed(words, ", ")
	default:
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
}

// listed is words with a separator, those beyond a bound only counted.
func listed(words []string, separator string) string {
	if n := len(words) - maxListed; n > 0 {
		return strings.Join(words[:maxListed], separator) + separator + "and " + strconv.Itoa(n) + " more"
	}
	return strings.Join(words, separator)
}

func or(words, other string) string {
	if words == "" {
		return other
	}
	return words
}
