package agent_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-go/sluice/agent"
)

// turn is a response of 8 calls, and their answers.
func turn(format agent.Format) ([]byte, []agent.Reply) {
	f := formats[format]
	var calls []string
	var replies []agent.Reply
	for i := range 8 {
		calls = append(calls, f.call(fmt.Sprintf("call_%020d", i), "search_documents", `{"query":"the \"quick\" brown fox","limit":10,"filters":{"lang":["en","de"],"since":"2026-01-01"}}`))
		r := agent.Reply{}
		r.Result.Value = strings.Repeat(`a line of text that was found, and "quoted"`+"\n", 6)
		replies = append(replies, r)
	}
	return []byte(fmt.Sprintf(f.body, strings.Join(calls, ","))), replies
}

// BenchmarkTurnOfEight reads a turn and writes what follows in the history. internal/compare has it beside the
// providers' own libraries, and encoding/json with plain structs.
func BenchmarkTurnOfEight(b *testing.B) {
	for _, f := range formats {
		body, replies := turn(f.format)
		b.Run(f.format.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m, err := f.format.Parse(body)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := f.format.Render(m, replies); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStream reads a streamed answer.
func BenchmarkStream(b *testing.B) {
	for _, x := range streams {
		body := []byte(sse(x.events, "\n"))
		b.Run(strings.ReplaceAll(x.name, " ", "-"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s := x.format.Stream()
				if _, err := s.Write(body); err != nil {
					b.Fatal(err)
				}
				if _, err := s.Message(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
