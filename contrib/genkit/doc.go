// Package sluicegenkit has the tools of github.com/firebase/genkit/go run through a Sluice executor: rate limits,
// limits of calls at once, queue, breakers, timeouts and events hold for them. A tool that fails, panics or hangs no
// longer takes the run with it, or the process. There are two ways, of one line each.
//
// [DefineTool] in place of genkit.DefineTool guards one tool, wherever it is used:
//
//	search, err := sluicegenkit.DefineTool(g, exec, "search", "searches the web", sluicegenkit.Config{}, searchWeb)
//
// [Middleware] guards all tools of a Generate or a prompt, also those of plugins and of MCP servers:
//
//	genkit.Generate(ctx, g, ai.WithTools(search), ai.WithUse(sluicegenkit.Middleware(exec, sluicegenkit.Config{})))
//
// # What is kept
//
// What models are told of a tool: name, description, schemas of input and output, strictness. Outputs with media and
// metadata, and their order; streamed parts; context values, and the run's cancellation; interrupts, restarts and what
// they bring; spans. Middleware gives a call the ref of the model's request as its id. A tool that you declare in the
// executor's registry yourself, with sluice.Declare, keeps its Type, Hints, Check and Policy.
//
// A tool's name in the registry is Config.Prefix and the name. A name that the registry does not take, as
// "plugin/search", keeps what can be kept, at most 55 letters, digits, _ and -, and gets _ and eight hexadecimal digits
// of its SHA-256, as from package agent. A name stays there until you remove it, so tools that are made for one run
// should not have one that nobody else has.
//
// # What a refusal looks like
//
// genkit ends a run with the error of one tool, and throws away what the others have said. So a call that is refused,
// fails, panics, exits or is too late has an output instead, which the model reads:
//
//	{"error":{"message":"too many calls for now; try again in 2 s","retry_after_ms":1200,"retryable":true,"type":"rate_limited"}}
//
// It is [sluice.ModelText], or what Config.Text says, as it is or as a JSON object: no names of limits, no stack, no
// value of a panic. If Text answers nothing, the error ends the run after all, and is found in Generate's by errors.Is:
//
//	Text: func(err error) string {
//		if errors.Is(err, errAccountClosed) {
//			return ""
//		}
//		return sluice.ModelText(err)
//	},
//
// Arguments that do not fit the tool's schema are refused by genkit's own validator, but before the call is admitted,
// so they cost no token and open no breaker. A run that is cancelled ends with its context's error.
//
// # Interrupts
//
// A tool that interrupts the run has not failed: breakers and retries do not count it, and the code
// of its event is interrupted. Nothing is held while somebody is asked; the restart is a call of its own.
//
// # On whose behalf
//
// genkit has no session of its own. Who is asking often stands in the action context:
//
//	Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
//		if auth, ok := core.FromContext(ctx)["auth"].(map[string]any); ok {
//			pc.Tenant, _ = auth["uid"].(string)
//		}
//		return pc
//	},
//
// # What does not work
//
// A name that the model has made up ends the run, with ai.ErrToolNotFound, as without a guard: genkit looks tools up
// before any of its hooks. It starts all calls of a message at once, without a pool, so they wait in one place, the
// executor's queue, but which of them is first is chance. genkit reads numbers of arguments as float64, so above 2^53
// digits are lost before Sluice sees them. With DefineTool events have ids of their own, and a call that has not been
// admitted has no span; with Middleware it has one, and that of a retried call is there once for each attempt. The
// time that a call waits is in no span of genkit's.
package sluicegenkit
