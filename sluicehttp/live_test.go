package sluicehttp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// pipes is a listener without a network: a write waits until it is read.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// dial sends a request, and returns what is to be read of the answer.
func (p pipes) dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, s := net.Pipe()
	p <- s
	_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	require.NoError(t, err)
	return c
}

// answer reads the head of an answer, and leaves its body to be read.
func answer(t *testing.T, c net.Conn) *http.Response {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	return r
}

// looks is an interceptor that counts snapshots.
type looks struct{ n atomic.Int64 }

func (l *looks) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next }
func (l *looks) Inspect() []sluice.GateState {
	l.n.Add(1)
	return []sluice.GateState{{Name: "looks", Used: l.n.Load()}}
}

// served runs do in a bubble, with a page of an executor that a server serves.
func served(t *testing.T, c sluicehttp.Config, do func(t *testing.T, l pipes, p *sluicehttp.Page, n *looks, s *http.Server)) {
	synctest.Test(t, func(t *testing.T) {
		n := new(looks)
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{n}}))
		c.Executor = exec
		p, err := sluicehttp.New(c)
		require.NoError(t, err)
		mux := http.NewServeMux()
		mux.Handle("/", p)
		mux.HandleFunc("/other", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "other </html>\n") })
		s, l := &http.Server{Handler: mux}, make(pipes)
		s.RegisterOnShutdown(p.Close)
		ended := make(chan error)
		go func() { ended <- s.Serve(l) }()
		do(t, l, p, n, s)
		require.NoError(t, s.Shutdown(t.Context()))
		require.ErrorIs(t, <-ended, http.ErrServerClosed)
		require.NoError(t, exec.Close(t.Context()))
	}) // which fails if a goroutine is left
}

// events counts those that a stream brings.
func events(r *http.Response, n *atomic.Int64) {
	s := bufio.NewScanner(r.Body)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if s.Text() == "event: view" {
			n.Add(1)
		}
	}
}

// However many look, there is one snapshot for each interval, which all are told of; there is none while nobody looks,
// and Shutdown ends the streams.
func TestViewersShareSnapshots(t *testing.T) {
	served(t, sluicehttp.Config{}, func(t *testing.T, l pipes, p *sluicehttp.Page, n *looks, s *http.Server) {
		var told [20]atomic.Int64
		for i := range told {
			c := l.dial(t, "/stream?view=overview")
			defer c.Close()
			go events(answer(t, c), &told[i])
		}
		time.Sleep(10*time.Second + 500*time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 11, n.n.Load(), "snapshots in ten seconds, and the first")
		for i := range told {
			require.EqualValues(t, 11, told[i].Load(), "events of viewer %d", i)
		}
		p.Close()
		p.Close() // again
		synctest.Wait()
		time.Sleep(time.Hour)
		require.EqualValues(t, 11, n.n.Load(), "snapshots while nobody looks")
		require.Equal(t, http.StatusServiceUnavailable, answer(t, l.dial(t, "/")).StatusCode, "after Close")
	})
}

// A viewer who leaves gives its place back at once.
func TestViewersAreBounded(t *testing.T) {
	served(t, sluicehttp.Config{}, func(t *testing.T, l pipes, p *sluicehttp.Page, _ *looks, _ *http.Server) {
		var conns []net.Conn
		var told atomic.Int64
		for range 100 {
			c := l.dial(t, "/stream?view=queue")
			defer c.Close()
			r := answer(t, c)
			require.Equal(t, http.StatusOK, r.StatusCode)
			go events(r, &told)
			conns = append(conns, c)
		}
		c := l.dial(t, "/stream?view=queue")
		defer c.Close()
		r := answer(t, c)
		require.Equal(t, http.StatusServiceUnavailable, r.StatusCode, "the 101st viewer")
		require.Equal(t, "10", r.Header.Get("Retry-After"))
		text, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Contains(t, string(text), "As many look already as may at once, 100 viewers.")
		c = l.dial(t, "/queue")
		defer c.Close()
		r = answer(t, c)
		require.Equal(t, http.StatusOK, r.StatusCode, "a page is no stream")
		_, _ = io.Copy(io.Discard, r.Body)

		conns[0].Close()
		time.Sleep(2 * time.Second)
		c = l.dial(t, "/stream?view=queue")
		defer c.Close()
		r = answer(t, c)
		require.Equal(t, http.StatusOK, r.StatusCode, "the place of one who left")
		go events(r, &told)
	})
}

// Who reads one byte a second loses its connection after ten seconds, and holds nothing but its place until then.
func TestSlowReaderHoldsNothing(t *testing.T) {
	for _, path := range []string{"/", "/stream?view=overview", "/overview.json"} {
		t.Run(path, func(t *testing.T) {
			served(t, sluicehttp.Config{MaxViewers: 2}, func(t *testing.T, l pipes, p *sluicehttp.Page, n *looks, _ *http.Server) {
				at := time.Now()
				slow := l.dial(t, path)
				defer slow.Close()
				lost := make(chan time.Duration, 1)
				go func() {
					for b := make([]byte, 1); ; time.Sleep(time.Second) {
						if _, err := slow.Read(b); err != nil {
							lost <- time.Since(at)
							return
						}
					}
				}()
				time.Sleep(5 * time.Second)
				before := time.Now()
				c := l.dial(t, "/overview.json")
				defer c.Close()
				r := answer(t, c)
				require.Equal(t, http.StatusOK, r.StatusCode)
				b, err := io.ReadAll(r.Body)
				require.NoError(t, err)
				require.True(t, bytes.HasPrefix(b, []byte("{")))
				require.Zero(t, time.Since(before), "another viewer waits for nothing")
				require.InDelta(t, 10.5, (<-lost).Seconds(), 0.5, "the server and its reader may come to that in either order")
			})
		})
	}
}

// A page that is answered leaves the connection as it found it: no deadline of the page's ends what comes next there.
func TestConnectionIsUsedAgain(t *testing.T) {
	served(t, sluicehttp.Config{}, func(t *testing.T, l pipes, _ *sluicehttp.Page, _ *looks, _ *http.Server) {
		c := l.dial(t, "/queue")
		defer c.Close()
		in := bufio.NewReader(c)
		for i := range 3 {
			if i > 0 {
				time.Sleep(time.Minute)
				_, err := io.WriteString(c, "GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
				require.NoError(t, err)
			}
			r, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, r.StatusCode)
			b, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			require.True(t, strings.HasSuffix(string(b), "</html>\n"))
		}
	})
}

// A snapshot or a page that is expensive is made less often: they take a fortieth of the time at most.
func TestExpensiveSnapshotsAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := new(slowLooks)
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{slow}}))
		p, err := sluicehttp.New(sluicehttp.Config{Executor: exec})
		require.NoError(t, err)
		for range 100 { // one each second
			require.Equal(t, http.StatusOK, ask(t, p, "GET", "/", "").Code)
			time.Sleep(time.Second)
		}
		require.EqualValues(t, 5, slow.n.Load(), "snapshots of half a second in about 103 s: one each 20 s")
		require.NoError(t, exec.Close(context.Background()))
	})
}

type slowLooks struct{ looks }

func (l *slowLooks) Inspect() []sluice.GateState {
	time.Sleep(500 * time.Millisecond)
	return l.looks.Inspect()
}

// tap is a ResponseWriter that keeps a stream.
type tap struct {
	head http.Header
	b    bytes.Buffer
}

func (w *tap) Header() http.Header         { return w.head }
func (w *tap) WriteHeader(int)             {}
func (w *tap) Write(b []byte) (int, error) { return w.b.Write(b) }
func (w *tap) Flush()                      {}

// askUntil is what a stream says until ctx ends.
func askUntil(ctx context.Context, h http.Handler, target string) string {
	r, err := http.NewRequestWithContext(ctx, "GET", "http://localhost"+target, nil)
	if err != nil {
		return err.Error()
	}
	w := &tap{head: http.Header{}}
	h.ServeHTTP(w, r)
	return w.b.String()
}

// An interceptor that does not answer, or ends the goroutine that asks it, holds up who asked, and others only until they
// leave or the page closes.
func TestInterceptorThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := &stuckLooks{release: make(chan struct{})}
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{stuck}}))
		p, err := sluicehttp.New(sluicehttp.Config{Executor: exec})
		require.NoError(t, err)
		first := make(chan int, 1)
		go func() { first <- ask(t, p, "GET", "/queue", "").Code }()
		synctest.Wait()
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		require.Empty(t, askUntil(ctx, p, "/stream?view=queue"))
		second := make(chan int, 1)
		go func() { second <- ask(t, p, "GET", "/queue", "").Code }()
		synctest.Wait()
		p.Close()
		require.Equal(t, http.StatusServiceUnavailable, <-second)
		require.Empty(t, first)
		close(stuck.release)
		require.Equal(t, http.StatusOK, <-first)

		stuck.exit.Store(true)
		q, err := sluicehttp.New(sluicehttp.Config{Executor: exec})
		require.NoError(t, err)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			ask(t, q, "GET", "/queue", "")
		}()
		<-ended
		stuck.exit.Store(false)
		require.Equal(t, http.StatusOK, ask(t, q, "GET", "/queue", "").Code, "the next asks again")
		require.NoError(t, exec.Close(t.Context()))
	})
}

type stuckLooks struct {
	looks
	release chan struct{}
	exit    atomic.Bool
}

func (l *stuckLooks) Inspect() []sluice.GateState {
	if l.exit.Load() {
		runtime.Goexit()
	}
	<-l.release
	return nil
}
