// Package agent takes a model's tool calls to its answers: it parses what the model said, and renders
// what the calls gave in the form that the model's provider wants. It needs no provider's SDK, and
// beside package sluice nothing but the standard library.
//
//	turn, err := runner.Turn(ctx, agent.Anthropic, body) // body is the provider's answer
//	history = append(history, turn.Messages...)          // the model's own message, the same bytes, and the answers
//	if turn.Done() {
//		return turn.Message.Text()
//	}
//
// A [Runner] makes the calls of a turn, in parallel, and has a reply for each; [Runner.Turn] parses, runs and
// renders in one step. [Runner.Each] shows replies as they come, and a [Codec] does its part alone.
//
// # Approval
//
// [Approvals] have somebody approve calls before they run. A turn with such calls comes back with [Turn].Pending and
// can be stored; [Runner.Resume] goes on with it hours later, maybe in another process. docs/approvals.md shows it.
// [Modes] allow tools in some modes of the program only.
//
// # Limits
//
// [UsageLimits] bound what the calls of a run, see [WithRun], and of a session use, and [Loops] refuse those that only
// repeat what is known. The model reads why, and a turn may end with its [Turn].Stop. docs/budgets.md shows it.
//
// # Frameworks
//
// An adapter of yours, for a framework that has none here, is [sluice.Declare] and [sluice.Do], and maybe [Contain], by
// which a tool's runtime.Goexit does not end the framework's goroutine. docs/langchaingo.md is one, without Contain.
//
// # Undo
//
// [Undo] takes back what tools have done, call by call or for a whole group, also after a restart: a tool leaves data
// by [ReportUndo] that say how. docs/undo.md shows it.
//
// # Formats
//
// A [Format] speaks a provider's format with the usual bounds: [OpenAIChat], [OpenAIResponses],
// [Anthropic] and [Gemini]. [Format.With] makes a [Codec] with others, and with the [Names] that tools
// have for models where their own do not fit. Servers that imitate a provider are taken as they are:
// calls are told apart by their place in the message, so ids may be missing, or several the same.
// Each has a page, with a whole loop and what is particular to it: docs/openai-chat.md,
// docs/openai-responses.md, docs/anthropic.md and docs/gemini.md.
//
// What a Codec does not know it leaves alone: it is in [Message.Echo], byte for byte, and so are
// numbers, the order of members, and what a provider's own tools did. (When a request is made of it,
// json.Marshal may write a character as an escape, which says the same.) A malformed call spoils no
// other: it is an [Asked] with an Err, which its answer tells the model. What makes the whole message
// unreadable, such as broken JSON around the calls, is an error of Parse.
//
// # Streams
//
// [ReadMessage] reads an answer from a response, whole or streamed. A [Stream] makes the same [Message] of a
// streamed answer that is shown while it comes, cut anywhere. Arguments that were cut off, by a limit of tokens
// or because the stream broke, never run.
package agent
