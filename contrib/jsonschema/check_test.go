package jsonschema

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// verdict is what a schema says of arguments.
func verdict(t *testing.T, schema, args string) string {
	t.Helper()
	p, err := compile("schema", []byte(schema))
	require.NoError(t, err, schema)
	if err := p.arguments(json.RawMessage(args)); err != nil {
		return err.Error()
	}
	return "ok"
}

// What is wrong is said so that a model can put it right: where, what, and what is allowed.
func TestProblems(t *testing.T) {
	const search = `{"type":"object","properties":{
		"q":{"type":"string","minLength":2,"maxLength":5},
		"n":{"type":"integer","minimum":1,"exclusiveMaximum":10},
		"unit":{"enum":["c","f",null,{"a":[1,2.0]}]},
		"tags":{"type":"array","items":{"type":"string","pattern":"^[a-z]+$"},"maxItems":2,"uniqueItems":true},
		"to":{"type":["string","null"]},
		"odd name":{"type":"object","additionalProperties":{"type":"boolean"}},
		"step":{"multipleOf":0.1}
	},"required":["q"],"additionalProperties":false}`
	const forms = `{"type":"object","properties":{
		"shape":{"oneOf":[{"type":"object","properties":{"kind":{"const":"circle"},"r":{"type":"number"}},"required":["kind","r"]},
			{"type":"object","properties":{"kind":{"const":"square"},"a":{"type":"number"}},"required":["kind","a"]}]},
		"at":{"anyOf":[{"$ref":"#/$defs/point"},{"type":"null"}]},
		"id":{"anyOf":[{"type":"string","pattern":"^x"},{"type":"integer"}]},
		"n":{"not":{"enum":[1,2]}},
		"two":{"oneOf":[{"minimum":1},{"maximum":5}]}
	},"required":["at"],"$defs":{"point":{"type":"object","properties":{"x":{"type":"number"}},"required":["x"]}}}`
	const lists = `{"properties":{"pair":{"prefixItems":[{"type":"string"},{"type":"integer"}],"items":false,"minItems":2},
		"has":{"contains":{"type":"integer"},"minContains":2,"maxContains":3},
		"map":{"patternProperties":{"^n_":{"type":"integer"}},"propertyNames":{"pattern":"^[a-z_]+$"},"minProperties":1,"maxProperties":2},
		"never":false},
		"dependentRequired":{"card":["cvv","name"]},
		"if":{"properties":{"mode":{"const":"mail"}},"required":["mode"]},"then":{"required":["to"]},"else":{"required":["pair"]}}`
	for _, c := range []struct{ schema, args, want string }{
		{search, `{"q":"go","n":3,"unit":"c","tags":["a","b"],"to":null,"odd name":{"x":true},"step":0.3}`, "ok"},
		{search, `{}`, `$ lacks "q": required`},
		{search, `null`, `$ lacks "q": required`},
		{search, ` `, `$ is not JSON`},
		{search, `[]`, `$ is an array: must be an object`},
		{search, `{"q":1}`, `$.q is a number: must be a string`},
		{search, `{"q":"x"}`, `$.q has 1 characters: must have at least 2`},
		{search, `{"q":"éééééé"}`, `$.q has 6 characters: must have at most 5`},
		{search, `{"q":"\u00e9\ud83d\ude00"}`, "ok"},
		{search, `{"q":"go","n":1.5}`, `$.n is a number with a fraction: must be a whole number`},
		{search, `{"q":"go","n":0}`, `$.n is too small: must be at least 1`},
		{search, `{"q":"go","n":1e1}`, `$.n is too large: must be less than 10`},
		{search, `{"q":"go","n":9.0}`, "ok"},
		{search, `{"q":"go","unit":"k"}`, `$.unit is none of the allowed values: must be "c", "f", null or {"a":[1,2.0]}`},
		{search, `{"q":"go","unit":{"a":[1.0,2]}}`, "ok"},
		{search, `{"q":"go","tags":["a","a"]}`, `$.tags has the same element twice, at 0 and 1: must not`},
		{search, `{"q":"go","tags":["a","B","c"]}`, `$.tags has 3 elements: must have at most 2; $.tags[1] must match the pattern ^[a-z]+$`},
		{search, `{"q":"go","to":7}`, `$.to is a number: must be a string or null`},
		{search, `{"q":"go","odd name":{"x":true,"secret":1}}`, `$["odd name"][key 2] is a number: must be true or false`},
		{search, `{"q":"go","step":0.25}`, `$.step must be a multiple of 0.1`},
		{search, `{"q":"go","Q":"x"}`, `$ has an unknown key "Q": allowed are "q", "n", "unit", "tags", "to", "odd name", "step"`},
		{search, `{"q":5,"n":"x","unit":3,"x":1}`, `$.q is a number: must be a string; $.n is a string: must be a whole number; ` +
			`$.unit is none of the allowed values: must be "c", "f", null or {"a":[1,2.0]}; $ has an unknown key "x": allowed are "q", "n", "unit", "tags", "to", "odd name", "step"`},

		{forms, `{"at":{"x":1},"shape":{"kind":"square","a":1},"id":"xx","n":3,"two":0}`, "ok"},
		{forms, `{"at":{"x":"1"}}`, `$.at.x is a string: must be a number`},
		{forms, `{"at":"1"}`, `$.at fits none of the allowed forms: must be an object or null`},
		{forms, `{"at":null,"shape":{"kind":"square","r":1}}`, `$.shape lacks "a": required`},
		{forms, `{"at":null,"shape":{"kind":"line"}}`, `$.shape fits none of the allowed forms: must be an object whose "kind" is "circle" or an object whose "kind" is "square"`},
		{forms, `{"at":null,"id":"y"}`, `$.id must match the pattern ^x`},
		{forms, `{"at":null,"id":true}`, `$.id fits none of the allowed forms: must be a string that matches the pattern ^x or a whole number`},
		{forms, `{"at":null,"n":2}`, `$.n is of a form that is not allowed: must not be 1 or 2`},
		{forms, `{"at":null,"two":3}`, `$.two fits 2 of the allowed forms: must fit one`},

		{lists, `{"pair":["a",1],"has":[1,2,"x"],"map":{"n_a":1}}`, "ok"},
		{lists, `{"pair":["a","b",3]}`, `$.pair[1] is a string: must be a whole number; $.pair[2] must not be there`},
		{lists, `{"pair":["a"]}`, `$.pair has 1 elements: must have at least 2`},
		{lists, `{"pair":["a",1],"has":[1]}`, `$.has has 1 elements that are a whole number: must have at least 2`},
		{lists, `{"pair":["a",1],"has":[1,2,3,4]}`, `$.has has 4 elements that are a whole number: must have at most 3`},
		{lists, `{"pair":["a",1],"map":{}}`, `$.map has 0 keys: must have at least 1`},
		{lists, `{"pair":["a",1],"map":{"n_a":"x","N":1}}`, `$.map[key 1] is a string: must be a whole number; $.map[key 2] has the wrong name: must be one that matches the pattern ^[a-z_]+$`},
		{lists, `{"pair":["a",1],"never":0}`, `$.never must not be there`},
		{lists, `{"pair":["a",1],"card":1}`, `$ lacks "cvv", "name": required beside "card"`},
		{lists, `{"mode":"mail"}`, `$ lacks "to": required`},
		{lists, `{"mode":"post"}`, `$ lacks "pair": required`},
		{`{"properties":{"a":{"type":"string"}},"allOf":[{"required":["b"]},{"$ref":"#/$defs/c"}],"$defs":{"c":{"required":["c"]}}}`, `{"a":1}`,
			`$.a is a number: must be a string; $ lacks "b": required; $ lacks "c": required`},
		{`{"properties":{"a":{"enum":[]}}}`, `{"a":1}`, `$.a is none of the allowed values: must be nothing`},
	} {
		assert.Equal(t, c.want, verdict(t, c.schema, c.args), c.args)
	}
}

// A member that need not be there may be null: strict mode has models say so. One that must be may not.
func TestNullIsLeftOut(t *testing.T) {
	const schema = `{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"},"in":{"type":"object","properties":{"c":{"enum":[1]}}}},"required":["a"]}`
	for _, c := range []struct{ args, want string }{
		{`{"a":1,"b":null,"in":{"c":null}}`, "ok"},
		{`{"a":1,"in":null}`, "ok"},
		{`{"a":null}`, "$.a is null: must be a whole number"},
	} {
		assert.Equal(t, c.want, verdict(t, schema, c.args), c.args)
	}
}

func TestNumbersAreExact(t *testing.T) {
	const schema = `{"properties":{
		"max":{"maximum":9007199254740992},"min":{"minimum":9007199254740993},"above":{"exclusiveMinimum":9007199254740992},
		"one":{"const":9007199254740993},"of":{"enum":[9223372036854775807,1e300]},"odd":{"multipleOf":3},"set":{"uniqueItems":true},
		"int":{"type":"integer"},"small":{"exclusiveMinimum":0},"tenth":{"multipleOf":0.01}}}`
	for _, c := range []struct{ args, want string }{
		{`{"max":9007199254740992}`, "ok"},
		{`{"max":9007199254740993}`, "$.max is too large: must be at most 9007199254740992"},
		{`{"min":9007199254740992}`, "$.min is too small: must be at least 9007199254740993"},
		{`{"min":9007199254740993}`, "ok"},
		{`{"above":9007199254740993}`, "ok"},
		{`{"one":9007199254740993}`, "ok"},
		{`{"one":9007199254740993.0}`, "ok"},
		{`{"one":9007199254740992}`, "$.one is none of the allowed values: must be 9007199254740993"},
		{`{"of":9223372036854775807}`, "ok"},
		{`{"of":9223372036854775808}`, "$.of is none of the allowed values: must be 9223372036854775807 or 1e300"},
		{`{"of":10e299}`, "ok"},
		{`{"odd":9007199254740993}`, "ok"},
		{`{"odd":9007199254740994}`, "$.odd must be a multiple of 3"},
		{`{"odd":3e999999999}`, "ok"},
		{`{"odd":1e999999999}`, "$.odd must be a multiple of 3"},
		{`{"odd":3e-999999999}`, "$.odd must be a multiple of 3"},
		{`{"odd":-0.0}`, "ok"},
		{`{"set":[9007199254740992,9007199254740993]}`, "ok"},
		{`{"set":[1,1.0]}`, "$.set has the same element twice, at 0 and 1: must not"},
		{`{"int":1e400}`, "ok"},
		{`{"int":12.50e1}`, "ok"},
		{`{"int":1e-1}`, "$.int is a number with a fraction: must be a whole number"},
		{`{"small":1e-99999999999999999999}`, "ok"},
		{`{"small":-1e-400}`, "$.small is too small: must be more than 0"},
		{`{"tenth":19.99}`, "ok"},
		{`{"tenth":19.999}`, "$.tenth must be a multiple of 0.01"},
	} {
		assert.Equal(t, c.want, verdict(t, schema, c.args), c.args)
	}
}

// Decimals are held against big.Rat.
func TestDecimals(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	numeral := func() string {
		s := fmt.Sprint(r.IntN(2<<r.IntN(11))-r.IntN(9)) + []string{"", ".0", ".5", ".250", ".125"}[r.IntN(5)]
		if r.IntN(3) == 0 {
			s += fmt.Sprintf("e%d", r.IntN(9)-4)
		}
		return s
	}
	rat := func(s string) *big.Rat {
		x, ok := new(big.Rat).SetString(s)
		require.True(t, ok, s)
		return x
	}
	equal := 0
	for range 20_000 {
		a, b := numeral(), numeral()
		x, y := decimalOf([]byte(a)), decimalOf([]byte(b))
		require.Equal(t, rat(a).Cmp(rat(b)), x.compare(&y), "%s and %s", a, b)
		require.Equal(t, rat(a).IsInt(), x.whole(), a)
		if rat(a).Cmp(rat(b)) == 0 {
			equal++
			d, _ := parse([]byte(a), nil)
			e, _ := parse([]byte(b), nil)
			require.Equal(t, d.canonical(nil, 0), e.canonical(nil, 0), "%s and %s", a, b)
		}
		if rat(b).Sign() > 0 {
			require.Equal(t, new(big.Rat).Quo(rat(a), rat(b)).IsInt(), x.multipleOf(&y), "%s and %s", a, b)
		}
	}
	require.NotZero(t, equal)
}

// What is nested deep, large or ambiguous costs neither the stack nor much time, and an error stays short.
func TestBounds(t *testing.T) {
	deep := func(n int, open, inner, shut string) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(shut, n)
	}
	const list = `{"type":"object","properties":{"next":{"$ref":"#"},"v":{"type":"integer"}},"additionalProperties":false}`
	assert.Equal(t, "ok", verdict(t, list, deep(9_999, `{"next":`, `{"v":1}`, `}`)))
	assert.Regexp(t, `^\$\.next\.next.*\.\.\..*\.next\.v is a string: must be a whole number$`, verdict(t, list, deep(9_999, `{"next":`, `{"v":""}`, `}`)))
	assert.Equal(t, "$ is nested too deep: at most 10000 levels are allowed", verdict(t, list, deep(100_000, `{"next":`, `{"v":1}`, `}`)))
	assert.Equal(t, "$ is not JSON", verdict(t, list, strings.Repeat(`{"next":`, 5_000)))
	const tree = `{"type":"array","items":{"$ref":"#"},"uniqueItems":true}`
	assert.Equal(t, "ok", verdict(t, tree, deep(2_000, `[`, `[]`, `]`)))
	assert.Equal(t, "$ is too much to check: must be smaller", verdict(t, tree, deep(10_000, `[`, `[]`, `]`)))

	// Each level asks twice for the one below: 2^60 ways.
	const ambiguous = `{"anyOf":[{"properties":{"a":{"$ref":"#"}},"not":{}},{"properties":{"a":{"$ref":"#"}},"not":true}]}`
	assert.Equal(t, "$ is too much to check: must be smaller", verdict(t, ambiguous, deep(60, `{"a":`, `{}`, `}`)))
	negated := `{"not":` + ambiguous + `}`
	negated = strings.ReplaceAll(negated, `"#"`, `"#/not"`)
	assert.Equal(t, "$ is too much to check: must be smaller", verdict(t, negated, deep(60, `{"a":`, `{}`, `}`)))

	long := strings.Repeat("x", 3000)
	many := `{"type":"object","additionalProperties":{"type":"string"}}`
	args := `{"` + long + `":1`
	for i := range 1000 {
		args += fmt.Sprintf(`,"%s%d":1`, long[:10], i)
	}
	said := verdict(t, many, args+"}")
	assert.Equal(t, maxProblems+1, strings.Count(said, ";")+1, said)
	assert.True(t, strings.HasSuffix(said, "; and more"), said)

	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprintf(`"%s%d"`, long[:200], i)
	}
	wide := `{"properties":{` + strings.Join(names, ":true,") + `:true},"additionalProperties":false}`
	said = verdict(t, wide, `{"`+long+`":1}`)
	assert.LessOrEqual(t, len(said), maxText+len("…"), said)
	assert.Contains(t, said, `allowed are "xxx`)

	set := strings.Builder{}
	for i := range 100_000 {
		fmt.Fprintf(&set, ",%d", i)
	}
	assert.Equal(t, "ok", verdict(t, `{"properties":{"a":{"uniqueItems":true}}}`, `{"a":[-1`+set.String()+`]}`))
	assert.Equal(t, "$.n must be a multiple of 7", verdict(t, `{"properties":{"n":{"multipleOf":7}}}`, `{"n":`+strings.Repeat("7", 1_000_000)+`}`))
}

// A schema that cannot be used is an error that says where, and nothing is ever loaded.
func TestCompileRefuses(t *testing.T) {
	deep := strings.Repeat(`{"not":`, 100) + "{}" + strings.Repeat("}", 100)
	for _, c := range []struct{ schema, want string }{
		{`{"type":"object"`, `schema: is not JSON: must be a JSON Schema`},
		{`[]`, `schema: # is an array: must be a schema`},
		{`{"properties":{"a":{"type":"strng"}}}`, `schema: #/properties/a/type must be of "array", "boolean", "integer", "null", "number", "object" and "string"`},
		{`{"properties":{"a":{"pattern":"("}}}`, "schema: #/properties/a/pattern error parsing regexp: missing closing ): `(`"},
		{`{"properties":{"a":{"minimum":"1"}}}`, `schema: #/properties/a/minimum must be a number`},
		{`{"properties":{"a":{"multipleOf":0}}}`, `schema: #/properties/a/multipleOf must be more than 0`},
		{`{"properties":{"a":{"minLength":-1}}}`, `schema: #/properties/a/minLength must be a whole number that is not negative`},
		{`{"properties":[]}`, `schema: #/properties must be an object of schemas`},
		{`{"properties":{"a":3}}`, `schema: #/properties/a is a number: must be a schema`},
		{`{"required":"a"}`, `schema: #/required must be an array of strings`},
		{`{"anyOf":{}}`, `schema: #/anyOf must be an array of schemas`},
		{`{"enum":1}`, `schema: #/enum must be an array`},
		{`{"properties":{"a":{"$ref":"http://127.0.0.1:1/x.json"}}}`, `schema: $ref "http://127.0.0.1:1/x.json" leads elsewhere: must begin with #`},
		{`{"$ref":"file:///etc/passwd"}`, `schema: $ref "file:///etc/passwd" leads elsewhere: must begin with #`},
		{`{"$ref":"#/$defs/none"}`, `schema: $ref "#/$defs/none" is not in the schema`},
		{`{"$ref":"#"}`, `schema: a $ref leads back to itself without end: must lead to a part of the value`},
		{`{"anyOf":[{"type":"null"},{"not":{"$ref":"#/$defs/a"}}],"$defs":{"a":{"allOf":[{"$ref":"#"}]}}}`, `schema: a $ref leads back to itself without end: must lead to a part of the value`},
		{`{"$ref":"#","unevaluatedProperties":false}`, `schema: a $ref leads back to itself without end: must lead to a part of the value`},
		{`{"$dynamicRef":"#a"}`, `schema: #/$dynamicRef is not supported: must be $ref`},
		{`{"$defs":{"a":{"$id":"b"}}}`, `schema: #/$defs/a/$id is not supported here: must stand at the top`},
		{`{"$schema":"https://json-schema.org/draft/2019-09/schema","unevaluatedItems":false}`, `schema: has unevaluatedItems and another $schema: must be draft 2020-12 or draft-07`},
		{deep, `schema: the schema is nested too deep: at most 64 levels are allowed`},
		{strings.Repeat(`{"not":`, 20_000) + "{}" + strings.Repeat("}", 20_000), `schema: is not JSON: must be a JSON Schema`},
	} {
		_, err := compile("schema", []byte(c.schema))
		assert.EqualError(t, err, c.want, "%.100s", c.schema)
	}
}

// Keywords that look at what others have left are jsonschema-go's.
func TestUnevaluated(t *testing.T) {
	const schema = `{"type":"object","allOf":[{"properties":{"a":{"type":"integer"}}}],"properties":{"b":{"type":"string"}},"unevaluatedProperties":false}`
	for _, c := range []struct{ args, want string }{
		{`{"a":9007199254740993,"b":"x"}`, "ok"},
		{`{"a":1.5}`, "$.a is a number with a fraction: must be a whole number"},
		{`{"c":1}`, "$ does not fit what the schema says by unevaluatedProperties"},
		{`{"a":1e400}`, "$ has a number out of range, or is nested too deep: at most 512 levels are allowed"},
		{`{"a":0,"b":null}`, "$ does not fit what the schema says by unevaluatedProperties"},
	} {
		assert.Equal(t, c.want, verdict(t, schema, c.args), c.args)
	}
}

// No value of the arguments is in an error, nor a name that the schema does not have, but for one that is unknown
// beside others; nor a type of Go.
func TestErrorsShowNoValue(t *testing.T) {
	s, err := For[order, string](sluice.Spec{Name: "order"})
	require.NoError(t, err)
	p, err := compile("schema", []byte(`{"additionalProperties":{"anyOf":[{"type":"string","maxLength":1,"pattern":"^x"},{"type":"integer","maximum":1,"multipleOf":2},{"enum":[1]},
		{"type":"object","additionalProperties":{"type":"integer"},"propertyNames":{"maxLength":3}},{"type":"array","items":{"const":1},"uniqueItems":true}]}}`))
	require.NoError(t, err)
	n := 0
	for _, v := range []string{`"sk-CANARY"`, `734589.25`, `734589`, `["sk-CANARY","sk-CANARY"]`, `{"city":"sk-CANARY","street":734589}`, `{"city":{"city":"sk-CANARY"}}`, `true`} {
		for _, args := range []string{`{"a":` + v + `}`, `{"sk-CANARY":` + v + `}`} {
			err := p.check([]byte(args))
			require.Error(t, err, args)
			assert.NotContains(t, err.Error(), "CANARY", args)
			assert.NotContains(t, err.Error(), "734589", args)
			n++
		}
		for _, name := range []string{"customer", "lines", "ship", "due", "wait"} {
			err := s.Check(context.Background(), sluice.Call{Input: json.RawMessage(`{"` + name + `":` + v + `}`)})
			require.Error(t, err)
			for _, not := range []string{"CANARY", "734589", "order", "address", "time.Time", "uint16"} {
				assert.NotContains(t, err.Error(), not)
			}
		}
	}
	require.Equal(t, 14, n)
}

// One program serves many goroutines.
func TestCheckIsConcurrent(t *testing.T) {
	s, err := For[order, string](sluice.Spec{Name: "order"})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				args, want := orderArgs, ""
				if (n+i)%2 == 0 {
					args, want = fmt.Sprintf(`{"customer":%d,"lines":[],"due":"2026-01-02T03:04:05Z"}`, n), "$.customer is a number: must be a string"
				}
				err := s.Check(context.Background(), sluice.Call{Input: json.RawMessage(args)})
				if want == "" {
					assert.NoError(t, err)
				} else {
					assert.EqualError(t, err, want)
				}
			}
		})
	}
	wg.Wait()
}

// A check of what fits allocates nothing but the copy of the arguments that Call.JSON gives.
func TestCheckAllocates(t *testing.T) {
	s, err := For[order, string](sluice.Spec{Name: "order"})
	require.NoError(t, err)
	p, err := compile("schema", s.InputSchema)
	require.NoError(t, err)
	args := []byte(orderArgs)
	require.NoError(t, p.check(args))
	if !raceEnabled {
		assert.Zero(t, testing.AllocsPerRun(1000, func() { _ = p.check(args) }))
	}
}
