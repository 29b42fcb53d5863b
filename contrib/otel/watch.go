package sluiceotel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/sluice-go/sluice"
)

// Watch adds the state of e to the metrics: what runs, what waits, and how limits, rates and breakers stand, read by
// [sluice.Executor.Snapshot] whenever metrics are collected. name is the label sluice.executor, empty for none, and
// must not be watched already. That ends with stop, which may be called again; until then e stays reachable.
//
// A limit that counts by keys is one series, whatever keys it has: numbers are sums over them.
func (o *Observer) Watch(name string, e *sluice.Executor) (stop func(), err error) {
	if e == nil {
		return nil, errors.New("sluiceotel: Watch: the Executor is nil: must not be")
	}
	if !o.claim(name) {
		return nil, fmt.Errorf("sluiceotel: Watch: %q is watched already: must be another name, or the first must be stopped", name)
	}
	w := &watch{gauges: &o.gauges, limits: &o.limits, exec: e, waited: make(map[queueLabels]bool)}
	if name != "" {
		w.labels = []attribute.KeyValue{executorKey.String(name)}
	}
	reg, err := o.meter.RegisterCallback(w.observe, o.gauges.all...)
	if err != nil {
		o.release(name)
		return nil, fmt.Errorf("sluiceotel: Watch: %w", err)
	}
	return sync.OnceFunc(func() {
		_ = reg.Unregister() // which only says whether there was something to do
		o.release(name)
	}), nil
}

// claim reports whether name was free, and takes it.
func (o *Observer) claim(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.watched[name]
	o.watched[name] = true
	return !was
}

func (o *Observer) release(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.watched, name)
}

// gauges show states.
type gauges struct {
	running, queued, abandoned, dropped        metric.Int64Observable
	inUse, limit, keys, length, tokens, paused metric.Int64Observable
	stalled, breakers, layerUsed, layerLimit   metric.Int64Observable
	oldest                                     metric.Float64Observable
	all                                        []metric.Observable
}

func (g *gauges) make(m metric.Meter) error {
	var errs []error
	keep := func(x metric.Int64Observable, err error) metric.Int64Observable {
		errs, g.all = append(errs, err), append(g.all, x)
		return x
	}
	number := func(name, unit, what string) metric.Int64Observable { // of things that can be added up
		x, err := m.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
		return keep(x, err)
	}
	g.running = number("sluice.executor.running", "{call}", "Calls whose code has not ended, of all executors that share a registry, a gate or a scheduler.")
	g.queued = number("sluice.executor.queued", "{call}", "Calls that wait for admission, of all these executors.")
	g.abandoned = number("sluice.executor.abandoned", "{call}", "Calls that go on though nobody waits for them, of this executor.")
	dropped, err := m.Int64ObservableCounter("sluice.events.dropped", metric.WithUnit("{event}"), metric.WithDescription("Events that sinks have lost."))
	g.dropped = keep(dropped, err)
	g.inUse = number("sluice.in_flight", "1", "What of a limit is taken.")
	g.limit = number("sluice.limit", "1", "How much there is of a limit.")
	g.keys = number("sluice.limit.keys", "{key}", "Keys that a constraint counts by at present.")
	g.length = number("sluice.queue.length", "{call}", "Calls that wait for a constraint.")
	g.tokens = number("sluice.rate_limit.tokens", "1", "What a rate has to give; below zero it is in debt.")
	g.paused = number("sluice.rate_limit.paused", "{key}", "Keys of a constraint that are paused.")
	g.stalled = number("sluice.limit.stalled", "{key}", "Keys of a limit that has released nothing for a minute while calls wait.")
	g.breakers = number("sluice.breaker.state", "{key}", "Keys of a circuit breaker that are in a state.")
	g.layerUsed = number("sluice.layer.used", "1", "What an interceptor says it uses.")
	g.layerLimit = number("sluice.layer.limit", "1", "What an interceptor says it may use.")
	oldest, err := m.Float64ObservableGauge("sluice.queue.oldest", metric.WithUnit("s"), metric.WithDescription("How long the first of the calls that wait for a constraint has waited."))
	g.oldest = oldest
	g.all = append(g.all, oldest)
	return errors.Join(append(errs, err)...)
}

// watch shows one executor.
type watch struct {
	gauges *gauges
	limits *names
	exec   *sluice.Executor
	labels []attribute.KeyValue // of all that it shows

	mu     sync.Mutex           // of collectors, of which each reader has one
	waited map[queueLabels]bool // queues that have been seen, and go on with zero
}

// queueLabels tell queues apart.
type queueLabels struct {
	limiter  string
	priority sluice.Priority
}

// queueState is of the calls in one.
type queueState struct {
	length int64
	oldest float64
}

// gateLabels tell constraints apart.
type gateLabels struct{ kind, limiter string }

// gateSum is what the keys of one add up to.
type gateSum struct {
	keys, used, limit, paused, stalled int64
	states                             [sluice.BreakerHalfOpen + 1]int64
}

// observe shows the executor's state.
func (w *watch) observe(_ context.Context, to metric.Observer) error {
	s, g := w.exec.Snapshot(), w.gauges
	gates, queues := w.sums(s.Gates, s.Lanes)
	show := func(x metric.Int64Observable, v int64, labels ...attribute.KeyValue) {
		to.ObserveInt64(x, v, w.with(labels...))
	}
	show(g.running, int64(s.InFlight))
	show(g.queued, int64(s.Queued))
	show(g.abandoned, int64(s.Abandoned))
	show(g.dropped, int64(s.EventsDropped))
	for k, x := range gates {
		by := limiterKey.String(k.limiter)
		switch k.kind {
		case "concurrency":
			show(g.inUse, x.used, by)
			show(g.limit, x.limit, by)
			show(g.stalled, x.stalled, by)
		case "rate":
			show(g.tokens, x.limit-x.used, by)
			show(g.limit, x.limit, by)
		case "breaker":
			for state := sluice.BreakerClosed; state <= sluice.BreakerHalfOpen; state++ {
				show(g.breakers, x.states[state], by, stateKey.String(state.String()))
			}
		case "layer":
			show(g.layerUsed, x.used, layerKey.String(k.limiter))
			show(g.layerLimit, x.limit, layerKey.String(k.limiter))
			continue
		}
		show(g.keys, x.keys, by)
		show(g.paused, x.paused, by)
	}
	for k, x := range queues {
		by := []attribute.KeyValue{limiterKey.String(k.limiter), priorityKey.Int(int(k.priority))}
		show(g.length, x.length, by...)
		to.ObserveFloat64(g.oldest, x.oldest, w.with(by...))
	}
	return nil
}

func (w *watch) with(labels ...attribute.KeyValue) metric.ObserveOption {
	return metric.WithAttributes(append(labels, w.labels...)...)
}

// sums adds up the keys of each constraint, and the lanes that wait for one at one priority. Lanes are there only
// while calls wait: of those that were there before it says zero.
func (w *watch) sums(states []sluice.GateState, lanes []sluice.LaneState) (map[gateLabels]gateSum, map[queueLabels]queueState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gates, queues := make(map[gateLabels]gateSum), make(map[queueLabels]queueState, len(w.waited))
	for k := range w.waited {
		queues[k] = queueState{}
	}
	for _, x := range states {
		if x.Kind == "concurrency" && x.Limit == 0 { // a tool that has none
			continue
		}
		k := gateLabels{x.Kind, w.limits.of(x.Name)}
		sum := gates[k]
		sum.keys++
		sum.used += x.Used
		sum.limit += x.Limit
		sum.paused += one(x.Paused)
		sum.stalled += one(x.Stalled)
		sum.states[min(int(x.State), len(sum.states)-1)]++
		gates[k] = sum
	}
	for _, x := range lanes {
		k := queueLabels{w.limits.of(x.By), x.Priority}
		sum := queues[k]
		sum.length += int64(x.Waiting)
		sum.oldest = max(sum.oldest, x.Oldest.Seconds())
		queues[k], w.waited[k] = sum, true
	}
	return gates, queues
}

func one(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}
