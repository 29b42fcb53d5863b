package strictjson

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Of a schema only what is required is read, and what that cannot be is refused in words.
func TestSchemaSaysWhatIsRequired(t *testing.T) {
	for doc, want := range map[string]string{
		``:                                  "[] <nil>",
		`{}`:                                "[] <nil>",
		`{"type":"object","required":null}`: "[] <nil>",
		`{"required":["b","a"],"x":1}`:      "[a b] <nil>",
		`{`:                                 "[] x is not JSON: must be a JSON Schema or empty",
		`null`:                              "[] x: $ is null: must be an object",
		`true`:                              "[] x: $ is a boolean: must be an object",
		`{"type":"array"}`:                  `[] x has another type than "object": arguments are an object`,
		`{"type":["object"]}`:               `[] x has another type than "object": arguments are an object`,
		`{"required":"a"}`:                  "[] x: required is no array: must be one of names",
		`{"required":["a",1]}`:              "[] x: required[1] is no string: must be a name",
		`{"required":["a","a"]}`:            `[] x: required names "a" twice: must name each once`,
	} {
		names, err := Required("x", []byte(doc))
		assert.Equal(t, want, fmt.Sprint(names, err), doc)
	}
}
