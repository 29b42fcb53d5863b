// Package sluicemcp guards the tools of github.com/modelcontextprotocol/go-sdk: rate limits, limits of calls at once,
// timeouts, breakers, priorities and fair shares, for each session if you like. A tool that panics or hangs no longer
// takes the server with it. It is one line, and no tool changes:
//
//	server.AddReceivingMiddleware(sluicemcp.Server(exec, sluicemcp.Config{}))
//
// In front of somebody else's server it is one line of the client:
//
//	client.AddSendingMiddleware(sluicemcp.Client(exec, sluicemcp.Config{Prefix: "github."}))
//
// And for one tool, [AddTool] replaces [mcp.AddTool]. It checks arguments by the whole schema before a call is
// admitted.
//
// # What is kept
//
// Handlers get what they would get without a guard, and clients what handlers give: arguments byte for byte, _meta,
// progress, structured content, context values, the session, cancellation, results that are errors, and errors. A
// tool's description, schemas and annotations are in the executor's registry from its first call on, as they were
// last listed; a tool that you declare there yourself, with sluice.Declare, keeps its Type, Check and Policy.
//
// A tool's name in the registry is Config.Prefix and the name. A name that the registry does not take keeps what can
// be kept, at most 55 letters, digits, _ and -, and gets _ and eight hexadecimal digits of its SHA-256, as from
// package agent. Names that no list of tools has, as a model may make up, are one tool there, _OTHER: its calls are
// guarded as others are, and the server says what it says of such names. At most 10,000 tools of one guard are known,
// and the oldest goes first.
//
// The guard learns of tools from the lists that pass by. It asks for one itself when it does not know a name, and
// when a call lacks an argument that the tool required so far: once for all calls that wait, ten times in a row at most,
// and then once a second. Until it may ask again, a name that it does not know is _OTHER.
//
// # What a refusal looks like
//
// On a server, a refused call is a result with isError and a text that models understand, and so is a panic and a
// timeout:
//
//	{"type":"rate_limited","message":"too many calls for now; try again in 10 s","retryable":true,"retry_after_ms":10000}
//
// The server's other middleware finds the error by [mcp.CallToolResult.GetError]. A call without an argument that
// the tool's schema requires is refused before it is admitted. A request that its client has cancelled ends with an
// error, which nobody reads. Wrong policies, and tools whose names meet, are errors too: they are for you, not for
// models.
//
// On a client, CallTool has the error, an *sluice.Error: the agent's loop is yours, and sluice.ModelText is what its
// model should read.
//
// # What ends mean
//
// A result that is an error is a failed call for events, with the code tool_error. It is neutral for breakers and
// retries, unless a typed handler's error is behind it, which is a failure. A tool that asks the user for more is
// neutral. A tool's code may say otherwise by sluice.ReportOutcome, and so may a Classify function. A result that is an
// error after the call's Timeout is a timeout, whatever its text.
//
// # Whom to trust
//
// A server's own annotations are trusted. A gateway that offers tools of servers that it does not trust should leave
// theirs out. Of a client's tools nothing is: their hints are Untrusted, and no layer, as resilience.Retry, goes by
// them unasked. For a server that you vouch for, declare the tool with its Hints before its first call: they stay.
//
// # On whose behalf
//
// The session's id is the SessionID of calls. Some sessions have none: those over stdio, and clients of protocol
// 2026-07-28, which has no sessions. Limits by SessionID count them together. Tokens and headers are in the request,
// so a middleware of yours, listed before the guard, says who that is:
//
//	server.AddReceivingMiddleware(tenants, sluicemcp.Server(exec, sluicemcp.Config{}))
//
// where tenants calls its next with sluice.WithPipelineContext; see the example of [Server]. Config.Behalf has the
// last word.
//
// # What does not work
//
// Handlers are not told the JSON-RPC id of a request, so events have ids of their own. The library answers requests
// that were cancelled, with an error.
//
// A tool that asks clients of protocols before 2026-07-28, by InputRequests, is asked again by the library inside of
// Server: the call holds its slot, and its Timeout runs, while the user thinks. With AddTool each round is a call of
// its own. So it is with a Client, whose library answers what servers ask inside of it.
//
// A handler must not end with its goroutine locked to its thread, nor a type that AddTool decodes. And runtime.Goexit
// in an interceptor of the executor ends the library's goroutine: its request is never answered, but with AddTool. A
// client with sessions to several servers whose tools of one name differ has their calls under one name; give each
// server a Client of its own. A transport of yours, or a handler of what servers ask, that calls runtime.Goexit ends
// the goroutine that has called CallTool, once the call's end is reported.
//
// Handlers run on goroutines of [agent.Contain], which are kept for the next: at most 64 that are idle, for two seconds
// at most, also when the executor is closed. None is kept in a testing/synctest bubble. They have no pprof labels. With
// AddTool a call has one while it waits, too.
//
// A program that serves on stdio must not print to standard output: the protocol is there. Sluice writes nothing
// unless a sink of yours does, so have that write to standard error. [mcp.CommandTransport] drops what a child writes
// to standard error, unless its Command says where it goes; a pipe must be read, or the child stops.
package sluicemcp
