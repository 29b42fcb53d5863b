package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/check"
)

// Transport is an [http.RoundTripper] that reads every response's rate-limit signals and
// reports a pause to the tool call whose context the request has, by [sluice.ReportThrottle].
// It sends every request once, when it is told to, and gives the response back with its body
// unread: it does not wait and does not retry. After a refusal that names no time the
// response's Request is a copy, by which [Check] can end the row of pauses; all else is as it
// came. Outside a call it reports
// nothing, but still calls OnSignal.
//
// It reports what the answer tells apart, for limiters that count [sluice.ByKey] of these
// names: "host", which is that of the request's URL; below that "resource" as
// X-RateLimit-Resource names it, or "policy" and "partition" of the IETF draft.
//
// A refusal that names no time gets a pause of Transport's own: TransportConfig.Backoff,
// doubled with each such refusal in a row by the same host, and up to a quarter more at
// random. Refusals of requests that were sent before the pause was over are the same
// incident; an answer to a request sent after it ends the row, and so does [Check] when it
// finds the time in the body. Accounts of one host, told apart by the credentials in the
// usual headers and parameters, and its resources have rows of their own; of credentials
// only a hash is kept.
//
// The zero value is ready for use and is what NewTransport makes of a zero
// TransportConfig. Safe for concurrent use. It starts no goroutine and must not be copied
// after first use.
type Transport struct {
	base     http.RoundTripper
	bound    time.Duration
	first    time.Duration
	reactive bool
	onSignal func(*http.Request, Signals)

	backoff  backoff
	throttle func(context.Context, time.Duration) // nil means sluice.ReportThrottle
	jitter   func(time.Duration) time.Duration    // nil means jittered
}

// TransportConfig configures a Transport.
type TransportConfig struct {
	// Base sends the requests. Nil means http.DefaultTransport.
	Base http.RoundTripper
	// MaxPause bounds every pause. Zero means the constant MaxPause, one hour.
	MaxPause time.Duration
	// Backoff is the first pause after a refusal that names no time. Zero means one
	// second, or MaxPause if that is less.
	Backoff time.Duration
	// Reactive means to pause only after refusals, and not when the answer to a request
	// says that it was the last that a quota allowed.
	Reactive bool
	// OnSignal, if not nil, is called before RoundTrip returns, for each response that
	// says anything about rate limits, with the pause as it was reported. It must not keep
	// or change r; with several requests at once it runs several times at once. If it
	// panics, the panic goes no further; if it calls runtime.Goexit, the response is closed.
	OnSignal func(r *http.Request, s Signals)
	_        struct{}
}

const defaultBackoff = time.Second

// NewTransport validates c.
func NewTransport(c TransportConfig) (*Transport, error) {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"MaxPause", c.MaxPause}, {"Backoff", c.Backoff}} {
		if err := check.Unit("upstream: TransportConfig."+f.name, f.d); err != nil {
			return nil, err
		}
	}
	if c.MaxPause < 0 {
		return nil, fmt.Errorf("upstream: TransportConfig.MaxPause is %v: must be zero (%v) or positive", c.MaxPause, MaxPause)
	}
	bound := c.MaxPause
	if bound == 0 {
		bound = MaxPause
	}
	if c.Backoff < 0 {
		return nil, fmt.Errorf("upstream: TransportConfig.Backoff is %v: must be zero (%v) or positive", c.Backoff, min(defaultBackoff, bound))
	}
	if c.Backoff > bound {
		return nil, fmt.Errorf("upstream: TransportConfig.Backoff is %v: must be at most MaxPause (%v)", c.Backoff, bound)
	}
	return &Transport{base: c.Base, bound: bound, first: c.Backoff, reactive: c.Reactive, onSignal: c.OnSignal}, nil
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	base := t.base
	if base == nil {
		base = http.DefaultTransport
	}
	sent := time.Now()
	resp, err := base.RoundTrip(r)
	if err != nil || resp == nil {
		return resp, err
	}
	s, guessed := t.read(r, resp, sent, time.Now())
	if guessed != nil && resp.Request != nil {
		resp.Request = resp.Request.WithContext(context.WithValue(resp.Request.Context(), guessKey{}, guessed))
	}
	if s.Pause > 0 && (s.Throttled || !t.reactive) {
		if t.throttle != nil {
			t.throttle(r.Context(), s.Pause)
		} else {
			sluice.ReportThrottle(r.Context(), s.Pause, s.parts(hostOf(r), resp.Header)...)
		}
	}
	if t.onSignal != nil && !s.Empty() {
		t.report(r, resp, s)
	}
	return resp, nil
}

// read parses a response and adds the pause of the backoff to a refusal that names none.
func (t *Transport) read(r *http.Request, resp *http.Response, sent, now time.Time) (Signals, *guess) {
	bound := t.bound
	if bound == 0 {
		bound = MaxPause
	}
	s := ParseWithin(resp.Header, resp.StatusCode, now, bound)
	switch {
	case !s.Throttled:
		if resp.StatusCode < http.StatusInternalServerError && t.backoff.known.Load() > 0 {
			t.backoff.passed(quotaOf(r, resp.Header), sent)
		}
	case s.Pause == 0 || s.Source == SourceSecondary:
		first := t.first
		if first == 0 {
			first = min(defaultBackoff, bound)
		}
		if s.Pause == 0 {
			s.Source = SourceBackoff
		}
		jitter := t.jitter
		if jitter == nil {
			jitter = jittered
		}
		g := &guess{&t.backoff, quotaOf(r, resp.Header)}
		s.Pause = t.backoff.refused(g.quota, sent, now, max(first, s.Pause), bound, jitter)
		return s, g
	}
	return s, nil
}

func hostOf(r *http.Request) string {
	if r.URL == nil {
		return ""
	}
	return r.URL.Host
}

// report calls OnSignal, which is foreign code. The caller's response outlives its panic;
// after its Goexit nobody is left who could close the response.
func (t *Transport) report(r *http.Request, resp *http.Response, s Signals) {
	normal := false
	defer func() {
		if !normal && recover() == nil && resp.Body != nil {
			resp.Body.Close()
		}
	}()
	t.onSignal(r, s)
	normal = true
}

// CloseIdleConnections closes those of Base, if it can; [http.Client] calls it.
func (t *Transport) CloseIdleConnections() {
	base := t.base
	if base == nil {
		base = http.DefaultTransport
	}
	if c, ok := base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// jittered is d and up to a quarter more, so that processes which were refused together do
// not come back together.
func jittered(d time.Duration) time.Duration { return plus(d, rand.N(d/4+1)) }
