package sluiceprom

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-go/sluice"
)

// Buckets in seconds: of durations those of the GenAI conventions, of waits finer ones.
var (
	durationBuckets = []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}
	waitBuckets     = []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300}
)

// counts are what events tell.
type counts struct {
	calls, rejections, retries, panics, abandoned, transitions, pauses, stalls *prometheus.CounterVec
	duration, wait                                                             *prometheus.HistogramVec
	all                                                                        []prometheus.Collector
}

func (n *counts) make() {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		x := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_" + name, Help: help}, labels)
		n.all = append(n.all, x)
		return x
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		x := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_" + name, Help: help, Buckets: buckets}, labels)
		n.all = append(n.all, x)
		return x
	}
	n.calls = counter("calls_total", "Calls that have ended.", "tool", "outcome", "reason")
	n.duration = histogram("call_duration_seconds", "How long calls took, waits and retries included.", durationBuckets, "tool", "outcome")
	n.wait = histogram("queue_wait_seconds", "How long calls that had to wait waited for admission.", waitBuckets, "limiter", "priority")
	n.rejections = counter("rejections_total", "Calls that ended without the tool's code having run.", "limiter", "reason")
	n.retries = counter("retries_total", "Attempts that others followed.", "tool", "reason")
	n.panics = counter("panics_total", "Attempts that ended with a panic or runtime.Goexit.", "tool")
	n.abandoned = counter("abandoned_total", "Attempts that went on when nobody waited for them any more.", "tool")
	n.transitions = counter("breaker_transitions_total", "Changes of a circuit breaker's state.", "breaker", "from", "to")
	n.pauses = counter("rate_limit_pauses_total", "Pauses of a rate limit, which an upstream or an operator asked for.", "limiter")
	n.stalls = counter("limit_stalls_total", "Limits found to have released nothing for a minute while calls waited.", "limiter")
}

// Enabled is true for what is counted.
func (c *Collector) Enabled(k sluice.EventKind) bool {
	switch k {
	case sluice.ToolQueued, sluice.ToolStarted, sluice.ToolRetrying, sluice.ToolAbandoned, sluice.ToolCompleted, sluice.ToolFailed,
		sluice.ToolDenied, sluice.BreakerStateChanged, sluice.RateLimitPaused, sluice.LimitStalled:
		return true
	}
	return false
}

// Emit counts e. It answers nil.
func (c *Collector) Emit(_ context.Context, e *sluice.Event) error {
	n := &c.counts
	switch e.Kind {
	case sluice.ToolQueued:
		c.tools.of(e.Call.Tool) // nothing waits or runs that is not registered
		c.waiting.put(e.CallKey, c.limits.of(e.By))
	case sluice.ToolStarted:
		c.tools.of(e.Call.Tool)
	case sluice.ToolRetrying:
		tool, code := c.toolOf(e), c.codeOf(e.Err)
		n.retries.WithLabelValues(tool, code).Inc()
		c.panicked(tool, code)
	case sluice.ToolAbandoned:
		n.abandoned.WithLabelValues(c.toolOf(e)).Inc()
	case sluice.ToolCompleted:
		c.ended(e, "completed")
	case sluice.ToolFailed:
		c.ended(e, "failed")
	case sluice.ToolDenied:
		c.ended(e, "denied")
	case sluice.BreakerStateChanged:
		n.transitions.WithLabelValues(c.limits.of(e.By), e.From.String(), e.To.String()).Inc()
	case sluice.RateLimitPaused:
		n.pauses.WithLabelValues(c.limits.of(e.By)).Inc()
	case sluice.LimitStalled:
		n.stalls.WithLabelValues(c.limits.of(e.By)).Inc()
	}
	return nil
}

// ended counts a call that has ended.
func (c *Collector) ended(e *sluice.Event, outcome string) {
	n, tool, code := &c.counts, c.toolOf(e), c.codeOf(e.Err)
	n.calls.WithLabelValues(tool, outcome, code).Inc()
	n.duration.WithLabelValues(tool, outcome).Observe(e.Elapsed.Seconds())
	c.panicked(tool, code)
	if by, ok := c.waiting.take(e.CallKey); ok {
		n.wait.WithLabelValues(by, strconv.Itoa(int(e.Call.Priority))).Observe(e.Queued.Seconds())
	}
	if rejected(e.Err) {
		by := ""
		if e.By != "" {
			by = c.limits.of(e.By)
		}
		n.rejections.WithLabelValues(by, code).Inc()
	}
}

func (c *Collector) panicked(tool, code string) {
	if code == "panic" || code == "goexit" {
		c.counts.panics.WithLabelValues(tool).Inc()
	}
}

// toolOf is the label of the tool that e is about: its name if somebody has registered it, since all other names may
// be what a model has made up.
func (c *Collector) toolOf(e *sluice.Event) string {
	if label, ok := c.tools.known(e.Call.Tool); ok {
		return label
	}
	if x := c.exec.Load(); x != nil && !c.tools.full() {
		if _, ok := x.Registry().Lookup(e.Call.Tool); ok {
			return c.tools.of(e.Call.Tool)
		}
	}
	return other
}

// codeOf is the reason that err gives; empty for nil.
func (c *Collector) codeOf(err error) string {
	if err == nil {
		return ""
	}
	return c.codes.of(sluice.CodeOf(err))
}

// rejected reports whether the code of a call that ended with err has not run. An error whose own code panics does
// not say so.
func rejected(err error) (yes bool) {
	defer func() { _ = recover() }()
	return err != nil && errors.Is(err, sluice.ErrRejected)
}

// waiting is what the calls that have had to wait have waited for last, until they end.
type waiting struct {
	mu sync.Mutex
	by map[sluice.CallKey]string
}

// put says what a call waits for. Beyond a million calls, of which a sink that drops events has lost the ends, it
// does nothing.
func (w *waiting) put(k sluice.CallKey, limiter string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = make(map[sluice.CallKey]string)
	}
	if _, ok := w.by[k]; ok || len(w.by) < maxWaiting {
		w.by[k] = limiter
	}
}

// take is what a call has waited for, if it has, for the last time.
func (w *waiting) take(k sluice.CallKey) (limiter string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	limiter, ok = w.by[k]
	delete(w.by, k)
	return limiter, ok
}
