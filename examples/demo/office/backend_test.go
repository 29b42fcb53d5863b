package office

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// inBubble runs fn with a backend and its tools on virtual time.
func inBubble(t *testing.T, fn func(t *testing.T, b *backend, tools map[string]agentTool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := pipes()
		l, _ := n.listen()
		b := newBackend()
		defer b.start(l)()
		client := newClient(n.dial)
		defer client.CloseIdleConnections()
		fn(t, b, agentTools(client, "http://"+l.Addr().String()))
	})
}

// statuses calls tool n times at once and counts the answers.
func statuses(t *testing.T, tool agentTool, n int) map[int]int {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := make(map[int]int)
	for range n {
		wg.Go(func() {
			_, err := tool.run(t.Context(), []byte(`{}`))
			status := http.StatusOK
			if e, ok := errors.AsType[*statusError](err); ok {
				status = e.Status
			} else if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			got[status]++
		})
	}
	wg.Wait()
	return got
}

func TestBackendLimitsEachKey(t *testing.T) {
	inBubble(t, func(t *testing.T, b *backend, tools map[string]agentTool) {
		got := statuses(t, tools["search"], serverBurst+5)
		require.Equal(t, serverBurst, got[200], "%d at once", serverBurst+5)
		assert.Equal(t, 5, got[429], "%d at once", serverBurst+5)
		// The burst took 120 ms, in which one token came back.
		got = statuses(t, tools["fetch_page"], 3)
		require.Equal(t, 1, got[200], "3 at once, another endpoint of the key")
		assert.Equal(t, 2, got[429], "3 at once, another endpoint of the key")
		if got := statuses(t, tools["query_crm"], 1); got[200] != 1 {
			t.Errorf("another key: %v, want 200", got)
		}
		time.Sleep(serverBurst * time.Second / serverRate)
		if got := statuses(t, tools["search"], serverBurst+1); got[200] != serverBurst || got[429] != 1 {
			t.Errorf("after a refill: %v, want %d × 200 and 1 × 429", got, serverBurst)
		}
		c := b.Counts()
		assert.Equal(t, 5+2+1, c.TooMany)
		assert.Equal(t, serverBurst+1+1+serverBurst, c.OK)
		assert.Zero(t, c.TooBusy)
	})
}

func TestBackendSaysWhenToRetry(t *testing.T) {
	inBubble(t, func(t *testing.T, b *backend, tools map[string]agentTool) {
		statuses(t, tools["send_mail"], serverBurst)
		_, err := tools["send_mail"].run(t.Context(), []byte(`{}`))
		later, ok := errors.AsType[interface {
			error
			RetryAfter() time.Duration
		}](err)
		if !ok || later.RetryAfter() != time.Second { // the header counts whole seconds
			t.Errorf("got %v, want a 429 with Retry-After: 1", err)
		}
	})
}

func TestBackendLimitsRequestsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *backend, tools map[string]agentTool) {
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := statuses(t, tools[slowTool], serverSlots); got[200] != serverSlots {
				t.Errorf("%d slow ones: %v", serverSlots, got)
			}
		})
		time.Sleep(10 * time.Millisecond)
		got := statuses(t, tools["search"], 2)
		assert.Equal(t, 2, got[503], "2 more, on another key: %v, want 503", got)
		wg.Wait()
		got = statuses(t, tools["search"], 2)
		assert.Equal(t, 2, got[200], "once they are gone: %v, want 200", got)
		if c := b.Counts(); c.TooBusy != 2 || c.Peak < serverSlots+1 || c.Peak > serverSlots+2 {
			t.Errorf("counts are %+v", c)
		}
	})
}

// A client that has read an answer may send the next request at once: its slot is free.
func TestBackendFreesTheSlotBeforeItAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, b *backend, tools map[string]agentTool) {
		for range 3 {
			_, err := tools["search"].run(t.Context(), []byte(`{}`))
			require.NoError(t, err)
		}
		assert.Equal(t, 1, b.Counts().Peak, "one after another, the peak")
	})
}

func TestBackendEndpoints(t *testing.T) {
	inBubble(t, func(t *testing.T, b *backend, tools map[string]agentTool) {
		for name, work := range workTime {
			start := time.Now()
			_, err := tools[name].run(t.Context(), []byte(`{"any":"thing"}`))
			assert.Equal(t, work, time.Since(start), "%s took", name)
			assert.Equal(t, name == brokenTool, err != nil, "%s: %v", name, err)
		}
		assert.Equal(t, 1, b.Counts().Wasted, "requests wasted")

		time.Sleep(brokenFor - time.Since(b.broke) - workTime[brokenTool] - 1)
		if got := statuses(t, tools[brokenTool], 1); got[500] != 1 { // ends 1 ns too early
			t.Errorf("just before it recovers: %v, want 500", got)
		}
		got := statuses(t, tools[brokenTool], 1)
		assert.Equal(t, 1, got[200], "after it recovered: %v, want 200", got)
	})
}

func TestBackendRefusesNonsense(t *testing.T) {
	tests := []struct {
		name, method, path, key, body string
		want                          int
	}{
		{"unknown endpoint", "POST", "/v1/teleport", webKey, `{}`, http.StatusNotFound},
		{"wrong method", "GET", "/v1/search", webKey, ``, http.StatusMethodNotAllowed},
		{"no key", "POST", "/v1/search", "", `{}`, http.StatusUnauthorized},
		{"unknown key", "POST", "/v1/search", "key-of-nobody", `{}`, http.StatusUnauthorized},
		{"not JSON", "POST", "/v1/search", webKey, `{"query":`, http.StatusBadRequest},
		{"no object", "POST", "/v1/search", webKey, `null`, http.StatusBadRequest},
		{"too large", "POST", "/v1/search", webKey, `{"q":"` + strings.Repeat("x", 64<<10) + `"}`, http.StatusBadRequest},
		{"fine", "POST", "/v1/search", webKey, `{}`, http.StatusOK},
	}
	synctest.Test(t, func(t *testing.T) {
		n := pipes()
		l, _ := n.listen()
		defer newBackend().start(l)()
		client := newClient(n.dial)
		defer client.CloseIdleConnections()
		for _, tt := range tests {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://backend.test"+tt.path, strings.NewReader(tt.body))
			require.NoError(t, err)
			if tt.key != "" {
				req.Header.Set("Authorization", "Bearer "+tt.key)
			}
			resp, err := client.Do(req)
			require.NoError(t, err)
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			assert.Equal(t, tt.want, resp.StatusCode, tt.name)
		}
		time.Sleep(time.Second) // net/http lingers on a connection whose request was too large
	})
}

// The demo's own network: a real socket, on the loopback interface only.
func TestLoopback(t *testing.T) {
	l, err := loopback.listen()
	require.NoError(t, err)
	addr := l.Addr().(*net.TCPAddr)
	assert.True(t, addr.IP.IsLoopback(), "listens on %v", addr)
	defer newBackend().start(l)()
	client := newClient(loopback.dial)
	defer client.CloseIdleConnections()
	out, err := agentTools(client, "http://"+l.Addr().String())["send_mail"].run(t.Context(), []byte(`{}`))
	if err != nil || !strings.Contains(string(out), "send_mail done") {
		t.Errorf("got %s, %v", out, err)
	}
}
