package rawjson

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var documents = []string{
	``, ` `, `1`, ` -0.5e+3 `, `01`, `-`, `1.`, `true`, `tru`, `nul`, `null x`, `"a"`, `"a`, `"\u00e9\n"`, `"\x"`, "\"\n\"", `"\ud800"`,
	`{}`, `{ }`, `[]`, `[ ]`, `[1,2]`, `[1,]`, `[,1]`, `[1 2]`, `{"a":1}`, `{"a":1,}`, `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1 "b":2}`, `{1:2}`,
	`[{"a":[{}, [], "x", {"b":null}]}, -1]`, `[[]`, `[]]`, `{]`, `[}`, `{"a":[1}`, `[{"a":1]`, "0\x00", "\x00", "{\"\xff\":1}", "\ufeff{}",
	`"` + strings.Repeat("a", 100) + `\"" `, strings.Repeat("[", 100) + strings.Repeat("]", 100),
}

// agree holds that a cursor takes what encoding/json takes, whether it skips or goes inside.
func agree(t *testing.T, doc []byte) {
	t.Helper()
	c := New(doc)
	raw := c.Skip()
	valid := json.Valid(doc)
	require.Equal(t, valid, c.End() == nil, "%q: %v", doc, c.Err())
	if valid {
		require.Equal(t, strings.Trim(string(doc), " \n\t\r"), string(raw))
		require.Equal(t, len(raw), cap(raw), "nobody can write behind it")
	}
	parts := New(doc)
	switch parts.Kind() {
	case '{':
		for key, value := range parts.Members() {
			require.True(t, parts.Err() != nil || key != nil && value != nil, "%q", doc)
		}
	default:
		for value := range parts.Elements() {
			require.Equal(t, parts.Err() == nil, value != nil, "%q", doc)
		}
	}
	require.Equal(t, valid, parts.End() == nil, "%q", doc)
	d := New(doc)
	walk(&d)
	if strings.Count(string(doc), "[")+strings.Count(string(doc), "{") < 1000 {
		require.Equal(t, valid, d.End() == nil, "%q", doc)
	}
}

// walk reads a value by its parts.
func walk(c *Cursor) {
	switch c.Kind() {
	case '{':
		for more := c.Open('{'); more; more = c.More('}') {
			c.Key()
			walk(c)
		}
	case '[':
		for more := c.Open('['); more; more = c.More(']') {
			walk(c)
		}
	case '"':
		c.String()
	default:
		c.Skip()
	}
}

func TestCursorTakesJSONAndNothingElse(t *testing.T) {
	for _, doc := range documents {
		agree(t, []byte(doc))
	}
}

func FuzzCursor(f *testing.F) {
	for _, doc := range documents {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if len(doc) < 1<<16 {
			agree(t, doc)
		}
	})
}

func TestCursorReadsMembers(t *testing.T) {
	c := New([]byte(` { "a" : "x\ny", "\u0062":[1, {"c":2} ] , "d":9007199254740993}`))
	got := map[string]string{}
	for more := c.Open('{'); more; more = c.More('}') {
		key := string(c.Key())
		c.Kind()
		start := c.Pos()
		raw := string(c.Skip())
		require.Equal(t, raw, string(c.Since(start)))
		got[key] = raw
	}
	require.NoError(t, c.End())
	require.Equal(t, map[string]string{"a": `"x\ny"`, "b": `[1, {"c":2} ]`, "d": "9007199254740993"}, got)
}

func TestCursorGoesThroughMembersAndElements(t *testing.T) {
	c := New([]byte(` { "a" : [1, "x" ,{"b":2}], "\u0063":3, "a":null } `))
	var members, elements []string
	for key, value := range c.Members() {
		members = append(members, string(key)+" "+string(value))
		list := New(value)
		for raw := range list.Elements() {
			elements = append(elements, string(raw))
		}
		require.NoError(t, list.End(), "what is no list is passed")
	}
	require.NoError(t, c.End())
	require.Equal(t, []string{`a [1, "x" ,{"b":2}]`, `c 3`, `a null`}, members)
	require.Equal(t, []string{`1`, `"x"`, `{"b":2}`}, elements)

	c = New([]byte(`{"a":1,"b":2}`))
	for range c.Members() {
		break
	}
	require.Equal(t, 6, c.Pos(), "behind the value of a")

	c = New([]byte(`[1]`))
	for range c.Members() {
		require.Fail(t, "a list has no members")
	}
	require.EqualError(t, c.End(), "is not JSON at byte 0: must have { there")
}

func TestCursorSaysWhereItStopped(t *testing.T) {
	for doc, want := range map[string]string{
		`{"a":1,}`: "is not JSON at byte 7: must have a string there",
		`[1`:       "ends at byte 2: must have a comma or the end there",
		`{"a" 1}`:  "is not JSON at byte 5: must have a colon there",
		`"a`:       "ends at byte 2: must have a character of a string, or its end there",
		`-a`:       "is not JSON at byte 1: must have a digit there",
		`[1]2`:     "is not JSON at byte 3: must have its end there",
	} {
		c := New([]byte(doc))
		require.Equal(t, c.Skip() != nil, c.Err() == nil, doc)
		require.EqualError(t, c.End(), want, doc)
		require.False(t, c.Open('{'), "there is no more after an error")
		require.Nil(t, c.Skip())
		require.EqualError(t, c.End(), want, doc)
	}
}

// Nothing recurses, and nothing allocates but what is open.
func TestSkipIsNotRecursive(t *testing.T) {
	const deep = 2_000_000
	doc := strings.Repeat(`{"a":[`, deep) + strings.Repeat(`]}`, deep)
	c := New([]byte(doc))
	require.Len(t, c.Skip(), len(doc))
	require.NoError(t, c.End())
}
