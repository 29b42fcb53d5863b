// Package sluiceeino guards the tools of github.com/cloudwego/eino: rate limits, limits of calls at once, timeouts,
// breakers, priorities and fair shares, for streams too. A tool that panics or hangs no longer ends the process or
// the run. It is one line of a tools node, and so of a react agent or an adk agent, and no tool changes:
//
//	ToolCallMiddlewares: []compose.ToolMiddleware{sluiceeino.Middleware(exec, sluiceeino.Config{})},
//
// List it after other middlewares, so that it is the innermost. [Declare] tells the registry of tools' descriptions
// and schemas, so that calls without a required argument are refused.
//
// # What is kept
//
// Tools of all four kinds get what they would get without a guard, and the model what they answer: arguments byte
// for byte, call ids, options, context values, cancellation, callbacks, images and all else of enhanced results, the
// order of results, and streams chunk for chunk. A tool's own error ends the run as before, see below. Interrupts
// reach eino as they are, and check points too: each round of a tool that is interrupted and resumed is a call of its
// own, holds nothing while the user thinks, and is neutral for breakers and retries, unless a Classify function of
// yours says otherwise.
//
// A tool's name in the registry is Config.Prefix and the name. A name that the registry does not take keeps what can
// be kept, at most 55 letters, digits, _ and -, and gets _ and eight hexadecimal digits of its SHA-256, as from
// package agent. A tool that is there already keeps the Policy, Type, Check and Hints that it has. A name that the
// model has made up does not reach the middleware, and is never registered. At most 10,000 tools of one Middleware
// are, and the oldest goes first.
//
// # Streams
//
// A stream keeps its call open: its slot stays taken, and its Timeout runs, until the tool has sent the last chunk,
// ten minutes at most. So the time of a slow reader counts. When the time is over the reader is told at once, also
// where the tool ignores its context; the slot of a tool that is about to send is held until it does, or the time is
// over. A reader that is closed early ends the tool's context. One that is neither closed nor read to its end keeps
// the slot as long as may be: close readers, as eino asks for anyway. A stream ends with its first error.
//
// # What a refusal looks like
//
// An error of a call ends the run in eino, and what other calls of the message have answered is lost. So a call that
// is refused, panics, exits or takes too long has an answer, which is a stream of one chunk if it is one:
//
//	{"type":"rate_limited","message":"too many calls for now; try again in 10 s","retryable":true,"retry_after_ms":10000}
//
// It is [sluice.ModelText]: no names of limits, no stack, no value of a panic. A stream that has begun gets it as its
// last chunk, in a line of its own. Beside an interrupt it is kept as the call's answer. A run that is cancelled ends
// with the error of its context. Wrong policies, and tools whose names meet, are errors too: they are for you.
//
// # What does not work
//
// eino starts all calls of a message at once, without a pool, so they wait in one place, the executor's queue; but
// which of them is first is chance, unless ExecuteSequentially is set. Arguments that are no JSON are refused, and
// run no tool: ToolArgumentsHandler, which comes before, can put them right. What an interceptor makes of the
// arguments is not what the tool gets. Tools' own errors end the run; the example AnswerErrors has a middleware, to be
// listed before this one, that makes them answers. eino's utils.WrapToolWithErrorHandler, and middleware listed
// after this one, make answers of them before breakers and retries see them. A tool must not end with its goroutine
// locked to its thread.
//
// Calls run, and wait, on goroutines of [agent.Contain]. These are kept for the next: at most 64 that are idle, for two
// seconds at most, also when the executor is closed, and none in a testing/synctest bubble. They have the pprof labels
// that the call's context has.
//
// eino v0.7.36 asks for a version of github.com/bytedance/sonic that Go 1.26 does not compile; this module asks for
// v1.15.5, which it does.
package sluiceeino
