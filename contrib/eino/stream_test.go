package sluiceeino

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudwego/eino/schema"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// last is the last event of a tool's calls.
func last(t testing.TB, rec *sluice.Recorder, name string) sluice.Event {
	events := rec.Events(name)
	require.NotEmpty(t, events)
	return events[len(events)-1]
}

// A stream holds its slot until its last chunk, and not until its reader is closed: another call waits so long.
func TestStreamHoldsItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{Interceptors: limit(1)})
		n := newNode(t, e, Config{},
			streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) { return sends(ctx, 5), nil }),
			invokable(t, "search", func(context.Context, query) (string, error) { return "3 hits", nil }))
		began := time.Now()
		sr := open(t, t.Context(), n, "stream", "go")
		defer sr.Close()
		waited := make(chan time.Duration)
		go func() {
			out, err := n.Invoke(context.Background(), calls("search", "go"))
			if err == nil && out[0].Content == "3 hits" {
				waited <- time.Since(began)
			}
			close(waited)
		}()
		synctest.Wait()
		require.Equal(t, 1, e.Snapshot().InFlight)
		require.Equal(t, 1, e.Snapshot().Queued)
		all, err := rest(sr)
		require.NoError(t, err)
		require.Equal(t, "0 1 2 3 4 ", all)
		require.Equal(t, 40*time.Millisecond, <-waited)
		_, err = sr.Recv()
		require.Equal(t, io.EOF, err, "and again")
		require.Equal(t, sluice.ToolCompleted, last(t, rec, "stream").Kind)
		require.Equal(t, 40*time.Millisecond, last(t, rec, "stream").Duration)
	})
}

// When the reader of a stream learns that it has ended, the call has ended, and its sink has been told.
func TestStreamEndsWithItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: slowSink{}}))
		defer e.Close(context.Background())
		n := newNode(t, e, Config{}, streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
			return schema.StreamReaderFromArray([]string{"3 ", "hits"}), nil
		}))
		began := time.Now()
		sr := open(t, t.Context(), n, "stream", "go")
		defer sr.Close()
		require.Equal(t, "3 ", next(t, sr))
		require.Equal(t, "hits", next(t, sr))
		require.Zero(t, time.Since(began))
		_, err := sr.Recv()
		require.Equal(t, io.EOF, err)
		require.Equal(t, time.Second, time.Since(began))
		require.Zero(t, e.Snapshot().InFlight)
	})
}

// slowSink takes a second to hear that a call has completed.
type slowSink struct{}

func (slowSink) Enabled(k sluice.EventKind) bool { return k == sluice.ToolCompleted }
func (slowSink) Emit(context.Context, *sluice.Event) error {
	time.Sleep(time.Second)
	return nil
}

// A tool that ends its stream without an error because its context has ended has not ended it: who reads later
// learns why there is no more.
func TestStreamEndsUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{Timeout: 15 * time.Millisecond})
		n := newNode(t, e, Config{}, streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
			return sends(ctx, 5), nil
		}))
		sr := open(t, t.Context(), n, "stream", "go")
		defer sr.Close()
		require.Equal(t, "0 ", next(t, sr))
		require.Equal(t, "1 ", next(t, sr))
		time.Sleep(time.Second)
		requireRefusal(t, strings.TrimPrefix(next(t, sr), "\n"), "timeout")
		_, err := sr.Recv()
		require.Equal(t, io.EOF, err)

		ctx, cancel := context.WithCancel(t.Context())
		left := open(t, ctx, n, "stream", "go")
		defer left.Close()
		require.Equal(t, "0 ", next(t, left))
		cancel()
		synctest.Wait()
		_, err = left.Recv()
		require.ErrorIs(t, err, context.Canceled)
	})
}

// A stream that has been read to its end leaves nothing, also if its reader is not closed: the bubble would not end.
func TestStreamIsNotClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{})
		n := newNode(t, e, Config{}, streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
			if in.Query == "fail" {
				sr, sw := schema.Pipe[string](1)
				sw.Send("", errDown)
				sw.Close()
				return sr, nil
			}
			return sends(ctx, 2), nil
		}))
		all, err := rest(open(t, t.Context(), n, "stream", "go"))
		require.NoError(t, err)
		require.Equal(t, "0 1 ", all)
		_, err = rest(open(t, t.Context(), n, "stream", "fail"))
		require.ErrorIs(t, err, errDown)
	})
}

// A reader that is closed early gives the slot back with the tool's next chunk, and the tool's context ends at once.
func TestStreamIsClosedEarly(t *testing.T) {
	for name, listens := range map[string]bool{"the tool listens to its context": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, rec := newExecutor(t, sluice.Config{Interceptors: limit(1)})
				ended := make(chan time.Time, 1)
				n := newNode(t, e, Config{}, streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
					context.AfterFunc(ctx, func() { ended <- time.Now() })
					if !listens {
						ctx = context.Background()
					}
					return sends(ctx, 5), nil
				}))
				began := time.Now()
				sr := open(t, t.Context(), n, "stream", "go")
				require.Equal(t, "0 ", next(t, sr))
				time.Sleep(time.Millisecond)
				sr.Close()
				require.Equal(t, time.Millisecond, (<-ended).Sub(began))
				require.NoError(t, e.Close(context.Background()))
				time.Sleep(time.Second) // the tool learns of it when it sends
				x := last(t, rec, "stream")
				require.Equal(t, sluice.ToolCompleted, x.Kind)
				if listens {
					require.Equal(t, time.Millisecond, x.Duration)
				} else {
					require.Equal(t, 10*time.Millisecond, x.Duration, "its code has run until then")
				}
			})
		})
	}
}

// The time of a call is that of its stream, and who reads does not wait for a tool that ignores it: the model reads
// what there was, and that the time was over.
func TestStreamTimesOut(t *testing.T) {
	const timeout = `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`
	for name, listens := range map[string]bool{"the tool listens to its context": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, rec := newExecutor(t, sluice.Config{Timeout: 25 * time.Millisecond})
				n := newNode(t, e, Config{}, streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
					sr, sw := schema.Pipe[string](0)
					go func() {
						defer sw.Close()
						sw.Send("0 ", nil)
						sw.Send("1 ", nil)
						if !listens {
							time.Sleep(time.Hour)
						} else {
							<-ctx.Done()
						}
						sw.Send("too late", nil)
					}()
					return sr, nil
				}))
				began := time.Now()
				out, err := n.Invoke(t.Context(), calls("stream", "go"))
				require.NoError(t, err)
				require.Equal(t, "0 1 \n"+timeout, out[0].Content)
				require.Equal(t, 25*time.Millisecond, time.Since(began))
				synctest.Wait()
				require.Equal(t, "timeout", sluice.CodeOf(last(t, rec, "stream").Err))
				require.Zero(t, e.Snapshot().InFlight)
				time.Sleep(time.Hour) // for the tool
			})
		})
	}
}

// A run that is cancelled ends its streams, with the error of its context. The slot comes back when the tool is done.
func TestStreamIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{Interceptors: limit(1)})
		n := newNode(t, e, Config{}, streamable(t, "stream", func(context.Context, query) (*schema.StreamReader[string], error) {
			return sends(context.Background(), 2), nil
		}))
		ctx, cancel := context.WithCancel(t.Context())
		sr := open(t, ctx, n, "stream", "go")
		defer sr.Close()
		require.Equal(t, "0 ", next(t, sr))
		cancel()
		all, err := rest(sr)
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, all)
		require.Equal(t, 1, e.Snapshot().InFlight)
		_, err = sr.Recv()
		require.Equal(t, io.EOF, err)
		require.NoError(t, e.Close(context.Background()))
		x := last(t, rec, "stream")
		require.Equal(t, "canceled", sluice.CodeOf(x.Err))
		require.Equal(t, 10*time.Millisecond, x.Duration)
	})
}

// What goes wrong in a stream counts against the tool. Its own error is the reader's; a panic of code that eino runs
// while it reads the model reads, without its value.
func TestStreamFails(t *testing.T) {
	for name, c := range map[string]struct {
		convert func(string) (string, error)
		all     string
		err     error
		code    string
	}{
		"error":  {convert: func(string) (string, error) { return "", errDown }, err: errDown, code: "tool_error"},
		"panic":  {convert: func(string) (string, error) { panic("secret") }, all: "\n" + `{"type":"panic","message":"the tool failed","retryable":false}`, code: "panic"},
		"goexit": {convert: func(string) (string, error) { runtime.Goexit(); return "", nil }, all: "\n" + `{"type":"goexit","message":"the tool failed","retryable":false}`, code: "goexit"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, rec := newExecutor(t, sluice.Config{Interceptors: limit(1)})
				n := newNode(t, e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 1}} }},
					streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
						return schema.StreamReaderWithConvert(sends(ctx, 3), func(s string) (string, error) {
							if s == "0 " {
								return s, nil
							}
							return c.convert(s)
						}), nil
					}))
				sr := open(t, t.Context(), n, "stream", "go")
				defer sr.Close()
				all, err := rest(sr)
				require.Equal(t, "0 "+c.all, all)
				if c.err != nil {
					require.Equal(t, c.err, err)
				} else {
					require.NoError(t, err)
				}
				require.Equal(t, c.code, sluice.CodeOf(last(t, rec, "stream").Err))
				require.Zero(t, e.Snapshot().InFlight)
				requireRefusal(t, invoke(t, n, "stream", "go"), "breaker_open")
			})
		})
	}
}

// A tool may answer with several streams merged, of which one ends after the other.
func TestStreamOfNamedStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{})
		n := newNode(t, e, Config{}, streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
			return schema.MergeNamedStreamReaders(map[string]*schema.StreamReader[string]{"short": sends(ctx, 1), "long": sends(ctx, 3)}), nil
		}))
		sr := open(t, t.Context(), n, "stream", "go")
		defer sr.Close()
		all, ended := "", []string(nil)
		for {
			m, err := sr.Recv()
			if err == io.EOF {
				break
			}
			if source, ok := schema.GetSourceName(err); ok {
				ended = append(ended, source)
				continue
			}
			require.NoError(t, err)
			all += text(m[0])
		}
		require.Equal(t, []string{"short", "long"}, ended)
		require.Equal(t, "0 0 1 2 ", all)
		require.Equal(t, sluice.ToolCompleted, last(t, rec, "stream").Kind)
	})
}

// A stream whose reader is neither read to its end nor closed gives its slot back when its time is over, and when
// nobody has the reader any more there is no goroutine of it left.
func TestStreamIsForgotten(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{Interceptors: limit(1), Timeout: time.Millisecond})
	n := newNode(t, e, Config{}, streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
		return sends(ctx, 1000), nil
	}))
	before := runtime.NumGoroutine()
	open(t, t.Context(), n, "stream", "go")
	require.NoError(t, e.Close(context.Background()))
	require.Equal(t, "timeout", sluice.CodeOf(last(t, rec, "stream").Err))
	require.Eventually(t, func() bool { runtime.GC(); return runtime.NumGoroutine() <= before+1 }, time.Minute, time.Millisecond) // and this one
}

// A tool that begins its stream when its time is over, or not at all, leaves nothing behind.
func TestStreamThatDoesNotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{Timeout: time.Second, Interceptors: limit(1)})
		closed := make(chan bool, 1)
		n := newNode(t, e, Config{}, streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
			switch in.Query {
			case "late":
				time.Sleep(time.Minute)
				sr, sw := schema.Pipe[string](0)
				go func() { closed <- sw.Send("0 ", nil); sw.Close() }()
				return sr, nil
			case "panic":
				panic("secret")
			}
			return nil, errDown
		}))
		began := time.Now()
		requireRefusal(t, invoke(t, n, "stream", "late"), "timeout")
		require.Equal(t, time.Second, time.Since(began))
		require.True(t, <-closed)
		require.Equal(t, time.Minute, time.Since(began))
		synctest.Wait()
		require.Zero(t, e.Snapshot().InFlight)
		requireRefusal(t, invoke(t, n, "stream", "panic"), "panic")
		_, err := n.Stream(t.Context(), calls("stream", "error"))
		require.ErrorIs(t, err, errDown)
		require.Equal(t, "tool_error", sluice.CodeOf(last(t, rec, "stream").Err))
	})
}

// A refused stream is one of one chunk.
func TestStreamIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := busy(t)
		tools := fourKinds(t, func(context.Context, query) string { return "3 hits" })
		require.Equal(t, "3 hits", invoke(t, newNode(t, e, Config{}, tools...), "invokable", "go"))
		for _, name := range []string{"invokable", "streamable", "enhanced", "enhanced_streamable"} {
			n := newNode(t, e, Config{}, tools...)
			sr := open(t, t.Context(), n, name, "go")
			require.Equal(t, busyText, next(t, sr))
			_, err := sr.Recv()
			require.Equal(t, io.EOF, err)
			sr.Close()
			require.Equal(t, busyText, invoke(t, n, name, "go"))
		}
	})
}

// HandOver: the end of a stream, that of its time and that of its reader at one instant come to one end.
func TestStreamHandOver(t *testing.T) {
	for i := range 200 {
		synctest.Test(t, func(t *testing.T) {
			e, rec := newExecutor(t, sluice.Config{Timeout: 20 * time.Millisecond, Interceptors: limit(1)})
			n := newNode(t, e, Config{}, streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
				return sends(context.Background(), 3), nil
			}))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if i%2 == 0 {
				ctx = t.Context()
			}
			sr := open(t, ctx, n, "stream", fmt.Sprint(i))
			if i%3 == 0 {
				time.AfterFunc(20*time.Millisecond, sr.Close)
			} else {
				defer sr.Close()
			}
			_, err := rest(sr)
			require.True(t, err == nil || errors.Is(err, context.DeadlineExceeded), err)
			require.NoError(t, e.Close(context.Background()))
			require.Len(t, rec.Events("stream"), 3)
			time.Sleep(time.Second) // for the tool
		})
	}
}
