package sluiceeino

import (
	"context"
	"io"
	"testing"

	"github.com/cloudwego/eino/components/tool"
	"github.com/cloudwego/eino/compose"
	"github.com/cloudwego/eino/schema"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// benchmark runs f for a node alone, and for one guarded by a limit that is never reached.
func benchmark(b *testing.B, f func(b *testing.B, n *compose.ToolsNode)) {
	tools := []tool.BaseTool{
		invokable(b, "search", func(context.Context, query) (string, error) { return "3 hits", nil }),
		streamable(b, "stream", func(context.Context, query) (*schema.StreamReader[string], error) {
			return schema.StreamReaderFromArray([]string{"3 ", "hits", " for", " you"}), nil
		}),
	}
	b.Run("alone", func(b *testing.B) { f(b, newNode(b, nil, Config{}, tools...)) })
	b.Run("guarded", func(b *testing.B) {
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: limit(8)}))
		defer exec.Close(context.Background())
		f(b, newNode(b, exec, Config{}, tools...))
	})
}

// BenchmarkCall measures a message with one call, from the message to the answer.
func BenchmarkCall(b *testing.B) {
	benchmark(b, func(b *testing.B, n *compose.ToolsNode) {
		m := calls("search", "go rate limit")
		require.Equal(b, "3 hits", invoke(b, n, "search", "go"))
		b.ReportAllocs()
		for b.Loop() {
			_, _ = n.Invoke(context.Background(), m)
		}
	})
}

// BenchmarkCalls measures a message with four calls at once.
func BenchmarkCalls(b *testing.B) {
	benchmark(b, func(b *testing.B, n *compose.ToolsNode) {
		m := calls("search", "a", "b", "c", "d")
		b.ReportAllocs()
		for b.Loop() {
			_, _ = n.Invoke(context.Background(), m)
		}
	})
}

// BenchmarkStream measures a call that answers with a stream of four chunks, which is read to its end.
func BenchmarkStream(b *testing.B) {
	benchmark(b, func(b *testing.B, n *compose.ToolsNode) {
		m := calls("stream", "go rate limit")
		b.ReportAllocs()
		for b.Loop() {
			sr, err := n.Stream(context.Background(), m)
			require.NoError(b, err)
			for err == nil {
				_, err = sr.Recv()
			}
			require.Equal(b, io.EOF, err)
			sr.Close()
		}
	})
}
