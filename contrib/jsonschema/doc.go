// Package jsonschema gives a tool the JSON Schemas of its Go types, and refuses calls whose arguments do not fit,
// before they are admitted: they cost no token and no place, and the model reads what to put right.
//
//	type In struct {
//		City string `json:"city" jsonschema:"the city's English name"`
//		Days int    `json:"days,omitempty"`
//	}
//	tool, err := jsonschema.Register(registry, sluice.Spec{Name: "weather"}, weather) // func(context.Context, In) (Out, error)
//
// [Register] does all in one line; [For] fills in a Spec for sluice.Replace, sluice.Wrap and sluice.Declare. A
// schema that the Spec already has is kept, and is what arguments are held against.
//
// # What is inferred
//
// The schema says what encoding/json does with the type. A field without omitempty or omitzero is required, and
// so is each in an object further in. Structs allow no other members, as package sluice does not. A pointer,
// slice or map may be null, unless omitempty leaves it out. The tag jsonschema is the description, as in
// github.com/google/jsonschema-go. A json.RawMessage and an any are any value, time.Time is a date-time,
// time.Duration a whole number of nanoseconds, a []byte base64; a type that encodes itself is a string if it does
// so as text, and any value if not. A type that holds itself is a $ref. A type that JSON does not have is an error.
//
// Inferred schemas are what agent.StrictSchema takes, unless they have maps.
//
// # What is checked
//
// Arguments are held against the InputSchema as they came, by Spec.Check: after the strict decoding of package
// sluice, which refuses the first thing that is wrong, and before a Check that the Spec had. A typed call is held
// against a schema that you wrote, as the JSON of its input; its own type it fits in any case. The OutputSchema is
// shown, and nothing is held against it.
//
// Schemas are read as draft 2020-12 has it, or as draft-07 if their $schema says that. Numbers are exact at any
// size. Null for a member that the schema does not require counts as left out, since that is how
// models leave out in strict mode. The words format, default and contentEncoding only inform. Schemas with
// unevaluatedProperties or unevaluatedItems are checked by github.com/google/jsonschema-go as they stand. Nothing
// is ever loaded: a $ref that leads elsewhere is an error at registration, and so are a $dynamicRef, an $id below
// the top, and a $ref that leads back to itself.
//
// An error names up to eight places, in at most 1,000 bytes: where, what is wrong, and what is allowed. It shows
// no value, and of the arguments' names only an unknown one beside those that are allowed. Depth and work are
// bounded: what takes too much to check is refused. Schemas are compiled once, at registration; a check of usual
// arguments takes about a microsecond.
package jsonschema
