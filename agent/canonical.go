package agent

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/rawjson"
)

// maxCanonicalDepth is how deep arguments may be nested that are compared.
const maxCanonicalDepth = 200

// canonical is raw in the one form that all JSON has which says the same: no space, the names of each object in
// order, numbers exact and each in one form, and no escape sequences but where there must be some. A name that is
// there twice, and text that is no Unicode, would leave open what is said: an error.
func canonical(raw []byte) ([]byte, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("is no UTF-8")
	}
	c := canonizer{Cursor: rawjson.New(raw)}
	b := c.value(make([]byte, 0, len(raw)), 0)
	err := c.bad
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

type canonizer struct {
	rawjson.Cursor
	bad error
}

func (c *canonizer) value(b []byte, depth int) []byte {
	if c.bad != nil || c.Err() != nil {
		return b
	}
	switch c.Kind() {
	case '{', '[':
		if depth == maxCanonicalDepth {
			c.bad = fmt.Errorf("is nested too deep: at most %d levels are allowed", maxCanonicalDepth)
			return b
		}
		if c.Kind() == '{' {
			return c.object(b, depth+1)
		}
		b = append(b, '[')
		for i, more := 0, c.Open('['); more && c.bad == nil; i, more = i+1, c.More(']') {
			if i > 0 {
				b = append(b, ',')
			}
			b = c.value(b, depth+1)
		}
		return append(b, ']')
	case '"':
		return c.text(b, c.Skip())
	case 't', 'f', 'n':
		return append(b, c.Skip()...)
	}
	return c.number(b, c.Skip())
}

// text appends a string.
func (c *canonizer) text(b, raw []byte) []byte {
	s, ok := unquote(raw)
	if !ok && c.Err() == nil && c.bad == nil {
		c.bad = errors.New("has text that is no Unicode")
	}
	return jsonx.AppendString(b, s, len(s))
}

func (c *canonizer) object(b []byte, depth int) []byte {
	type member struct{ name, text []byte }
	var list []member
	for more := c.Open('{'); more && c.bad == nil; more = c.More('}') {
		start := c.Pos()
		c.Key()
		key := bytes.TrimRight(c.Since(start), " \t\r\n:")
		name := c.text(nil, bytes.TrimLeft(key, " \t\r\n"))
		list = append(list, member{name, c.value(nil, depth)})
	}
	slices.SortFunc(list, func(x, y member) int { return bytes.Compare(x.name, y.name) })
	b = append(b, '{')
	for i, m := range list {
		if i > 0 {
			if b = append(b, ','); bytes.Equal(list[i-1].name, m.name) && c.bad == nil {
				c.bad = fmt.Errorf("has the name %s twice", m.name)
			}
		}
		b = append(append(append(b, m.name...), ':'), m.text...)
	}
	return append(b, '}')
}

// number appends a number: an integer as its digits if it has at most 21, else digits and an exponent.
func (c *canonizer) number(b, raw []byte) []byte {
	negative := bytes.HasPrefix(raw, []byte("-"))
	mantissa, exponent, _ := bytes.Cut(bytes.ToLower(bytes.TrimPrefix(raw, []byte("-"))), []byte("e"))
	whole, part, _ := bytes.Cut(mantissa, []byte("."))
	digits := bytes.TrimLeft(append(slices.Clone(whole), part...), "0")
	power := new(big.Int)
	if len(exponent) > 0 {
		if len(exponent) > 20 {
			if c.bad == nil {
				c.bad = errors.New("has a number whose exponent is too long")
			}
			return b
		}
		power.SetString(string(bytes.TrimPrefix(exponent, []byte("+"))), 10)
	}
	power.Sub(power, big.NewInt(int64(len(part))))
	if n := len(bytes.TrimRight(digits, "0")); n < len(digits) {
		power.Add(power, big.NewInt(int64(len(digits)-n)))
		digits = digits[:n]
	}
	if len(digits) == 0 {
		return append(b, '0')
	}
	if negative {
		b = append(b, '-')
	}
	b = append(b, digits...)
	if p := power.Int64(); power.IsInt64() && p >= 0 && p+int64(len(digits)) <= 21 && p <= 21 {
		return append(b, bytes.Repeat([]byte("0"), int(p))...)
	} else if power.IsInt64() {
		return strconv.AppendInt(append(b, 'e'), p, 10)
	}
	return append(append(b, 'e'), power.String()...)
}
