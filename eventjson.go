package sluice

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/payload"
)

// eventSchema is raised when a field changes its meaning or goes.
const eventSchema = 1

// MarshalJSON writes one JSON object on one line. A field that has nothing to say is
// left out, except that each event of a call has tool_name, action_id (the call's id),
// pipeline_run_id, request_id (null if there is none) and timestamp (RFC 3339 in UTC,
// nanoseconds); event_id is the call's key, a slash and seq, and no other event of any
// process has it. Durations are in milliseconds; retry_after_ms is rounded up, so that a
// retry is never early.
//
// Control, bidirectional and invisible characters of names and messages are escaped.
// Arguments and results are written only as [WithPayloads] left them.
func (e Event) MarshalJSON() ([]byte, error) {
	return appendEvent(make([]byte, 0, 768), &e), nil
}

// appendEvent writes e without reflection. The order of the fields is fixed.
func appendEvent(b []byte, e *Event) []byte {
	c := &e.Call
	inCall := e.CallKey != 0 || c.ID != "" || strings.HasPrefix(string(e.Kind), "tool.")
	b = jsonx.AppendString(append(b, `{"type":`...), string(e.Kind), maxName)
	if inCall {
		b = append(b, `,"event_id":`...)
		if e.CallKey != 0 {
			b = append(e.CallKey.append(append(b, '"')), '/')
		} else { // made by hand
			b = jsonx.AppendString(b, c.ID, maxName)
			b = append(b[:len(b)-1], '/')
		}
		b = append(strconv.AppendUint(b, uint64(e.Seq), 10), '"')
		b = strconv.AppendUint(append(b, `,"seq":`...), uint64(e.Seq), 10)
	}
	b = strconv.AppendInt(append(b, `,"schema_version":`...), eventSchema, 10)
	b = append(jsonx.AppendTime(append(b, `,"timestamp":"`...), e.Time), '"')
	if inCall {
		b = jsonx.AppendString(append(b, `,"tool_name":`...), c.Tool, maxName)
		b = appendText(b, `,"tool_type":`, c.Type)
		b = jsonx.AppendString(append(b, `,"action_id":`...), c.ID, maxName)
		b = appendKey(b, `,"call_key":"`, e.CallKey)
		b = appendText(b, `,"parent_id":`, e.ParentID)
		b = appendKey(b, `,"parent_key":"`, e.ParentKey)
	} else {
		b = appendText(b, `,"tool_name":`, c.Tool)
	}
	b = appendPipeline(b, c.Pipeline, inCall)
	if inCall {
		if c.Attempt != 0 {
			b = strconv.AppendInt(append(b, `,"attempt":`...), int64(c.Attempt), 10)
		}
		b = strconv.AppendInt(append(b, `,"priority":`...), int64(c.Priority), 10)
	}

	switch e.Kind {
	case ToolInvoked:
		b = append(b, `,"payload_summary":`...)
		b = appendPayload(b, c.Input)
		b = appendBehavior(b, c.Pipeline)
	case ToolCompleted:
		b = appendDuration(b, `,"duration_ms":`, e.Duration)
		b = appendOutputSummary(b, e)
	case ToolFailed:
		b = appendDuration(b, `,"duration_ms":`, e.Duration)
	case ToolDenied:
		b = appendDuration(b, `,"duration_ms":`, e.Duration)
		b = appendDenial(b, e)
	}
	if inCall && e.Elapsed > 0 {
		b = appendDuration(b, `,"elapsed_ms":`, e.Elapsed)
	}
	if e.Queued > 0 || e.Kind == ToolStarted || isTerminal(e.Kind) {
		b = appendDuration(b, `,"queue_wait_ms":`, e.Queued)
	}
	b = appendCount(b, `,"input_bytes":`, e.InputBytes)
	b = appendCount(b, `,"output_bytes":`, e.OutputBytes)
	if e.Err != nil {
		b = appendError(b, e)
	}
	b = appendText(b, `,"by":`, e.By)
	if e.RetryAfter > 0 {
		b = strconv.AppendInt(append(b, `,"retry_after_ms":`...), errtext.CeilMillis(e.RetryAfter), 10)
	}
	b = appendText(b, `,"from":`, e.From)
	b = appendText(b, `,"to":`, e.To)
	b = appendText(b, `,"key":`, e.Key)
	b = appendText(b, `,"actor":`, e.Actor)
	return append(b, '}')
}

// appendPipeline writes on whose behalf the call runs.
func appendPipeline(b []byte, p *PipelineContext, inCall bool) []byte {
	if p == nil {
		if inCall {
			b = append(b, `,"pipeline_run_id":null,"request_id":null`...)
		}
		return b
	}
	b = appendID(b, `,"pipeline_run_id":`, p.RunID, inCall)
	b = appendID(b, `,"request_id":`, p.RequestID, inCall)
	b = appendText(b, `,"parent_run_id":`, p.ParentRunID)
	b = appendText(b, `,"session_id":`, p.SessionID)
	b = appendText(b, `,"user_id":`, p.UserID)
	b = appendText(b, `,"org_id":`, p.OrgID)
	b = appendText(b, `,"interaction_id":`, p.InteractionID)
	b = appendText(b, `,"tenant":`, p.tenant())
	b = appendText(b, `,"topology":`, p.Topology)
	return appendText(b, `,"service":`, p.Service)
}

func appendBehavior(b []byte, p *PipelineContext) []byte {
	if p == nil || p.ExecutionMode == "" {
		return append(b, `,"behavior":null`...)
	}
	return appendText(b, `,"behavior":`, p.ExecutionMode)
}

// appendOutputSummary says what kind of result there was. Sluice's tools have no
// artifacts and no undo data; the fields stand for readers that expect them.
func appendOutputSummary(b []byte, e *Event) []byte {
	b = append(b, `,"output_summary":{"success":`...)
	b = strconv.AppendBool(b, e.Err == nil)
	b = append(b, `,"has_data":`...)
	b = strconv.AppendBool(b, e.hasData || e.Result.Value != nil || e.OutputBytes > 0)
	b = append(b, `,"has_error":`...)
	b = strconv.AppendBool(b, e.Err != nil)
	b = append(b, `,"has_artifacts":false,"has_undo_metadata":false},"artifacts_count":0`...)
	if e.Result.Value != nil {
		b = appendPayload(append(b, `,"output":`...), e.Result.Value)
	}
	return b
}

// appendDenial says why a rule refused. Which modes would have been allowed only the
// rule knows.
func appendDenial(b []byte, e *Event) []byte {
	why := ""
	if x, ok := e.Err.(*Error); ok && x != nil && x.Cause != nil && codeOf(&Event{Err: x.Cause}) == errtext.ToolError {
		why = errwalk.Text(x.Cause)
	}
	if why == "" {
		why = string(errtext.Denied)
	}
	b = jsonx.AppendString(append(b, `,"reason":`...), why, maxMessage)
	b = appendBehavior(b, e.Call.Pipeline)
	return append(b, `,"allowed_behaviors":null`...)
}

// appendError says what went wrong, and whether to try again: that makes sense after a
// refusal for a reason that passes, after an upstream's throttle, or if somebody said when.
func appendError(b []byte, e *Event) []byte {
	code := codeOf(e)
	b = append(append(b, `,"error_code":"`...), code...)
	b = append(b, `","error_message":`...)
	b = jsonx.AppendString(b, messageOf(code, e.Err), maxMessage+len("…"))
	b = append(b, `,"retryable":`...)
	return strconv.AppendBool(b, e.Kind == ToolRetrying || e.overload || passes(e.Err, code, e.RetryAfter))
}

// appendPayload writes a value that WithPayloads made: JSON, or a string of cut JSON.
// Anything else is foreign and is not written.
func appendPayload(b []byte, v any) []byte {
	switch v := v.(type) {
	case json.RawMessage:
		if out, ok := payload.AppendJSON(b, v); ok {
			return out
		}
	case string:
		return jsonx.AppendString(b, v, len(v))
	}
	return append(b, "null"...)
}

func appendKey(b []byte, key string, k CallKey) []byte {
	if k == 0 {
		return b
	}
	return append(k.append(append(b, key...)), '"')
}

func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return jsonx.AppendString(append(b, key...), s, maxName)
}

func appendID(b []byte, key, s string, always bool) []byte {
	if s == "" && always {
		return append(append(b, key...), "null"...)
	}
	return appendText(b, key, s)
}

func appendCount(b []byte, key string, n int) []byte {
	if n <= 0 {
		return b
	}
	return strconv.AppendInt(append(b, key...), int64(n), 10)
}

func appendDuration(b []byte, key string, d time.Duration) []byte {
	return jsonx.AppendMillis(append(b, key...), d)
}
