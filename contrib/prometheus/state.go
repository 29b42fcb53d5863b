package sluiceprom

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-go/sluice"
)

// state is a metric of what a snapshot tells.
type state struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	labels int // how many
}

// states are all of them.
var states []*state

var (
	running   = gauge("executor_running", "Calls whose code has not ended, of all executors that share a registry, a gate or a scheduler.")
	queued    = gauge("executor_queued", "Calls that wait for admission, of all these executors.")
	abandoned = gauge("executor_abandoned", "Calls that go on though nobody waits for them, of this executor.")
	dropped   = counter("events_dropped_total", "Events that sinks have lost.")

	inFlight = gauge("in_flight", "What of a limit is taken.", "limiter", "key")
	limit    = gauge("limit", "How much there is of a limit, or of a rate's burst.", "limiter", "key")
	stalled  = gauge("limit_stalled", "How many keys of a limit have released nothing for a minute while calls wait.", "limiter", "key")
	tokens   = gauge("rate_limit_tokens", "What a rate has to give; below zero it is in debt.", "limiter", "key")
	paused   = gauge("paused", "How many keys of a limit, rate or breaker are paused.", "limiter", "key")
	breakers = gauge("breaker_state", "1 for the state that a circuit breaker is in; of the key _other how many are.", "breaker", "key", "state")

	length = gauge("queue_length", "Calls that wait for a limiter.", "limiter", "priority")
	oldest = gauge("queue_oldest_seconds", "How long the first of them has waited.", "limiter", "priority")

	fleetAway   = gauge("fleet_away", "1 while the engine of a fleet does not answer; of several with that name how many do not.", "fleet")
	fleetTrips  = counter("fleet_trips_total", "Trips of a fleet to its engine.", "fleet")
	fleetFailed = counter("fleet_failed_trips_total", "Those that failed, or whose outcome is unknown.", "fleet")

	layerUsed  = gauge("layer_used", "What an interceptor says it uses.", "layer")
	layerLimit = gauge("layer_limit", "What an interceptor says it may use.", "layer")
)

func gauge(name, help string, labels ...string) *state {
	s := &state{prometheus.NewDesc("sluice_"+name, help, labels, nil), prometheus.GaugeValue, len(labels)}
	states = append(states, s)
	return s
}

func counter(name, help string, labels ...string) *state {
	s := gauge(name, help, labels...)
	s.kind = prometheus.CounterValue
	return s
}

// series is one of a scrape.
type series struct {
	of     *state
	labels [3]string // as many as it has
}

// sheet is what a scrape shows. Numbers with the same labels are added up: of two metrics that have them the whole
// scrape fails.
type sheet map[series]float64

func (s sheet) add(of *state, v float64, labels ...string) {
	x := series{of: of}
	copy(x.labels[:], labels)
	s[x] += v
}

// queueLabel tells queues apart.
type queueLabel struct {
	limiter  string
	priority sluice.Priority
}

// queueSum is of the calls in one.
type queueSum struct {
	length int
	oldest float64
}

// show is what a scrape shows of s.
func (c *Collector) show(s *sluice.Snapshot) sheet {
	to := make(sheet)
	to.add(running, float64(s.InFlight))
	to.add(queued, float64(s.Queued))
	to.add(abandoned, float64(s.Abandoned))
	to.add(dropped, float64(s.EventsDropped))
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range s.Fleets {
		x := &s.Fleets[i]
		name := c.fleets.of(x.Name)
		to.add(fleetAway, one(x.Away), name)
		to.add(fleetTrips, float64(x.Trips), name)
		to.add(fleetFailed, float64(x.Failed), name)
	}
	for i := range s.Gates {
		c.showGate(to, &s.Gates[i])
	}
	for k, x := range c.merge(s.Lanes) {
		priority := strconv.Itoa(int(k.priority))
		to.add(length, float64(x.length), k.limiter, priority)
		to.add(oldest, x.oldest, k.limiter, priority)
	}
	return to
}

// showGate adds x. It needs c.mu.
func (c *Collector) showGate(to sheet, x *sluice.GateState) {
	if x.Kind == "layer" {
		name := c.layers.of(x.Name)
		to.add(layerUsed, float64(x.Used), name)
		to.add(layerLimit, float64(x.Limit), name)
		return
	}
	if x.Kind == "concurrency" && x.Limit == 0 { // a tool that has none
		return
	}
	name := c.limits.of(x.Name)
	key := c.keyOf(name, x.Key)
	switch x.Kind {
	case "concurrency":
		to.add(inFlight, float64(x.Used), name, key)
		to.add(limit, float64(x.Limit), name, key)
		to.add(stalled, one(x.Stalled), name, key)
	case "rate":
		to.add(tokens, float64(x.Limit-x.Used), name, key)
		to.add(limit, float64(x.Limit), name, key)
	case "breaker":
		for is := sluice.BreakerClosed; is <= sluice.BreakerHalfOpen; is++ {
			to.add(breakers, one(x.State == is), name, key, is.String())
		}
	}
	to.add(paused, one(x.Paused), name, key)
}

// keyOf is the label of a key of the limiter with that label. It needs c.mu.
func (c *Collector) keyOf(limiter, key string) string {
	if key == "" {
		return ""
	}
	keys := c.keys[limiter]
	if keys == nil {
		keys = &names{max: max(c.conf.MaxKeys, 0)}
		c.keys[limiter] = keys
	}
	return keys.of(key)
}

// merge adds up the lanes that wait for one limiter at one priority. Lanes are there only while calls wait: of those
// that were there before it says zero. It needs c.mu.
func (c *Collector) merge(lanes []sluice.LaneState) map[queueLabel]queueSum {
	queues := make(map[queueLabel]queueSum, len(c.queues))
	for k := range c.queues {
		queues[k] = queueSum{}
	}
	for _, x := range lanes {
		k := queueLabel{c.limits.of(x.By), x.Priority}
		sum := queues[k]
		sum.length += x.Waiting
		sum.oldest = max(sum.oldest, x.Oldest.Seconds())
		queues[k], c.queues[k] = sum, true
	}
	return queues
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
