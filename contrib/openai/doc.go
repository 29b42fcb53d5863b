// Package sluiceopenai has the tool calls of github.com/openai/openai-go run through a Sluice executor: limits,
// queue, breakers, timeouts and events hold for them, and every call has an answer that the API takes. The loop stays
// yours; it is one line of it, for chat completions and for responses:
//
//	turn, err := sluiceopenai.Chat(ctx, runner, agent.CodecConfig{}, completion)
//
// Append turn.Messages to the history, and ask again unless turn.Done. The tools are the registry's: [ChatTools] and
// [ResponseTools] list them. The [agent.Runner] says how a turn is run: how many calls at once, until when, whether a
// failure ends the others, and how wrong calls are put right. On whose behalf they run is said by the context, see
// [sluice.WithPipelineContext].
//
// # What is kept
//
// What the model has said goes back the same bytes, read from the library's RawJSON, with members that the library
// does not know, and numbers of any size. Ids are the calls' own; they may be missing, or several the same. Answers
// stand in the order of the calls. Context values, cancellation and deadlines reach the tools. Schemas are listed as
// they are registered, or in strict form if agent.CodecConfig says so. Custom tools get their text as a JSON string.
// Calls that are malformed or were cut off, because the answer was too long, do not run, and the model reads why.
//
// # What a refusal looks like
//
// A call that is refused, fails, panics or exits ends no turn. In the place of its result the model reads
//
//	{"error":{"type":"rate_limited","message":"too many calls for now; try again in 2 s","retryable":true,"retry_after_ms":1200}}
//
// which is [sluice.ModelText]: no names of limits, no stack, no value of a panic. [agent.Turn] has the errors, in
// Replies. A name that the model has made up is refused, and registered nowhere.
//
// # What does not work
//
// Of an [openai.ChatCompletionAccumulator] the model's message is made of what that keeps: role, content, refusal and
// function calls. Where a stream has more, as the reasoning of other servers, or custom calls, give the RawJSON of
// each chunk to an [agent.Stream]; its Message is for [agent.Runner.Answer]. Of several choices the first counts. The
// message's function_call of old is left alone. What else OpenAI's responses ask you to carry out, as
// computer_call, is in turn.Message.Others: answering it is yours.
package sluiceopenai
