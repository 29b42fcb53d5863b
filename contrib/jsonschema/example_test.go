package jsonschema_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/contrib/jsonschema"
)

type Trip struct {
	From   string   `json:"from" jsonschema:"IATA code of the airport"`
	To     string   `json:"to"`
	Guests []Guest  `json:"guests"`
	Budget *float64 `json:"budget,omitempty"`
}

type Guest struct {
	Name string `json:"name"`
	Age  uint8  `json:"age,omitempty"`
}

func book(_ context.Context, t Trip) (string, error) { return t.From + " to " + t.To, nil }

// A tool is registered with the schemas of its types, and arguments that do not fit are refused with all that is
// wrong.
func ExampleRegister() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	sluice.Must(jsonschema.Register(exec.Registry(), sluice.Spec{Name: "book"}, book))

	spec, _ := exec.Registry().Lookup("book")
	fmt.Printf("%s\n", spec.InputSchema)

	for _, args := range []string{
		`{"from":"FRA","to":"JFK","guests":[{"name":"Ada"},{"age":3}]}`,
		`{"from":"FRA","to":"JFK","guests":[{"name":"Ada","age":36}],"budget":null}`,
	} {
		res, err := exec.Invoke(context.Background(), sluice.Request{Tool: "book", Args: json.RawMessage(args)})
		if e, ok := errors.AsType[*sluice.Error](err); ok {
			fmt.Println(e.Cause)
			continue
		}
		fmt.Println(res.Value)
	}
	// Output:
	// {"type":"object","properties":{"from":{"type":"string","description":"IATA code of the airport"},"to":{"type":"string"},"guests":{"type":["array","null"],"items":{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":255}},"required":["name"],"additionalProperties":false}},"budget":{"type":"number"}},"required":["from","to","guests"],"additionalProperties":false}
	// $.guests[1] lacks "name": required
	// FRA to JFK
}

// A schema that is written by hand stays, and says more than a type can. Here it is that of a tool which gets its
// arguments as they are.
func ExampleFor() {
	spec, err := jsonschema.For[json.RawMessage, json.RawMessage](sluice.Spec{
		Name: "light",
		InputSchema: json.RawMessage(`{
			"type": "object",
			"properties": {
				"room": {"enum": ["hall", "kitchen"]},
				"level": {"type": "integer", "minimum": 0, "maximum": 100}
			},
			"required": ["room", "level"],
			"additionalProperties": false
		}`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Register(exec.Registry(), spec, func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil }))

	_, err = exec.Invoke(context.Background(), sluice.Request{Tool: "light", Args: json.RawMessage(`{"room":"attic","level":120,"colour":"red"}`)})
	if e, ok := errors.AsType[*sluice.Error](err); ok {
		fmt.Println(e.Cause)
	}
	// Output:
	// $.room is none of the allowed values: must be "hall" or "kitchen"; $.level is too large: must be at most 100; $ has an unknown key "colour": allowed are "room", "level"
}
