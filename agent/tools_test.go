package agent_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

func specs(names ...string) []sluice.Spec {
	var out []sluice.Spec
	for _, name := range names {
		out = append(out, sluice.Spec{Name: name})
	}
	return out
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 65)
	names, err := agent.NewNames(slices.Values(specs("search", "crm.get", "crm_get", long)))
	require.NoError(t, err)
	require.Equal(t, "search", names.Name("search"))
	require.Equal(t, "crm_get", names.Name("crm_get"), "who has a fitting name keeps it")
	require.Regexp(t, `^crm_get_[0-9a-f]{8}$`, names.Name("crm.get"))
	require.Len(t, names.Name(long), 64)
	for _, name := range []string{"search", "crm.get", "crm_get", long} {
		require.Equal(t, name, names.Tool(names.Name(name)))
	}
	require.Equal(t, "made up", names.Tool("made up"), "the executor says that there is none")
	require.Equal(t, "x", (*agent.Names)(nil).Name("x"))
	require.Equal(t, "x", (*agent.Names)(nil).Tool("x"))

	// Whoever holds the name that another would get keeps it, in whatever order they come.
	taken := names.Name("crm.get")
	one, err := agent.NewNames(slices.Values(specs("crm.get", taken)))
	require.NoError(t, err)
	two, err := agent.NewNames(slices.Values(specs(taken)), slices.Values(specs("crm.get")))
	require.NoError(t, err)
	require.Equal(t, taken, one.Name(taken))
	require.Regexp(t, `^crm_get_[0-9a-f]{12}$`, one.Name("crm.get"))
	require.Equal(t, one.Name("crm.get"), two.Name("crm.get"))
	require.Equal(t, "crm.get", one.Tool(one.Name("crm.get")))

	// No digit and no dash stands at the front of a name for all models.
	front := []string{"2fa", "-x", ".y", "_z", "3.d" + long}
	names, err = agent.NewNames(slices.Values(specs(front...)))
	require.NoError(t, err)
	for i, want := range []string{`^_2fa_[0-9a-f]{8}$`, `^_-x_[0-9a-f]{8}$`, `^_y_[0-9a-f]{8}$`, `^_z$`, `^_3_da{51}_[0-9a-f]{8}$`} {
		require.Regexp(t, want, names.Name(front[i]))
		require.Equal(t, front[i], names.Tool(names.Name(front[i])))
	}
	for _, f := range formats {
		_, err = f.format.Tools(slices.Values(specs("2fa")))
		if f.format == agent.Gemini {
			require.EqualError(t, err, `agent: the tool "2fa": Gemini takes a letter or _ at the front: set CodecConfig.Names to the NewNames of all tools`)
		} else {
			require.NoError(t, err)
		}
		codec, err := f.format.With(agent.CodecConfig{Names: names})
		require.NoError(t, err)
		_, err = codec.Tools(slices.Values(specs(front...)))
		require.NoError(t, err)
	}

	_, err = agent.NewNames(slices.Values(specs("a", "b")), slices.Values(specs("a")))
	require.EqualError(t, err, `agent: the tool "a" is listed twice: names must differ`)
	_, err = agent.NewNames(slices.Values(specs("")))
	require.EqualError(t, err, "agent: a tool has no name: must have one")
}

// Names never collide, fit, lead back, and depend on the tool alone.
func TestNamesAreReversible(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	fits := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)
	var all []string
	for n := range 3000 {
		b := make([]byte, 1+random.IntN(128))
		for i := range b {
			b[i] = "ab._-7"[random.IntN(6)]
		}
		all = append(all, fmt.Sprintf("%.124s%04d", b, n))
	}
	names, err := agent.NewNames(slices.Values(specs(all...)))
	require.NoError(t, err)
	alone, err := agent.NewNames(slices.Values(specs(all[:10]...)))
	require.NoError(t, err)
	wires := map[string]bool{}
	for i, name := range all {
		wire := names.Name(name)
		require.Regexp(t, fits, wire)
		require.False(t, wires[wire], "%s", wire)
		require.Equal(t, name, names.Tool(wire))
		if wires[wire] = true; i < 10 {
			require.Equal(t, wire, alone.Name(name))
		}
	}
}

func TestTools(t *testing.T) {
	schema := json.RawMessage(`{ "type":"object", "properties":{"q":{"type":"string"}}}`)
	reg := sluice.NewToolRegistry()
	_, err := sluice.Register(reg, sluice.Spec{Name: "crm.get", Description: "finds \"x\"\n", InputSchema: schema}, nothing)
	require.NoError(t, err)
	_, err = sluice.Register(reg, sluice.Spec{Name: "now"}, nothing)
	require.NoError(t, err)
	names, err := agent.NewNames(reg.Tools())
	require.NoError(t, err)
	wire := names.Name("crm.get")
	const none = `{"type":"object","properties":{}}`
	strict := `{"type":"object","properties":{"q":{"type":["string","null"]}},"required":["q"],"additionalProperties":false}`
	noneStrict := `{"type":"object","properties":{},"required":[],"additionalProperties":false}`
	for _, c := range []struct {
		format agent.Format
		strict bool
		want   string
	}{
		{agent.OpenAIChat, false, `[{"type":"function","function":{"name":"` + wire + `","description":"finds \"x\"\n","parameters":` + string(schema) + `,"strict":false}},` +
			`{"type":"function","function":{"name":"now","parameters":` + none + `,"strict":false}}]`},
		{agent.OpenAIChat, true, `[{"type":"function","function":{"name":"` + wire + `","description":"finds \"x\"\n","parameters":` + strict + `,"strict":true}},` +
			`{"type":"function","function":{"name":"now","parameters":` + noneStrict + `,"strict":true}}]`},
		{agent.OpenAIResponses, false, `[{"type":"function","name":"` + wire + `","description":"finds \"x\"\n","parameters":` + string(schema) + `,"strict":false},` +
			`{"type":"function","name":"now","parameters":` + none + `,"strict":false}]`},
		{agent.Anthropic, true, `[{"name":"` + wire + `","description":"finds \"x\"\n","input_schema":` + string(schema) + `},{"name":"now","input_schema":` + none + `}]`},
		{agent.Gemini, true, `[{"functionDeclarations":[{"name":"` + wire + `","description":"finds \"x\"\n","parametersJsonSchema":` + string(schema) + `},{"name":"now","parametersJsonSchema":` + none + `}]}]`},
	} {
		codec, err := c.format.With(agent.CodecConfig{Names: names, Strict: c.strict})
		require.NoError(t, err)
		got, err := codec.Tools(reg.Tools())
		require.NoError(t, err)
		require.Equal(t, c.want, string(got))
		require.True(t, json.Valid(got))

		_, err = c.format.Tools(reg.Tools())
		require.EqualError(t, err, `agent: the tool "crm.get": models take [A-Za-z0-9_-]{1,64}: set CodecConfig.Names to the NewNames of all tools`)
		_, err = codec.Tools(reg.Tools(), reg.Tools())
		require.ErrorContains(t, err, "is listed twice")
		got, err = c.format.Tools()
		require.NoError(t, err)
		require.Equal(t, `[]`, string(got))

		// And back.
		for _, f := range formats {
			if f.format == c.format {
				m, err := codec.Parse([]byte(fmt.Sprintf(f.body, f.call("a", wire, `{}`))))
				require.NoError(t, err)
				require.Equal(t, "crm.get", m.Calls[0].Request.Tool)
				if c.format == agent.Gemini {
					out, err := codec.Render(m, values("x"))
					require.NoError(t, err)
					require.Contains(t, string(out[0]), `"name":"`+wire+`"`)
				}
			}
		}
	}
	for in, want := range map[string]string{
		` {"properties":{}}`: `{"type":"object","properties":{}}`,
		`{ }`:                `{"type":"object" }`,
	} {
		got, err := agent.Anthropic.Tools(slices.Values([]sluice.Spec{{Name: "f", InputSchema: json.RawMessage(in)}}))
		require.NoError(t, err)
		require.Equal(t, `[{"name":"f","input_schema":`+want+`}]`, string(got))
	}
	_, err = agent.Anthropic.Tools(slices.Values([]sluice.Spec{{Name: "f", InputSchema: json.RawMessage(`{"a"}`)}}))
	require.EqualError(t, err, `agent: the InputSchema of the tool "f" is not JSON at byte 4: must have a colon there`)
}

func TestStrictSchema(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                  `{}`,
		`{"type":"object"}`:   `{"type":"object","properties":{},"required":[],"additionalProperties":false}`,
		`{"type":"string"}  `: `{"type":"string"}`,
		`{"$schema":"x","type":"object","required":["b"],"properties":{"b":{"type":"integer","default":3,"minimum":9007199254740993},"a":{"type":["string","number"]}},"additionalProperties":false}`: `{"type":"object","properties":{"b":{"type":"integer","minimum":9007199254740993},"a":{"type":["string","number","null"]}},"required":["b","a"],"additionalProperties":false}`,
		`{"properties":{"e":{"enum":["x"]},"r":{"$ref":"#/$defs/n"},"n":{"type":["null","string"]},"d":{"description":"any"}},"$defs":{"n":{"properties":{"next":{"$ref":"#/$defs/n"}}}}}`:            `{"properties":{"e":{"anyOf":[{"enum":["x"]},{"type":"null"}]},"r":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]},"n":{"type":["null","string"]},"d":{"anyOf":[{"description":"any"},{"type":"null"}]}},"$defs":{"n":{"properties":{"next":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}},"required":["next"],"additionalProperties":false}},"required":["e","r","n","d"],"additionalProperties":false}`,
		`{"type":"object","required":["l"],"properties":{"l":{"type":"array","items":{"properties":{"x":{"anyOf":[{"type":"string"},{"type":"null"}]}},"required":["x"]}}}}`:                          `{"type":"object","properties":{"l":{"type":"array","items":{"properties":{"x":{"anyOf":[{"type":"string"},{"type":"null"}]}},"required":["x"],"additionalProperties":false}}},"required":["l"],"additionalProperties":false}`,
	} {
		got, err := agent.StrictSchema(json.RawMessage(in))
		require.NoError(t, err, in)
		require.Equal(t, want, string(got))
		again, err := agent.StrictSchema(got)
		require.NoError(t, err)
		require.Equal(t, want, string(again), "what is strict stays as it is")
	}
	for in, want := range map[string]string{
		`{`:                                      "agent: the schema ends at byte 1: must have a string there",
		`[]`:                                     "agent: the schema cannot be strict: $ is no object: must be one",
		`{"properties":{"m":{"type":"object"}}}`: "$.properties.m is an object with any properties: must list all that it may have",
		`{"properties":{},"additionalProperties":true}`:                  "$ is an object with any properties",
		`{"properties":{"a":{"allOf":[]}}}`:                              "$.properties.a has allOf: strict mode does not have it",
		`{"required":5}`:                                                 "$.required is no list of names: must be one",
		`{"properties":{"a":{},"a":{}}}`:                                 `$.properties has "a" twice: names must differ`,
		`{"properties":3}`:                                               "$.properties is no object: must be one",
		`{"anyOf":3}`:                                                    "$.anyOf is no list or object of schemas: must be one",
		strings.Repeat(`{"items":`, 70) + strings.Repeat(`}`, 70):        "ends at byte", // is no JSON
		strings.Repeat(`{"items":`, 70) + `{}` + strings.Repeat(`}`, 70): "is nested too deep: at most 64 levels are allowed",
	} {
		_, err := agent.StrictSchema(json.RawMessage(in))
		if strings.HasPrefix(want, "ends at") {
			require.Error(t, err)
			continue
		}
		require.ErrorContains(t, err, want, in)
	}
}
