package eventtext

import (
	"encoding/json"
	"io"
	"strconv"
	"sync"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/payload"
)

// schema is raised when a field changes its meaning or goes.
const schema = 1

// AppendJSON appends e as one JSON object on one line.
func AppendJSON(b []byte, e *Event) []byte {
	b = jsonx.AppendString(append(b, `{"type":`...), e.Kind, errtext.MaxName)
	if e.InCall {
		b = appendEventID(append(b, `,"event_id":`...), e)
		b = strconv.AppendUint(append(b, `,"seq":`...), uint64(e.Seq), 10)
	}
	b = strconv.AppendInt(append(b, `,"schema_version":`...), schema, 10)
	b = append(jsonx.AppendTime(append(b, `,"timestamp":"`...), e.Time), '"')
	if e.InCall {
		b = appendCall(b, e)
	} else {
		b = appendText(b, `,"tool_name":`, e.Tool)
	}
	b = appendRun(b, &e.Run, e.InCall)
	if e.InCall {
		if e.Attempt != 0 {
			b = strconv.AppendInt(append(b, `,"attempt":`...), int64(e.Attempt), 10)
		}
		b = strconv.AppendInt(append(b, `,"priority":`...), int64(e.Priority), 10)
	}
	b = appendStep(b, e)
	if e.InCall && e.Elapsed > 0 {
		b = jsonx.AppendMillis(append(b, `,"elapsed_ms":`...), e.Elapsed)
	}
	if e.Queued > 0 || e.Step == Started || e.Step.ends() {
		b = jsonx.AppendMillis(append(b, `,"queue_wait_ms":`...), e.Queued)
	}
	b = appendCount(b, `,"input_bytes":`, e.InputBytes)
	b = appendCount(b, `,"output_bytes":`, e.OutputBytes)
	if e.Err {
		b = append(append(b, `,"error_code":"`...), e.Code...)
		b = jsonx.AppendString(append(b, `","error_message":`...), e.Message, errtext.MaxMessage+len("…"))
		b = strconv.AppendBool(append(b, `,"retryable":`...), e.Retryable)
	}
	b = appendText(b, `,"by":`, e.By)
	if e.RetryAfter > 0 {
		b = strconv.AppendInt(append(b, `,"retry_after_ms":`...), errtext.CeilMillis(e.RetryAfter), 10)
	}
	b = appendText(b, `,"from":`, e.From)
	b = appendText(b, `,"to":`, e.To)
	b = appendText(b, `,"key":`, e.LimitKey)
	b = appendText(b, `,"actor":`, e.Actor)
	if len(e.Attrs) > 0 {
		b = appendSaid(b, e.Attrs)
	}
	return append(b, '}')
}

// appendEventID appends the call's key, or its id if the event was made by hand, and its place
// in the call.
func appendEventID(b []byte, e *Event) []byte {
	if e.Key != 0 {
		b = ids.AppendKey(append(b, '"'), e.Key)
	} else {
		b = jsonx.AppendString(b, e.ID, errtext.MaxName)
		b = b[:len(b)-1]
	}
	return append(strconv.AppendUint(append(b, '/'), uint64(e.Seq), 10), '"')
}

// appendCall says which call e is about.
func appendCall(b []byte, e *Event) []byte {
	b = jsonx.AppendString(append(b, `,"tool_name":`...), e.Tool, errtext.MaxName)
	b = appendText(b, `,"tool_type":`, e.ToolType)
	b = jsonx.AppendString(append(b, `,"action_id":`...), e.ID, errtext.MaxName)
	b = appendKey(b, `,"call_key":"`, e.Key)
	b = appendText(b, `,"parent_id":`, e.ParentID)
	return appendKey(b, `,"parent_key":"`, e.ParentKey)
}

// appendRun says on whose behalf the call runs.
func appendRun(b []byte, r *Run, inCall bool) []byte {
	b = appendID(b, `,"pipeline_run_id":`, r.ID, inCall)
	b = appendID(b, `,"request_id":`, r.Request, inCall)
	b = appendText(b, `,"parent_run_id":`, r.Parent)
	b = appendText(b, `,"session_id":`, r.Session)
	b = appendText(b, `,"user_id":`, r.User)
	b = appendText(b, `,"org_id":`, r.Org)
	b = appendText(b, `,"interaction_id":`, r.Interaction)
	b = appendText(b, `,"tenant":`, r.Tenant)
	b = appendText(b, `,"topology":`, r.Topology)
	return appendText(b, `,"service":`, r.Service)
}

// appendStep says what only events of this step have.
func appendStep(b []byte, e *Event) []byte {
	if e.Step.ends() || e.Duration > 0 {
		b = jsonx.AppendMillis(append(b, `,"duration_ms":`...), e.Duration)
	}
	switch e.Step {
	case Invoked:
		b = appendValue(append(b, `,"payload_summary":`...), e.Value)
		return appendID(b, `,"behavior":`, e.Run.Behavior, true)
	case Completed:
		return appendOutput(b, e)
	case Denied: // which modes would have been allowed only the rule knows
		b = jsonx.AppendString(append(b, `,"reason":`...), e.Why, errtext.MaxMessage)
		b = appendID(b, `,"behavior":`, e.Run.Behavior, true)
		return append(b, `,"allowed_behaviors":null`...)
	}
	return b
}

// appendOutput says what kind of result there was. There are no artifacts and no undo data; the
// fields stand for readers that expect them.
func appendOutput(b []byte, e *Event) []byte {
	b = strconv.AppendBool(append(b, `,"output_summary":{"success":`...), !e.Err)
	b = strconv.AppendBool(append(b, `,"has_data":`...), e.HasData)
	b = strconv.AppendBool(append(b, `,"has_error":`...), e.Err)
	b = append(b, `,"has_artifacts":false,"has_undo_metadata":false},"artifacts_count":0`...)
	if e.Value != nil {
		b = appendValue(append(b, `,"output":`...), e.Value)
	}
	return b
}

// appendValue appends what package payload made: JSON, or a string of cut JSON. Anything else
// is foreign and is not written.
func appendValue(b []byte, v any) []byte {
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

func appendKey(b []byte, field string, key uint64) []byte {
	if key == 0 {
		return b
	}
	return append(ids.AppendKey(append(b, field...), key), '"')
}

func appendText(b []byte, field, s string) []byte {
	if s == "" {
		return b
	}
	return jsonx.AppendString(append(b, field...), s, errtext.MaxName)
}

// appendID appends a text that is null if it is empty, or left out unless it must be there.
func appendID(b []byte, field, s string, always bool) []byte {
	if s == "" && always {
		return append(append(b, field...), "null"...)
	}
	return appendText(b, field, s)
}

func appendCount(b []byte, field string, n int) []byte {
	if n <= 0 {
		return b
	}
	return strconv.AppendInt(append(b, field...), int64(n), 10)
}

// Lines writes events to W, each by one call of Write, one after the other. It is safe for
// concurrent use.
type Lines struct {
	W    io.Writer
	bufs sync.Pool // of *[]byte
	mu   sync.Mutex
}

// Write writes e. A short write is an error.
func (l *Lines) Write(e *Event) error {
	buf, _ := l.bufs.Get().(*[]byte)
	if buf == nil {
		buf = new(make([]byte, 0, 1024))
	}
	*buf = append(AppendJSON((*buf)[:0], e), '\n')
	err := l.line(*buf)
	if cap(*buf) <= 64<<10 {
		l.bufs.Put(buf)
	}
	return err
}

func (l *Lines) line(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.W.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}
