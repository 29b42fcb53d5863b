package sluiceeino

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/cloudwego/eino/components/tool"
	"github.com/cloudwego/eino/compose"
	"github.com/cloudwego/eino/schema"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// Config says how tools are guarded. The zero value adds nothing to what the executor's own gates say.
type Config struct {
	Policy func(tool string) sluice.Policy                                             // limits of a tool by its name in the registry; nil means none of its own
	Behalf func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext // on whose behalf: tenant, user, priority; nil changes nothing, as the library knows no session
	Text   func(err error) string                                                      // what a model reads of an error; nil means sluice.ModelText
	Prefix string                                                                      // before a tool's name in the registry, as "github."; empty means none
	_      struct{}
}

// Middleware has every tool of a tools node run through e, whichever of the four kinds it is of: each call is
// admitted by e's gates, and reported to its sink, as a call of the tool's name. The tool is declared in e's
// registry at its first call. List it last, so that other middlewares go around it.
//
// A call waits in the middleware while e has it wait, until it may start, its context ends, or e refuses it; and
// while the tool runs, until its code ends or its time is over. A stream holds what its call has taken until it
// has ended, or its reader is closed: see the package. Middleware is safe for concurrent use, and for several nodes
// if their tools of one name are alike; others need a Middleware each, with a Prefix.
func Middleware(e *sluice.Executor, c Config) compose.ToolMiddleware {
	g := newGuard(e, c)
	return compose.ToolMiddleware{
		Invokable: func(next compose.InvokableToolEndpoint) compose.InvokableToolEndpoint {
			code := func(ctx context.Context, in *compose.ToolInput) (string, error) {
				out, err := next(ctx, in)
				if err != nil || out == nil {
					return "", failed(err)
				}
				return out.Result, nil
			}
			return func(ctx context.Context, in *compose.ToolInput) (*compose.ToolOutput, error) {
				text, err := call(ctx, g, in, asText, code)
				if err != nil {
					return nil, err
				}
				return &compose.ToolOutput{Result: text}, nil
			}
		},
		Streamable: func(next compose.StreamableToolEndpoint) compose.StreamableToolEndpoint {
			code := func(ctx context.Context, in *compose.ToolInput) (*schema.StreamReader[string], error) {
				out, err := next(ctx, in)
				if err != nil || out == nil {
					return nil, err
				}
				return out.Result, nil
			}
			return func(ctx context.Context, in *compose.ToolInput) (*compose.StreamToolOutput, error) {
				sr, err := stream(ctx, g, in, asText, code)
				if err != nil {
					return nil, err
				}
				return &compose.StreamToolOutput{Result: sr}, nil
			}
		},
		EnhancedInvokable: func(next compose.EnhancedInvokableToolEndpoint) compose.EnhancedInvokableToolEndpoint {
			code := func(ctx context.Context, in *compose.ToolInput) (*schema.ToolResult, error) {
				out, err := next(ctx, in)
				if err != nil || out == nil || out.Result == nil {
					return nil, failed(err)
				}
				return out.Result, nil
			}
			return func(ctx context.Context, in *compose.ToolInput) (*compose.EnhancedInvokableToolOutput, error) {
				res, err := call(ctx, g, in, asResult, code)
				if err != nil {
					return nil, err
				}
				return &compose.EnhancedInvokableToolOutput{Result: res}, nil
			}
		},
		EnhancedStreamable: func(next compose.EnhancedStreamableToolEndpoint) compose.EnhancedStreamableToolEndpoint {
			code := func(ctx context.Context, in *compose.ToolInput) (*schema.StreamReader[*schema.ToolResult], error) {
				out, err := next(ctx, in)
				if err != nil || out == nil {
					return nil, err
				}
				return out.Result, nil
			}
			return func(ctx context.Context, in *compose.ToolInput) (*compose.EnhancedStreamableToolOutput, error) {
				sr, err := stream(ctx, g, in, asResult, code)
				if err != nil {
					return nil, err
				}
				return &compose.EnhancedStreamableToolOutput{Result: sr}, nil
			}
		},
	}
}

// Declare tells e's registry of tools before they are called: middleware is not told their descriptions and schemas.
// With it, a call without an argument that a tool's schema requires is refused before it is admitted, and a wrong
// Policy is an error at the start. c must be what [Middleware] is given. It may be called again, as
// [sluice.Declare] may.
//
// It is an error if a tool is nil, has no Info, or is registered with a function of its own, or if the registry
// does not take its schema or Policy; what came before it is declared. It asks tools for their Info, and waits for
// nothing else.
func Declare(ctx context.Context, e *sluice.Executor, c Config, tools ...tool.BaseTool) error {
	g := newGuard(e, c)
	for i, t := range tools {
		if t == nil {
			return fmt.Errorf("sluiceeino: tool %d is nil: must not be", i)
		}
		info, err := t.Info(ctx)
		if err != nil {
			return fmt.Errorf("sluiceeino: tool %d: %w", i, err)
		}
		spec := sluice.Spec{Description: info.Desc}
		schema, err := info.ParamsOneOf.ToJSONSchema()
		if err == nil && schema != nil {
			spec.InputSchema, err = json.Marshal(schema)
		}
		if err == nil {
			_, err = g.declare(info.Name, spec)
		}
		if err != nil {
			return fmt.Errorf("sluiceeino: the tool %q: %w", info.Name, err)
		}
	}
	return nil
}

// policy is what Config says of a tool.
func (c *Config) policy(tool string) (p sluice.Policy, err error) {
	if c.Policy != nil {
		err = agent.Contain(tool, func() { p = c.Policy(tool) })
	}
	return p, err
}

// asText and asResult are a text as tools of the two kinds answer it.
func asText(text string) string { return text }

func asResult(text string) *schema.ToolResult {
	return &schema.ToolResult{Parts: []schema.ToolOutputPart{{Type: schema.ToolPartTypeText, Text: text}}}
}
