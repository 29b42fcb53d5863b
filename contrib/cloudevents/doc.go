// Package sluicecloudevents writes events of tool calls as CloudEvents 1.0, in structured JSON, for brokers and
// webhooks that take those. It needs the standard library alone.
//
//	enc, err := sluicecloudevents.NewEncoder(sluicecloudevents.Config{Source: "https://example.com/agents/planner"})
//	sink := sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
//		body, err := enc.Encode(e)
//		...                                                  // send it as sluicecloudevents.ContentType
//	})
//	async, err := sluice.NewAsyncSink(sink, sluice.AsyncSinkConfig{}) // so that calls do not wait for the broker
//
// A tool.completed is
//
//	{
//	  "specversion": "1.0",
//	  "id": "LLJZO5PE5NEWY-1zb/3",
//	  "source": "https://example.com/agents/planner",
//	  "type": "io.github.sluice-go.tool.completed.v1",
//	  "subject": "search",
//	  "time": "2026-11-30T12:00:00.25Z",
//	  "datacontenttype": "application/json",
//	  "sequence": "0000000003",
//	  "partitionkey": "LLJZO5PE5NEWY-1zb",
//	  "data": {"event": "tool.completed", "tool_name": "search", ...}
//	}
//
// data is the event as sluice.Event's own JSON has it: without arguments and results, unless the sink is
// sluice.WithPayloads(sink, ...), and without what tools say of their errors, if it is
// sluice.WithoutErrorText(sink).
//
//   - id is that of an event of a call wherever it is written again: a broker can tell it from a new one.
//   - subject is the tool; outside calls the limit, rate or breaker that changed.
//   - sequence orders the events of one call, and partitionkey keeps them together. Events outside calls have neither.
//
// A made-up tool name is in subject and data as the caller gave it, without control characters: it is no name to route
// by.
package sluicecloudevents
