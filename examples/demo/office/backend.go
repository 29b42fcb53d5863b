package office

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What the backend enforces, as hosted APIs do.
const (
	serverRate  = 10              // requests a second for each API key
	serverBurst = 8               // the most that its token bucket saves up
	serverSlots = 8               // requests in work at once, over all keys
	brokenFor   = 3 * time.Second // from the start of a replay, get_weather answers 500
)

// The three providers' API keys, and the work of each endpoint.
const (
	webKey     = "key-web-7f3a"
	officeKey  = "key-office-19c2"
	weatherKey = "key-weather-e05d"

	brokenTool = "get_weather"
	slowTool   = "summarize"
)

var workTime = map[string]time.Duration{
	"search":        120 * time.Millisecond,
	"fetch_page":    150 * time.Millisecond,
	brokenTool:      60 * time.Millisecond,
	"query_crm":     90 * time.Millisecond,
	"send_mail":     70 * time.Millisecond,
	"create_ticket": 80 * time.Millisecond,
	slowTool:        300 * time.Millisecond,
}

// backend is an HTTP API with limits: POST /v1/{tool} with a bearer key and a JSON object.
// It knows nothing of Sluice; its token buckets are golang.org/x/time/rate's. Its counts
// are the ones that the demo believes.
type backend struct {
	mu      sync.Mutex
	broke   time.Time // when brokenTool did last
	buckets map[string]*rate.Limiter
	inside  int
	counts  backendCounts
}

// backendCounts is what a backend saw.
type backendCounts struct {
	Requests int
	OK       int // 200
	TooMany  int // 429: more than the key's rate
	TooBusy  int // 503: more at once than serverSlots
	Wasted   int // 500: requests to the broken endpoint
	Peak     int // the most requests inside at once
}

func newBackend() *backend {
	b := &backend{broke: time.Now(), buckets: make(map[string]*rate.Limiter)}
	for _, key := range []string{webKey, officeKey, weatherKey} {
		b.buckets[key] = rate.NewLimiter(serverRate, serverBurst)
	}
	return b
}

// start serves on l until the function it returns is called.
func (b *backend) start(l net.Listener) (stop func()) {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/{tool}", b)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	return func() {
		srv.Close()
		<-done
	}
}

// Counts returns what b saw so far.
func (b *backend) Counts() backendCounts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tool := r.PathValue("tool")
	work, known := workTime[tool]
	args, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	switch {
	case !known:
		respond(w, http.StatusNotFound, "no such endpoint")
		return
	case err != nil || !isObject(args):
		respond(w, http.StatusBadRequest, "the body must be a JSON object")
		return
	}

	status, retryAfter := b.enter(r.Header.Get("Authorization"))
	if status == http.StatusOK {
		t := time.NewTimer(work)
		select {
		case <-t.C:
		case <-r.Context().Done():
			t.Stop()
		}
		if tool == brokenTool && b.broken() {
			status = http.StatusInternalServerError
		}
	}
	// Left before the answer is written: when a client reads it, its slot is free.
	b.leave(status)

	switch status {
	case http.StatusOK:
		respond(w, status, tool+" done")
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
		respond(w, status, fmt.Sprintf("more than %d requests per second", serverRate))
	case http.StatusServiceUnavailable:
		respond(w, status, fmt.Sprintf("more than %d requests at once", serverSlots))
	default:
		respond(w, status, http.StatusText(status))
	}
}

// breaks breaks brokenTool again.
func (b *backend) breaks() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broke = time.Now()
}

func (b *backend) broken() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(b.broke) < brokenFor
}

// enter counts a request in and says whether it may work: 200, or why not. A 429 comes
// with the whole seconds until the key has a token.
func (b *backend) enter(authorization string) (status, retryAfter int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts.Requests++
	b.inside++
	b.counts.Peak = max(b.counts.Peak, b.inside)

	bucket := b.buckets[strings.TrimPrefix(authorization, "Bearer ")]
	if bucket == nil {
		return http.StatusUnauthorized, 0
	}
	now := time.Now()
	token := bucket.ReserveN(now, 1)
	if wait := token.DelayFrom(now); wait > 0 {
		token.CancelAt(now)
		return http.StatusTooManyRequests, int(math.Ceil(wait.Seconds()))
	}
	if b.inside > serverSlots {
		return http.StatusServiceUnavailable, 0
	}
	return http.StatusOK, 0
}

func (b *backend) leave(status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inside--
	switch status {
	case http.StatusOK:
		b.counts.OK++
	case http.StatusTooManyRequests:
		b.counts.TooMany++
	case http.StatusServiceUnavailable:
		b.counts.TooBusy++
	case http.StatusInternalServerError:
		b.counts.Wasted++
	}
}

func respond(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	field := "result"
	if status != http.StatusOK {
		field = "error"
	}
	json.NewEncoder(w).Encode(map[string]string{field: text})
}

func isObject(data []byte) bool {
	var m map[string]any
	return json.Unmarshal(data, &m) == nil && m != nil
}
