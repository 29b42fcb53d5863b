package main

import (
	"bytes"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write golden files")

// golden compares got with a file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "%s; go test ./sim/sluicesim -update writes it", file)
}

// told is what the program prints about a file, and the picture.
func told(t *testing.T, args ...string) (text, svg string) {
	t.Helper()
	var out, errs bytes.Buffer
	file := filepath.Join(t.TempDir(), "out.svg")
	require.Zero(t, run(append([]string{"-svg", file}, args...), &out, &errs), "%s", &errs)
	require.Empty(t, errs.String())
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return out.String(), string(b)
}

// The documentation shows what the program says of its example: the file, the text, the picture.
func TestExample(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mix.json")
	var out, errs bytes.Buffer
	require.Zero(t, run([]string{"-example"}, &out, &errs), "%s", &errs)
	require.NoError(t, os.WriteFile(file, out.Bytes(), 0o600))
	text, svg := told(t, file)
	if runtime.GOARCH != "amd64" {
		t.Skip("draws from distributions may differ in the last bit on another architecture, see sim.Report; TestSteady draws nothing")
	}
	golden(t, filepath.Join("testdata", "example.txt"), text)
	golden(t, filepath.Join("..", "..", "docs", "sim.svg"), svg)
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "sim.md"))
	require.NoError(t, err)
	for name, shown := range map[string]string{"json": example, "text": text} {
		assert.Contains(t, string(page), "```"+name+"\n"+shown+"```\n", "docs/sim.md")
	}
}

// A mix in which nothing is drawn gives the same everywhere.
func TestSteady(t *testing.T) {
	text, svg := told(t, filepath.Join("testdata", "steady.json"))
	golden(t, filepath.Join("testdata", "steady.txt"), text)
	golden(t, filepath.Join("testdata", "steady.svg"), svg)
}

// Equal files and seeds give equal texts and pictures, another seed does not.
func TestSeeds(t *testing.T) {
	text, svg := told(t, "example.json")
	again, svgAgain := told(t, "-seed", "1", "example.json")
	assert.Equal(t, text, again)
	assert.Equal(t, svg, svgAgain)
	other, svgOther := told(t, "-seed", "2", "example.json")
	assert.NotEqual(t, text, other)
	assert.NotEqual(t, svg, svgOther)
}

// element is any element of a picture.
type element struct {
	XMLName xml.Name
	Attrs   []xml.Attr `xml:",any,attr"`
	Text    string     `xml:",chardata"`
	Inside  []element  `xml:",any"`
}

func (e element) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// A picture is well-formed, says in words what it shows to whoever cannot see it, needs nothing from
// elsewhere, stays within its bounds, and does not tell policies apart by colour alone.
func TestPictures(t *testing.T) {
	for _, file := range []string{"example.json", filepath.Join("testdata", "steady.json")} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, svg := told(t, file)
			var root element
			d := xml.NewDecoder(strings.NewReader(svg))
			require.NoError(t, d.Decode(&root))
			_, err := d.Token()
			require.NoError(t, err, "the last line's end")
			_, err = d.Token()
			require.ErrorIs(t, err, io.EOF, "one element")

			require.Equal(t, xml.Name{Space: "http://www.w3.org/2000/svg", Local: "svg"}, root.XMLName)
			assert.Equal(t, "img", root.attr("role"))
			var named []string
			for i, part := range []string{"title", "desc"} {
				e := root.Inside[i]
				assert.Equal(t, part, e.XMLName.Local)
				named = append(named, e.attr("id"))
			}
			assert.Equal(t, strings.Join(named, " "), root.attr("aria-labelledby"))
			m, err := read(file)
			require.NoError(t, err)
			assert.Equal(t, m.title, root.Inside[0].Text)
			for i := range m.policies {
				assert.Contains(t, root.Inside[1].Text, "Policy "+m.policies[i].name+": ")
			}
			assert.NotRegexp(t, `href|url\(|<script|<image`, svg)
			var w, h float64
			_, err = fmt.Sscanf(root.attr("viewBox"), "0 0 %g %g", &w, &h)
			require.NoError(t, err)
			within(t, root, w, h)
		})
	}
	assert.NotEqual(t, looks[0].fill == looks[0].colour, looks[1].fill == looks[1].colour, "one is filled")
	assert.NotEqual(t, looks[0].dash, looks[1].dash)
}

// within holds that an element and all in it are between 0 and w, and 0 and h.
func within(t *testing.T, e element, w, h float64) {
	for _, name := range []string{"x", "x1", "x2", "cx", "y", "y1", "y2", "cy"} {
		if v := e.attr(name); v != "" {
			at, err := strconv.ParseFloat(v, 64)
			require.NoError(t, err, "%s of %s", name, e.XMLName.Local)
			most := w
			if strings.Contains(name, "y") {
				most = h
			}
			assert.True(t, at >= 0 && at <= most, "%s of %s %q is %v: must be from 0 to %v", name, e.XMLName.Local, e.Text, at, most)
		}
	}
	if e.XMLName.Local == "text" { // a letter of the sans-serif fonts takes less than 0.65 of its height on average
		x, _ := strconv.ParseFloat(e.attr("x"), 64)
		size, class := 13.0, " "+e.attr("class")+" "
		if strings.Contains(class, " head ") {
			size = 19
		}
		long := float64(len([]rune(e.Text))) * size * 0.6
		switch {
		case strings.Contains(class, " end "):
			assert.GreaterOrEqual(t, x-long, 0.0, "%q", e.Text)
		case strings.Contains(class, " middle "):
			assert.LessOrEqual(t, x+long/2, w, "%q", e.Text)
		default:
			assert.LessOrEqual(t, x+long, w, "%q", e.Text)
		}
	}
	for _, in := range e.Inside {
		within(t, in, w, h)
	}
}

// Whoever names no file, several, or none that there is, reads what is wrong.
func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "sluicesim: 0 files are named: must be one\nusage: sluicesim "},
		{[]string{"a", "b"}, 2, "sluicesim: 2 files are named: must be one\n"},
		{[]string{"-x"}, 2, "flag provided but not defined: -x\nusage: sluicesim "},
		{[]string{"-h"}, 0, "usage: sluicesim "},
		{[]string{filepath.Join("testdata", "none.json")}, 1, "sluicesim: open "},
		{[]string{"-svg", filepath.Join("testdata", "none", "x.svg"), "example.json"}, 1, "sluicesim: open "},
	} {
		var out, errs bytes.Buffer
		assert.Equal(t, tt.code, run(tt.args, &out, &errs), "%q", tt.args)
		assert.True(t, strings.HasPrefix(errs.String(), tt.want), "%q: %s", tt.args, &errs)
	}
}

// small is a file in which only one thing is wrong.
const small = `{
"duration": "1m",
"tools": [{"name": "search", "type": "web", "service": {"constant": "1s"}}],
"traffic": [{"tool": "search", "arrivals": {"steady": 2}}],
"policies": [{"limits": [{"max": 2}]}]
}`

// Each mistake in a file is told with the line, the field, and what it should be.
func TestMistakesInFiles(t *testing.T) {
	in := func(old, new string) string { return strings.Replace(small, old, new, 1) }
	for _, tt := range []struct{ file, want string }{
		{small, ""},
		{"", "f:1: is not JSON: EOF"},
		{"{\n\"a\": tru", "f:2: is not JSON: unexpected EOF"},
		{"{\n\n\"a\" 1}", "f:3: is not JSON: invalid character '1' after object key"},
		{"[]", "f:1: the file is a list: must be an object"},
		{small + "{}", "f:6: has more after its object: must be one object"},
		{in(`"duration": "1m",`, ``), `f:1: the file has no field "duration": must have one`},
		{in(`"duration"`, `"duratoin"`), `f:1: the file has no field "duration": must have one; is "duratoin" meant to be it?`},
		{in(`"1m"`, `60`), `f:2: duration is 60: must be a string with a unit, as "60s" or "60ms"`},
		{in(`"1m"`, `"1 minute"`), `f:2: duration is "1 minute": must be a time with a unit, as "250ms", "30s" or "1h30m"`},
		{in(`"1m"`, `true`), `f:2: duration is true, false or null: must be a string`},
		{in(`"1m"`, `"-1m"`), `Config.Duration is -1m0s: must be positive, up to 87600h0m0s`},
		{in(`"1m"`, `"1m", "seed": -1`), `f:2: seed is -1: must not be negative`},
		{in(`"1m"`, `"1m", "seed": "x"`), `f:2: seed is "x": must be a whole number`},
		{in(`"1m"`, `"1m", "sed": 1`), `f:2: sed is no field that there is: did you mean "seed"?`},
		{in(`"1m"`, `"1m", "zzz": 1`), `f:2: zzz is no field that there is: can be title, duration, seed, max_calls, tools, traffic, policies`},
		{in(`"1m"`, `"1m", "duration": "2m"`), `f:2: duration is there twice: must be once`},
		{in(`"1m"`, `"1m", "title": "a\nb"`), `f:2: title "a\nb" has a control character: must be printable`},
		{in(`"name": "search"`, `"name": "se arch"`), `f:4: traffic[0].tool is "search": no tool is called that: did you mean "se arch"?`},
		{in(`{"constant": "1s"}`, `{"normal": "1s"}`), `f:3: tools[0].service.normal is no field that there is: did you mean "log_normal"?`},
		{in(`{"constant": "1s"}`, `{"weibull": "1s"}`), `f:3: tools[0].service.weibull is no field that there is: can be constant, uniform, exponential, log_normal, pareto, samples`},
		{in(`{"constant": "1s"}`, `{}`), `f:3: tools[0].service has 0 fields: must have one of constant, uniform, exponential, log_normal, pareto, samples`},
		{in(`{"constant": "1s"}`, `{"constant": "1s", "samples": []}`), `f:3: tools[0].service has 2 fields: must have one of constant, uniform, exponential, log_normal, pareto, samples`},
		{in(`{"constant": "1s"}`, `{"log_normal": {"median": "1s"}}`), `f:3: tools[0].service.log_normal has no field "p99": must have one`},
		{in(`{"constant": "1s"}`, `{"log_normal": {"median": "2s", "p99": "1s"}}`), `Config.Tools[0].Service is log-normal, median 2s, p99 1s: must have 0 < median <= p99 <= 2^53`},
		{in(`{"constant": "1s"}`, `"1s"`), `f:3: tools[0].service is a string: must be an object`},
		{in(`"tool": "search"`, `"tool": "serach"`), `f:4: traffic[0].tool is "serach": no tool is called that: did you mean "search"?`},
		{in(`"tool": "search"`, `"tool": "fetch"`), `f:4: traffic[0].tool is "fetch": no tool is called that: there are "search"`},
		{in(`"tool": "search"`, `"tool": "search", "priority": "high"`), `f:4: traffic[0].priority is "high": must be "batch", "normal", "interactive" or a number from 1 to 9`},
		{in(`"tool": "search"`, `"tool": "search", "priority": 10`), `f:4: traffic[0].priority is 10: must be from 1 to 9`},
		{in(`{"steady": 2}`, `{"steady": "2"}`), `f:4: traffic[0].arrivals.steady is "2": must be a number`},
		{in(`{"steady": 2}`, `{"steady": -2}`), `Config.Traffic[0].Arrivals has -2 per second: must be above 0, up to 1e9`},
		{in(`{"steady": 2}`, `{"callers": {"n": 1.5}}`), `f:4: traffic[0].arrivals.callers.n is 1.5: must be a whole number`},
		{in(`[{"limits": [{"max": 2}]}]`, `[]`), `f:5: policies has 0 entries: must have 1 or 2`},
		{in(`[{"limits": [{"max": 2}]}]`, `[{"name": "a"}, {"name": "a"}]`), `f:5: policies[1] has the name "a" too: must have another`},
		{in(`[{"limits": [{"max": 2}]}]`, `{}`), `f:5: policies is an object: must be a list`},
		{in(`[{"max": 2}]`, `[]`), `f:5: policies[0].limits cannot be: ConcurrencyLimiterConfig.Limits is empty: must have at least one limit`},
		{in(`"max": 2`, `"max": 2, "refuse": "yes"`), `f:5: policies[0].limits[0].refuse is "yes": must be true or false`},
		{in(`"max": 2`, `"max": 2, "scope": "tenant"`), `f:5: policies[0].limits[0].scope is "tenant": must be "global", "by_tool", "by_type", "by_tenant", {"for_tool": [names]} or {"for_type": [types]}`},
		{in(`"max": 2`, `"max": 2, "scope": {"for_type": ["wbe"]}`), `f:5: policies[0].limits[0].scope.for_type[0] is "wbe": no type of a tool is called that: did you mean "web"?`},
		{in(`"limits"`, `"tools": {"serch": {}}, "limits"`), `f:5: policies[0].tools.serch is "serch": no tool is called that: did you mean "search"?`},
		{in(`"limits"`, `"rate_limiters": [{"rates": [{"n": 0}]}], "limits"`), `f:5: policies[0].rate_limiters[0] cannot be: RateLimiterConfig.Rates[0].N is 0: must be at least 1`},
		{in(`"limits"`, `"rate_limiters": [{"rates": [{"n": 1}]}, {"rates": [{"n": 1, "per": "1m"}]}], "limits"`), `f:5: policies[0].rate_limiters[1] has the name "rate" too: must have another`},
		{in(`"limits"`, `"rate_limiters": [{"rates": [{"n": 1}]}, {"name": "rate", "rates": [{"n": 1}]}], "limits"`), `f:5: policies[0].rate_limiters[1] has the name "rate" too: must have another`},
		{in(`"limits"`, `"rate_limiters": [{"rates": [{"n": 1}]}, {"name": "model", "rates": [{"n": 1}]}], "limits"`), ``},
		{in(`"service"`, `"calls": ["search", "fetch"], "service"`), `f:3: tools[0].calls[1] is "fetch": no tool is called that: there are "search"`},
		{strings.Replace(in(`"type": "web", `, ``), `"max": 2`, `"max": 2, "scope": {"for_type": ["web"]}`, 1), `f:5: policies[0].limits[0].scope.for_type[0] is "web": no type of a tool is called that: there are none`},
		{in(`"limits"`, `"max_wait": "never", "limits"`), `f:5: policies[0].max_wait is "never": must be a time with a unit, as "250ms", "30s" or "1h30m"`},
		{strings.Repeat(`{"a":`, 20), `f:1: a` + strings.Repeat(".a", 15) + ` is nested too deep: at most 16 levels are allowed`},
		{in(`"1m"`, `"1m", "`+strings.Repeat("a", 600)+`": 1`), `f:2: ` + strings.Repeat("a", 512) + `… is no field that there is: can be `},
	} {
		m, err := parse("f", []byte(tt.file))
		if err == nil {
			_, err = m.run()
		}
		if tt.want == "" {
			require.NoError(t, err, tt.file)
			continue
		}
		require.Error(t, err, tt.file)
		got := strings.TrimPrefix(err.Error(), `under policy "policy 1": `)
		if !strings.HasSuffix(tt.want, " ") {
			assert.Equal(t, tt.want, got, tt.file)
		} else {
			assert.Equal(t, tt.want, got[:min(len(got), len(tt.want))], tt.file)
		}
	}
	_, err := parse("f", make([]byte, maxBytes+1))
	require.EqualError(t, err, "f: has 16777217 bytes: must have at most 16777216")
}

// Whatever a file holds, it is read or refused in one line that names the file.
func FuzzParse(f *testing.F) {
	f.Add(small)
	f.Add(example)
	f.Add(`{"policies":[{"tools":{"a":{"breaker":{"ratio":1e999}}}}]}`)
	line := regexp.MustCompile(`^f(:\d+)?: [^\n]*$`)
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parse("f", []byte(s))
		if err != nil {
			assert.Regexp(t, line, err.Error())
			return
		}
		assert.NotEmpty(t, m.policies)
	})
}
