package eventtext

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each step has the fields of its own, and one line is one object whatever the texts hold.
func TestEachStepHasItsFields(t *testing.T) {
	for step, want := range map[Step]string{
		Other:     ``,
		Invoked:   `"payload_summary":null,"behavior":null`,
		Started:   `"queue_wait_ms":0`,
		Completed: `"duration_ms":1000,"output_summary":{"success":true,"has_data":true,`,
		Failed:    `"duration_ms":1000,"queue_wait_ms":0,"error_code":"timeout","error_message":"a\nb","retryable":true`,
		Denied:    `"reason":"no","behavior":null,"allowed_behaviors":null`,
	} {
		e := Event{Kind: "k\u2028\n", Step: step, InCall: true, ID: "i\x00", Duration: time.Second, Why: "no", HasData: true}
		if step == Failed {
			e.Err, e.Code, e.Message, e.Retryable = true, "timeout", "a\nb", true
		}
		b := AppendJSON(nil, &e)
		require.True(t, json.Valid(b), "%s", b)
		assert.NotContains(t, string(b), "\n", "it is one line")
		assert.Contains(t, string(b), `"type":"k\u2028\n","event_id":"i\u0000/0"`)
		assert.Contains(t, string(b), want)
	}
}

// What goes on says for how long it has.
func TestDurationOfWhatGoesOn(t *testing.T) {
	assert.Contains(t, string(AppendJSON(nil, &Event{InCall: true, Duration: time.Second})), `"duration_ms":1000`)
	assert.NotContains(t, string(AppendJSON(nil, &Event{InCall: true})), `"duration_ms"`)
}

// A value is written only as package payload made it.
func TestForeignValuesAreNotWritten(t *testing.T) {
	for want, v := range map[string]any{
		`"payload_summary":{"a":1}`: json.RawMessage(`{"a": 1}`),
		`"payload_summary":"cut…"`:  "cut…",
		`"payload_summary":null,`:   struct{ Secret string }{"canary"},
	} {
		b := AppendJSON(nil, &Event{Step: Invoked, Value: v})
		assert.Contains(t, string(b), want)
		assert.NotContains(t, string(b), "canary")
	}
}

// A log record says nothing of values, and leaves out what is empty or goes without saying.
func TestAttrsLeaveOutWhatIsEmpty(t *testing.T) {
	e := Event{Kind: "tool.invoked", Step: Invoked, Value: "canary", Priority: 5, Standard: true, From: "a"}
	assert.Equal(t, "[event=tool.invoked from=a]", slog.GroupValue(Attrs(nil, &e)...).String())
	e.Standard, e.Err, e.Message = false, true, "m"
	assert.Equal(t, "[event=tool.invoked priority=5 code= err=m from=a]", slog.GroupValue(Attrs(nil, &e)...).String())
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Lines come whole and one at a time, and a short write is an error.
func TestLinesAreWhole(t *testing.T) {
	var all bytes.Buffer
	l := Lines{W: writerFunc(all.Write)}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				assert.NoError(t, l.Write(&Event{Kind: strings.Repeat("x", 200)}))
			}
		})
	}
	wg.Wait()
	lines := strings.Split(strings.TrimSuffix(all.String(), "\n"), "\n")
	require.Len(t, lines, 200)
	for _, line := range lines {
		require.True(t, json.Valid([]byte(line)), line)
	}
	l.W = writerFunc(func(b []byte) (int, error) { return len(b) - 1, nil })
	assert.ErrorIs(t, l.Write(&Event{}), io.ErrShortWrite)
	broken := errors.New("broken")
	l.W = writerFunc(func([]byte) (int, error) { return 0, broken })
	assert.ErrorIs(t, l.Write(&Event{}), broken)
}

// levels is a handler that wants records from min on, and keeps the levels of those it gets.
type levels struct {
	slog.Handler
	min slog.Level
	got []slog.Level
}

func (h *levels) Enabled(_ context.Context, l slog.Level) bool { return l >= h.min }

func (h *levels) Handle(_ context.Context, r slog.Record) error {
	h.got = append(h.got, r.Level)
	return io.EOF
}

// A log record is as urgent as how the call ended, and only what the handler wants reaches it.
func TestLogsHaveLevels(t *testing.T) {
	events := []Event{{Step: Started}, {Step: Completed}, {Step: Denied}, {Step: Failed, Err: true, Code: errtext.ToolError},
		{Step: Failed, Err: true, Code: errtext.Panic}, {Step: Failed, Err: true, Code: errtext.Goexit}, {Step: Other, Err: true, Code: errtext.Panic}}
	for min, want := range map[slog.Level][]slog.Level{
		slog.LevelDebug: {slog.LevelDebug, slog.LevelDebug, slog.LevelWarn, slog.LevelWarn, slog.LevelError, slog.LevelError, slog.LevelDebug},
		slog.LevelWarn:  {slog.LevelWarn, slog.LevelWarn, slog.LevelError, slog.LevelError},
		slog.LevelError: {slog.LevelError, slog.LevelError}, slog.LevelError + 1: nil,
	} {
		h := &levels{min: min}
		l := Log{h}
		n := 0
		for i := range events {
			if err := l.Write(t.Context(), &events[i]); err != nil {
				require.ErrorIs(t, err, io.EOF)
				n++
			}
		}
		assert.Equal(t, want, h.got, "from %v on", min)
		assert.Len(t, want, n, "the handler's errors are the log's")
		assert.Equal(t, min <= slog.LevelDebug, l.Enabled(false))
		assert.Equal(t, min <= slog.LevelError, l.Enabled(true), "a failure may be a panic")
	}
}
