// Package mcpgo guards the tools of a github.com/mark3labs/mcp-go server: rate limits, limits of calls at once,
// timeouts, breakers, priorities and fair shares, for each session if you like. A tool that panics or hangs no
// longer takes the server with it. It is one option of the server, and no tool changes:
//
//	s := server.NewMCPServer("demo", "1.0.0", server.WithToolHandlerMiddleware(mcpgo.Middleware(exec, mcpgo.Config{})))
//
// List it after the server's other middleware, so that it is the innermost. Task tools, those of AddTaskTool, go by
// every middleware; [TaskTool] guards one.
//
// # What is kept
//
// Handlers get what they would get without a guard, and clients what handlers give: arguments byte for byte, _meta,
// progress, structured content, context values, the session, cancellation, results that are errors, and errors,
// which the server turns into protocol errors of the codes that they ask for. A tool's description, schemas and
// annotations are in the executor's registry from its first call on, and again when the server has replaced it; a
// tool that you declare there yourself, with sluice.Declare, keeps its Type, Check and Policy. Annotations count as
// the server's own word: a gateway that offers tools of servers it does not trust should leave theirs out.
//
// A tool's name in the registry is Config.Prefix and the name. A name that the registry does not take keeps
// what can be kept, at most 55 letters, digits, _ and -, and gets _ and eight hexadecimal digits of its SHA-256, as
// from package agent. A name that no tool has is never registered. At most 10,000 tools of one Middleware are,
// and the oldest goes first.
//
// # What a refusal looks like
//
// A refused call is a result with isError and a text that models understand, and so is a panic and a timeout:
//
//	{"type":"rate_limited","message":"too many calls for now; try again in 10 s","retryable":true,"retry_after_ms":10000}
//
// A call without an argument that the tool's schema requires is refused before it is admitted. A request that its
// client has cancelled ends with an error, which nobody reads. Wrong policies, and tools whose names meet, are
// errors too: they are for you, not for models.
//
// # What ends mean
//
// A result that is an error is a failed call for events, with the code tool_error, and neutral for breakers and
// retries; a tool that asks the user for more is neutral. A tool's code may say otherwise by
// sluice.ReportOutcome, and so may a Classify function.
// A result that is an error after the call's Timeout is a timeout, whatever its text.
// When a tool asks the user, each round is a call of its own: nothing is held while the user thinks.
//
// # On whose behalf
//
// The session's id is the SessionID of calls. A limit for each session is one by tenant, and Config.Behalf says who
// that is; those who have no session, as some clients over HTTP, count together:
//
//	Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext { pc.Tenant = pc.SessionID; return pc }
//
// # What does not work
//
// A stdio server has five goroutines for tool calls: calls that wait for a limit hold them, calls of other tools
// wait behind those where nothing can see, order or cancel them, and with 100 behind, the server stops reading.
// Give it more, server.WithWorkerPoolSize(100) is its most, and let calls not wait for long (Config.MaxWait of the
// executor). Servers over HTTP have no such bound. When a server's input ends it cancels what it runs, and calls
// that have not been admitted then do not run.
//
// server.WithRecovery listed after Middleware is inside it: it makes errors of panics, with their values in the
// text. The server cancels the context of a task as soon as it has answered that the task has begun
// (mcp-go#897), so guarded tasks run without: one that is cancelled runs on, until it ends or its Timeout is over.
// A handler must not end with its goroutine locked to its thread, and runtime.Goexit in an interceptor of the
// executor ends the server's goroutine. Tools that sessions have each in their own way are in the registry by name
// alone, and nothing that they require is checked.
//
// Handlers run on goroutines of [agent.Contain], which are kept for the next: at most 64 that are idle, for two seconds
// at most, also when the executor is closed. None is kept in a testing/synctest bubble. They have no pprof labels.
package mcpgo
