package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

const finalText = "Oslo: sunny, 7 °C; Bergen: rain, 9 °C. A euro is 11.75 kroner. Your hotel is booked: Oslo, 2 nights."

const wholeTranscript = `%v, %s
  user   Oslo or Bergen, for two nights? Book a hotel where the weather is better.
  model  I look at the weather, flights & money.
         weather {"city":"Oslo"}
           sunny, 7 °C
         weather {"city":"Bergen"}, waited 500ms for rate/weather calls per second
           rain, 9 °C
         flights {"to":"Oslo"}
           [{"number":"SK 882","departs":"09:40"},{"number":"DY 1061","departs":"16:05"}]
         exchange_rates {"from":"EUR","to":"NOK"}
           {"type":"unknown_tool","message":"there is no tool \"exchange_rates\"","retryable":false}
  model  exchange_rate {"from":"EUR","to":"NOK"}, again after: the bank does not answer
           11.75
         book_hotel %s
           {"type":"invalid_arguments","message":"the arguments do not fit the tool: %s","retryable":false}
  model  book_hotel {"city":"Oslo","nights":2}
           booked: Oslo, 2 nights
  model  ` + finalText + "\n"

// combinations are all conversations, with what differs in each.
var combinations = []struct {
	format          agent.Format
	stream          bool
	arguments, told string
	messages        int           // in the history
	took            time.Duration // with a model that writes at once
	parts           time.Duration // how many pauses a streamed conversation has beside, of 1 ms
}{
	{agent.OpenAIChat, false, `{"city":"Oslo","nights":2`, "$ ends at byte 25: must have a comma or the end of the object there", 12, 810 * time.Millisecond, 0},
	{agent.OpenAIChat, true, `{"city":"Oslo","nights":2`, "$ ends at byte 25: must have a comma or the end of the object there", 12, 810 * time.Millisecond, 26 + 14 + 9 + 19},
	{agent.Anthropic, false, `{"city":"Oslo","nights":"two"}`, "$.nights is a string: must be a whole number from -9223372036854775808 to 9223372036854775807", 8, 810 * time.Millisecond, 0},
	{agent.Anthropic, true, `{"city":"Oslo","nights":"two"}`, "$.nights is a string: must be a whole number from -9223372036854775808 to 9223372036854775807", 8, 810 * time.Millisecond, 41 + 24 + 16 + 26},
}

// inEach runs fn for each conversation, on virtual time.
func inEach(t *testing.T, fn func(t *testing.T, format agent.Format, stream bool)) {
	for _, c := range combinations {
		t.Run(fmt.Sprint(c.format, c.stream), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { fn(t, c.format, c.stream) })
		})
	}
}

// The whole program: what it prints, and how long it takes.
func TestRun(t *testing.T) {
	for _, c := range combinations {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			began := time.Now()
			require.NoError(t, run(t.Context(), &out, pipes(), c.format, c.stream))
			how := map[bool]string{false: "whole", true: "streamed"}[c.stream]
			require.Equal(t, fmt.Sprintf(wholeTranscript, c.format, how, c.arguments, c.told), out.String())
			// Four answers of the model, 20 ms each; the second weather, which waits for 500 ms and takes 20;
			// a rate that fails after 30 ms, is asked for again 100 ms later and takes 30; and a hotel, 50 ms.
			require.Equal(t, c.took+c.parts*time.Millisecond, time.Since(began))
		})
	}
}

// begin returns an assistant, the history with the question, and a context whose events are recorded.
func begin(t *testing.T, format agent.Format, stream bool) (*assistant, []json.RawMessage, context.Context, *sluice.Recorder) {
	pc, rec := sluice.NewTestPipelineContext()
	ctx := sluice.WithPipelineContext(t.Context(), pc)
	log := &transcript{w: io.Discard, failed: map[string]error{}}
	a, stop, err := newAssistant(log, newExecutor(log), pipes(), format, stream)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, stop(context.Background()))
		require.NoError(t, rec.Check())
	})
	return a, []json.RawMessage{text("user", trip.question)}, ctx, rec
}

// lastText is the text of a history's last message.
func lastText(t *testing.T, format agent.Format, history []json.RawMessage) string {
	m, err := format.Parse(history[len(history)-1])
	require.NoError(t, err)
	return m.Text()
}

// What is said does not depend on whether it comes in parts, byte for byte; and calls happened as often as they should.
func TestConversation(t *testing.T) {
	histories := map[agent.Format][]json.RawMessage{}
	for _, c := range combinations {
		synctest.Test(t, func(t *testing.T) {
			a, history, ctx, rec := begin(t, c.format, c.stream)
			history, err := a.converse(ctx, history)
			require.NoError(t, err)
			require.Len(t, history, c.messages)
			require.Equal(t, finalText, lastText(t, c.format, history))
			started := map[string]int{}
			for _, e := range rec.Events() {
				if e.Kind == sluice.ToolStarted {
					started[e.Call.Tool]++
				}
			}
			require.Equal(t, map[string]int{"weather": 2, "flights": 1, "exchange_rate": 2, "book_hotel": 1}, started)
			if before := histories[c.format]; before != nil {
				require.Equal(t, before, history)
			}
			histories[c.format] = history
		})
	}
	require.Len(t, histories, 2)
}

// A conversation that is cancelled, at whatever instant, leaves a history with which it goes on to its end.
func TestConversation_Cancelled(t *testing.T) {
	const step = 13 * time.Millisecond
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, c := range combinations {
		whole := c.took + c.parts*time.Millisecond
		lengths := map[int]bool{}
		for from := time.Duration(0); from < whole; from += step {
			after := from + time.Duration(random.Int64N(int64(min(step, whole-from))))
			synctest.Test(t, func(t *testing.T) {
				a, history, ctx, _ := begin(t, c.format, c.stream)
				left := errors.New("the user has left")
				cancelled, cancel := context.WithCancelCause(ctx)
				time.AfterFunc(after, func() { cancel(left) })
				history, err := a.converse(cancelled, history)
				require.ErrorIs(t, err, left, "after %v", after)
				lengths[len(history)] = true

				history, err = a.converse(ctx, history)
				require.NoError(t, err, "after %v", after)
				require.Equal(t, finalText, lastText(t, c.format, history))
			})
		}
		require.Len(t, lengths, 4, "it was cancelled in each turn")
	}
}

// A server that breaks off in the middle of an answer leaves the history as it was.
func TestConversation_AnswerBreaksOff(t *testing.T) {
	inEach(t, func(t *testing.T, format agent.Format, stream bool) {
		on := pipes()
		inner := (&model{}).handler()
		url, stop, err := serve(on, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			inner.ServeHTTP(w, r)
		}))
		require.NoError(t, err)
		defer stop()
		a, history, ctx, _ := begin(t, format, stream)
		a.model = &client{http: &http.Client{Transport: &http.Transport{DialContext: on.dial}}, url: url, format: format, stream: stream}
		defer a.model.http.CloseIdleConnections()
		got, err := a.converse(ctx, history)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, history, got)
	})
}

// A model that calls tools for ever is left after ten turns, with a history that has an answer to each call.
func TestConversation_TooManyTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := pipes()
		url, stop, err := serve(on, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, `{"choices":[{"message":{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"flights","arguments":"{\"to\":\"Oslo\"}"}}]}}]}`)
		}))
		require.NoError(t, err)
		defer stop()
		a, history, ctx, _ := begin(t, agent.OpenAIChat, false)
		a.model = &client{http: &http.Client{Transport: &http.Transport{DialContext: on.dial}}, url: url}
		defer a.model.http.CloseIdleConnections()
		history, err = a.converse(ctx, history)
		require.Equal(t, errTooManyTurns, err)
		require.Len(t, history, 21)
	})
}

// What the model refuses is an error with its words.
func TestConversation_Refused(t *testing.T) {
	inEach(t, func(t *testing.T, format agent.Format, stream bool) {
		a, _, ctx, _ := begin(t, format, stream)
		history := []json.RawMessage{text("assistant", "hello")}
		got, err := a.converse(ctx, history)
		require.ErrorContains(t, err, "the model answers 400 Bad Request: {")
		require.ErrorContains(t, err, "must be the user's")
		require.Equal(t, history, got)

		history = []json.RawMessage{json.RawMessage("{")}
		got, err = a.converse(ctx, history)
		require.ErrorContains(t, err, "unexpected end of JSON input")
		require.Equal(t, history, got)
	})
}

// The loop is as short as the program says that it is.
func TestLoopIsShort(t *testing.T) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "loop.go", nil, 0)
	require.NoError(t, err)
	found := 0
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			require.Equal(t, "converse", fn.Name.Name, "loop.go has the loop and nothing else")
			found = fset.Position(fn.Body.Rbrace).Line - fset.Position(fn.Body.Lbrace).Line - 1
		}
	}
	require.NotZero(t, found)
	require.LessOrEqual(t, found, 25, "lines between the braces")
}

// pipes is a network in memory, so that a conversation fits into a bubble.
func pipes() network {
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	return network{
		listen: func() (net.Listener, error) { return l, nil },
		dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			select {
			case l.conns <- theirs:
				return ours, nil
			case <-l.closed:
				return nil, net.ErrClosed
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	}
}

type pipeListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "model.test" }
