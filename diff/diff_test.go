package diff_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/diff"
)

// patched is a after a unified diff, applied by the words of its form.
func patched(a, unified string) (string, error) {
	if unified == "" {
		return a, nil
	}
	rest, ok := strings.CutPrefix(unified, "--- a\n+++ b\n")
	if !ok {
		return "", errors.New("no head")
	}
	from := strings.SplitAfter(a, "\n")
	var out strings.Builder
	at, left := 0, [2]int{} // lines of a that are done, and what is left of a hunk
	list := strings.SplitAfter(rest, "\n")
	for i := 0; i < len(list); i++ {
		l := list[i]
		if l == "" {
			continue
		}
		if strings.HasPrefix(l, "@@") {
			if left != [2]int{} {
				return "", fmt.Errorf("%v are left of a hunk", left)
			}
			var start [2]int
			for k, f := range strings.Fields(l)[1:3] {
				begin, count, several := strings.Cut(f[1:], ",")
				start[k], _ = strconv.Atoi(begin)
				left[k] = 1
				if several {
					left[k], _ = strconv.Atoi(count)
				}
			}
			if left[0] > 0 {
				start[0]--
			}
			for ; at < start[0]; at++ {
				out.WriteString(from[at])
			}
			if left[1] > 0 {
				start[1]--
			}
			if n := strings.Count(out.String(), "\n"); n != start[1] {
				return "", fmt.Errorf("%q begins in b at %d, not there", l, n)
			}
			continue
		}
		text := l[1:]
		if i+1 < len(list) && strings.HasPrefix(list[i+1], `\ No newline`) {
			text = strings.TrimSuffix(text, "\n")
			i++
		}
		switch l[0] {
		case '+':
			out.WriteString(text)
			left[1]--
		case '-', ' ':
			if from[at] != text {
				return "", fmt.Errorf("line %d is %q, not %q", at+1, from[at], text)
			}
			at++
			left[0]--
			if l[0] == ' ' {
				out.WriteString(text)
				left[1]--
			}
		default:
			return "", fmt.Errorf("what is %q", l)
		}
	}
	if left != [2]int{} {
		return "", fmt.Errorf("%v are left of a hunk", left)
	}
	return out.String() + strings.Join(from[at:], ""), nil
}

func TestText(t *testing.T) {
	for _, x := range []struct{ a, b, want string }{
		{"", "", ""},
		{"same\n", "same\n", ""},
		{"", "new\n", "--- a\n+++ b\n@@ -0,0 +1 @@\n+new\n"},
		{"old", "", "--- a\n+++ b\n@@ -1 +0,0 @@\n-old\n\\ No newline at end of file\n"},
		{"a", "a\n", "--- a\n+++ b\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"},
		{"1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n", "--- a\n+++ b\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"},
		{
			"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\n", "a\nB\nc\nd\ne\nf\ng\nh\ni\nj\nk\nL\nm\n",
			"--- a\n+++ b\n@@ -1,5 +1,5 @@\n a\n-b\n+B\n c\n d\n e\n@@ -9,5 +9,5 @@\n i\n j\n k\n-l\n+L\n m\n",
		},
		{"a\nb\nc\n", "b\nc\na\n", "--- a\n+++ b\n@@ -1,3 +1,3 @@\n-a\n b\n c\n+a\n"},
	} {
		require.Equal(t, x.want, diff.Text(x.a, x.b), "%q to %q", x.a, x.b)
		got, err := patched(x.a, x.want)
		require.NoError(t, err)
		require.Equal(t, x.b, got)
	}
}

// doc is a JSON value that is patched.
func apply(doc any, patch []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(patch))
	d.UseNumber()
	var ops []map[string]any
	if err := d.Decode(&ops); err != nil {
		return nil, err
	}
	for _, op := range ops {
		path := op["path"].(string)
		var tokens []string
		if path != "" {
			if path[0] != '/' {
				return nil, fmt.Errorf("path %q", path)
			}
			for _, tok := range strings.Split(path[1:], "/") {
				tokens = append(tokens, strings.ReplaceAll(strings.ReplaceAll(tok, "~1", "/"), "~0", "~"))
			}
		}
		v, has := op["value"]
		if what := op["op"]; has == (what == "remove") {
			return nil, fmt.Errorf("%v of %q has a value: %v", what, path, has)
		}
		var err error
		if doc, err = applyOne(doc, tokens, op["op"].(string), v); err != nil {
			return nil, fmt.Errorf("%v: %w", op, err)
		}
	}
	return doc, nil
}

func applyOne(doc any, tokens []string, op string, v any) (any, error) {
	if len(tokens) == 0 {
		if op == "remove" {
			return nil, errors.New("of the whole")
		}
		return v, nil
	}
	tok, last := tokens[0], len(tokens) == 1
	switch at := doc.(type) {
	case map[string]any:
		x, has := at[tok]
		switch {
		case last && op == "add":
			at[tok] = v
			return at, nil
		case !has:
			return nil, fmt.Errorf("no %q", tok)
		case last && op == "remove":
			delete(at, tok)
			return at, nil
		}
		x, err := applyOne(x, tokens[1:], op, v)
		at[tok] = x
		return at, err
	case []any:
		i, err := strconv.Atoi(tok)
		if err != nil || strconv.Itoa(i) != tok || i < 0 || i > len(at) || i == len(at) && !(last && op == "add") {
			return nil, fmt.Errorf("no place %q of %d", tok, len(at))
		}
		switch {
		case last && op == "add":
			return append(at[:i:i], append([]any{v}, at[i:]...)...), nil
		case last && op == "remove":
			return append(at[:i:i], at[i+1:]...), nil
		}
		at[i], err = applyOne(at[i], tokens[1:], op, v)
		return at, err
	}
	return nil, fmt.Errorf("%T has no %q", doc, tok)
}

func decoded(t require.TestingT, text string) (v any) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	require.NoError(t, d.Decode(&v))
	return v
}

// holds checks that the patch from a to b makes b of a, is not longer than b, and nothing if they say the same.
func holds(t require.TestingT, a, b string) string {
	patch, err := diff.JSON([]byte(a), []byte(b))
	require.NoError(t, err)
	got, err := apply(decoded(t, a), patch)
	require.NoError(t, err, "%s to %s: %s", a, b, patch)
	want := decoded(t, b)
	require.Equal(t, want, got, "%s to %s: %s", a, b, patch)
	var whole bytes.Buffer
	e := json.NewEncoder(&whole)
	e.SetEscapeHTML(false)
	require.NoError(t, e.Encode(want))
	require.LessOrEqual(t, len(patch), max(2, whole.Len()-1+len(`[{"op":"replace","path":"","value":}]`)))
	return string(patch)
}

func TestJSON(t *testing.T) {
	long := strings.Repeat("l", 100) // so that replacing everything is no shorter way
	for _, x := range []struct{ a, b, want string }{
		{`1`, `1`, `[]`},
		{`{"a":1,"b":[1,2]}`, ` { "b" : [1, 2], "a":1 } `, `[]`},
		{`1`, `"<&>"`, `[{"op":"replace","path":"","value":"<&>"}]`},
		{`{"a":1.0}`, `{"a":1}`, `[{"op":"replace","path":"/a","value":1}]`},
		{`{"a/b":1,"m~n":2,"":3,"x":"` + long + `"}`, `{"a/b":9,"m~n":8,"":7,"x":"` + long + `"}`,
			`[{"op":"replace","path":"/","value":7},{"op":"replace","path":"/a~1b","value":9},{"op":"replace","path":"/m~0n","value":8}]`},
		{`{"l":["a","b","c"],"x":"` + long + `"}`, `{"l":["b","c"],"x":"` + long + `"}`, `[{"op":"remove","path":"/l/0"}]`},
		{`{"l":["a","b"],"x":"` + long + `"}`, `{"l":["new","a","b","end"],"x":"` + long + `"}`, `[{"op":"add","path":"/l/0","value":"new"},{"op":"add","path":"/l/3","value":"end"}]`},
		{`{"l":[{"id":1,"n":"a"},{"id":2,"n":"b"}],"x":"` + long + `"}`, `{"l":[{"id":1,"n":"a"},{"id":2,"n":"c"}],"x":"` + long + `"}`, `[{"op":"replace","path":"/l/1/n","value":"c"}]`},
		{`{"l":[1,2,3,4,5],"x":"` + long + `"}`, `{"l":[1,9],"x":"` + long + `"}`, `[{"op":"replace","path":"/l/1","value":9},{"op":"remove","path":"/l/2"},{"op":"remove","path":"/l/2"},{"op":"remove","path":"/l/2"}]`},
		{`{"o":{"a":null,"b":true},"x":"` + long + `"}`, `{"o":{"b":true,"c":[]},"x":"` + long + `"}`, `[{"op":"remove","path":"/o/a"},{"op":"add","path":"/o/c","value":[]}]`},
		{`{"n":12345678901234567890,"x":"` + long + `"}`, `{"n":12345678901234567891,"x":"` + long + `"}`, `[{"op":"replace","path":"/n","value":12345678901234567891}]`},
		{`{"a":1,"a":2}`, `{"a":2}`, `[]`},
	} {
		require.Equal(t, x.want, holds(t, x.a, x.b), "%s to %s", x.a, x.b)
	}
	for what, x := range map[string][2]string{
		"diff: a is no JSON: unexpected end of JSON input":                         {``, `1`},
		"diff: b is no JSON: invalid character '2' after top-level value":          {`1`, `1 2`},
		"diff: b is no JSON: invalid character 'x' looking for beginning of value": {`1`, `x`},
	} {
		_, err := diff.JSON([]byte(x[0]), []byte(x[1]))
		require.EqualError(t, err, what)
	}
}

func TestValues(t *testing.T) {
	type row struct {
		Name string   `json:"name"`
		Tags []string `json:"tags,omitempty"`
		own  int
	}
	long := strings.Repeat("l", 100)
	patch, err := diff.Values(row{long, []string{"a"}, 1}, &row{long, nil, 2})
	require.NoError(t, err)
	require.Equal(t, `[{"op":"remove","path":"/tags"}]`, string(patch))
	patch, err = diff.Values(map[int]any{1: json.RawMessage("[1]")}, map[string][]int{"1": {1}})
	require.NoError(t, err)
	require.Equal(t, `[]`, string(patch))
	_, err = diff.Values(1, func() {})
	require.EqualError(t, err, "diff: b: json: unsupported type: func()")
	_, err = diff.Values(make(chan int), 1)
	require.EqualError(t, err, "diff: a: json: unsupported type: chan int")
}

// value is a random value, which is a changed form of like with some luck.
func value(r *rand.Rand, like any, depth int) any {
	keys := []string{"", "a", "a/b", "~", "~1", "0", "é"}
	if r.IntN(4) > 0 {
		switch v := like.(type) {
		case []any:
			var out []any
			for _, x := range v {
				switch r.IntN(6) {
				case 0:
				case 1:
					out = append(out, value(r, nil, depth-1), x)
				default:
					out = append(out, value(r, x, depth-1))
				}
			}
			return append([]any{}, out...)
		case map[string]any:
			out := map[string]any{}
			for k, x := range v {
				if r.IntN(6) > 0 {
					out[k] = value(r, x, depth-1)
				}
			}
			if r.IntN(3) == 0 {
				out[keys[r.IntN(len(keys))]] = value(r, nil, depth-1)
			}
			return out
		case nil:
		default:
			return like
		}
	}
	switch n := r.IntN(8); {
	case depth > 0 && n < 3:
		out := []any{}
		for range r.IntN(6) {
			out = append(out, value(r, nil, depth-1))
		}
		return out
	case depth > 0 && n < 6:
		out := map[string]any{}
		for range r.IntN(5) {
			out[keys[r.IntN(len(keys))]] = value(r, nil, depth-1)
		}
		return out
	case n == 6:
		return nil
	case n == 7:
		return r.IntN(2) == 0
	}
	return r.IntN(3)
}

// Whatever was, the patch makes of it what is.
func TestRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	shorter := 0
	for range 5000 {
		x := value(r, nil, 4)
		a, err := json.Marshal(x)
		require.NoError(t, err)
		b, err := json.Marshal(value(r, x, 4))
		require.NoError(t, err)
		if p := holds(t, string(a), string(b)); len(p) < len(b) {
			shorter++
		}
		text := func(like []string) (out []string) {
			for _, l := range like {
				switch r.IntN(8) {
				case 0:
				case 1:
					out = append(out, "new", l)
				default:
					out = append(out, l)
				}
			}
			return out
		}
		var lines []string
		for range r.IntN(30) {
			lines = append(lines, fmt.Sprint(r.IntN(8)))
		}
		from, to := strings.Join(lines, "\n"), strings.Join(text(lines), "\n")
		got, err := patched(from, diff.Text(from, to))
		require.NoError(t, err, "%q to %q", from, to)
		require.Equal(t, to, got)
	}
	require.Greater(t, shorter, 250)
}

// Long texts and lists that have little in common take bounded work, and what comes is right.
func TestBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	r := rand.New(rand.NewPCG(1, 2))
	const n = 100_000
	many := func(kinds int) (string, string) {
		var text, list strings.Builder
		list.WriteByte('[')
		for i := range n {
			x := r.IntN(kinds)
			fmt.Fprintln(&text, x)
			if i > 0 {
				list.WriteByte(',')
			}
			fmt.Fprint(&list, x)
		}
		list.WriteByte(']')
		return text.String(), list.String()
	}
	for _, kinds := range []int{2, 1 << 30} {
		began := time.Now()
		ta, la := many(kinds)
		tb, lb := many(kinds)
		u := diff.Text(ta, tb)
		got, err := patched(ta, u)
		require.NoError(t, err)
		require.True(t, tb == got)
		require.LessOrEqual(t, len(u), len(ta)+len(tb)+2*n+1000)
		patch, err := diff.JSON([]byte(la), []byte(lb))
		require.NoError(t, err)
		require.LessOrEqual(t, len(patch), len(lb)+40)
		t.Logf("%d kinds: %v", kinds, time.Since(began))
	}
	deep := strings.Repeat("[", 5000) + "1" + strings.Repeat("]", 5000)
	holds(t, deep, strings.Replace(deep, "1", "2", 1))
}

func FuzzJSON(f *testing.F) {
	for _, x := range [][2]string{{`{"a":[1,2,{"b":null}]}`, `{"a":[2,{"b":1}],"c":"d"}`}, {`[[],{}]`, `[{},[]]`}, {`"\ud800"`, `"\ufffd"`}, {`{"~1":1}`, `{"/":1}`}, {`1e1`, `10`}} {
		f.Add(x[0], x[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if !json.Valid([]byte(a)) || !json.Valid([]byte(b)) {
			_, err := diff.JSON([]byte(a), []byte(b))
			require.Error(t, err)
			return
		}
		holds(t, a, b)
	})
}

func FuzzText(f *testing.F) {
	for _, x := range [][2]string{{"a\nb\nc\n", "b\nc\nd"}, {"", "\n"}, {"\n\n", "\n"}, {"a\r\nb", "a\nb"}, {"-- a\n", "++ b\n"}} {
		f.Add(x[0], x[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := patched(a, diff.Text(a, b))
		require.NoError(t, err)
		require.Equal(t, b, got)
	})
}
