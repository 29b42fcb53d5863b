// Package agent takes a model's tool calls to its answers: it parses what the model said, and renders
// what the calls gave in the form that the model's provider wants. It needs no provider's SDK, and
// beside package sluice nothing but the standard library.
//
//	m, err := agent.Anthropic.Parse(body)   // the provider's answer
//	if m.Done() {
//		return m.Text()
//	}
//	history = append(history, m.Echo...)    // the model's own message, the same bytes
//	answers, err := agent.Anthropic.Render(m, replies) // one Reply for each of m.Calls
//	history = append(history, answers...)
//
// # Formats
//
// A [Format] speaks a provider's format with the usual bounds: [OpenAIChat], [OpenAIResponses],
// [Anthropic] and [Gemini]. [Format.With] makes a [Codec] with others, and with the [Names] that tools
// have for models where their own do not fit. Servers that imitate a provider are taken as they are:
// calls are told apart by their place in the message, so ids may be missing, or several the same.
//
// What a Codec does not know it leaves alone: it is in [Message.Echo], byte for byte, and so are
// numbers, the order of members, and what a provider's own tools did. A malformed call spoils no other:
// it is an [Asked] with an Err, which its answer tells the model. What makes the whole message
// unreadable, such as broken JSON around the calls, is an error of Parse.
//
// # Streams
//
// A [Stream] makes the same [Message] of a streamed answer, cut anywhere. Arguments that were cut off,
// by a limit of tokens or because the stream broke, never run.
package agent
