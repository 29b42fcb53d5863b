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
		c.Skip()
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
