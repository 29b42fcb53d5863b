package server

import (
	"context"

	"github.com/mark3labs/mcp-go/mcp"
)

// Guard, if it is set, makes the innermost middleware of every server.
var Guard func() ToolHandlerMiddleware

// guard adds it. Some tests call the server's own functions, where its entry, HandleMessage, has not put the server
// into the context.
func (s *MCPServer) guard() {
	if Guard == nil {
		return
	}
	guard := Guard()
	s.toolHandlerMiddlewares = append(s.toolHandlerMiddlewares, func(next ToolHandlerFunc) ToolHandlerFunc {
		h := guard(next)
		return func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			if ServerFromContext(ctx) == nil {
				ctx = context.WithValue(ctx, serverKey{}, s)
			}
			return h(ctx, r)
		}
	})
}
