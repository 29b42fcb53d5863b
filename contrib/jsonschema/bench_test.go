package jsonschema

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	google "github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

type (
	order struct {
		Customer string        `json:"customer" jsonschema:"who orders"`
		Lines    []line        `json:"lines"`
		Ship     *address      `json:"ship,omitempty"`
		Note     string        `json:"note,omitempty"`
		Due      time.Time     `json:"due"`
		Wait     time.Duration `json:"wait,omitempty"`
	}
	line struct {
		SKU string  `json:"sku"`
		N   uint16  `json:"n"`
		At  float64 `json:"at,omitempty"`
	}
	address struct {
		Street string `json:"street"`
		City   string `json:"city"`
	}
)

const orderArgs = `{"customer":"Ada","lines":[{"sku":"a-1","n":2},{"sku":"b-7","n":1,"at":9.5}],"ship":{"street":"Main","city":"Ulm"},"due":"2026-01-02T03:04:05Z"}`

// BenchmarkCheck measures one look at arguments of 140 bytes, 20 values.
func BenchmarkCheck(b *testing.B) {
	s, err := For[order, string](sluice.Spec{Name: "order"})
	require.NoError(b, err)
	args := json.RawMessage(orderArgs)
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		c := sluice.Call{Input: args}
		for b.Loop() {
			if err := s.Check(context.Background(), c); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ours, without the copy of the arguments", func(b *testing.B) {
		p, err := compile("", s.InputSchema)
		require.NoError(b, err)
		b.ReportAllocs()
		for b.Loop() {
			if err := p.check(args); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("wrong", func(b *testing.B) {
		c := sluice.Call{Input: json.RawMessage(`{"customer":1,"lines":[{"sku":"a-1","n":-2}],"due":"now","x":1}`)}
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Check(context.Background(), c); err == nil {
				b.Fatal("fits")
			}
		}
	})
	b.Run("jsonschema-go", func(b *testing.B) {
		var g google.Schema
		require.NoError(b, json.Unmarshal(s.InputSchema, &g))
		r, err := g.Resolve(nil)
		require.NoError(b, err)
		b.ReportAllocs()
		for b.Loop() {
			var v any
			if json.Unmarshal(args, &v) != nil || r.Validate(v) != nil {
				b.Fatal("does not fit")
			}
		}
	})
}

func BenchmarkFor(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := For[order, string](sluice.Spec{Name: "order"}); err != nil {
			b.Fatal(err)
		}
	}
}
