package sluiceprom

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-go/sluice"
)

// Bounds of labels.
const (
	maxCodes    = 100  // reasons
	maxLimiters = 1000 // of limits, breakers, layers and fleets each
	maxBound    = 1e6  // of the fields of Config
	maxWaiting  = 1e6  // calls that wait, of which the limiter is known
	defTools    = 1000 // Config.MaxTools
	defKeys     = 100  // Config.MaxKeys
	noKeys      = -1   // Config.MaxKeys, for none
)

// ownCodes are those of sluice.CodeOf itself.
var ownCodes = []string{
	"unknown_tool", "invalid_arguments", "breaker_open", "rate_limited", "saturated", "queue_full", "wait_too_long", "denied",
	"nesting", "closed", "timeout", "canceled", "panic", "goexit", "tool_error",
}

// Config bounds how many series there are. The zero value is good for most.
type Config struct {
	// MaxTools is how many tools are a label, those that come first; all others are _other. Zero means 1,000.
	MaxTools int

	// MaxKeys is how many keys of a limit, a rate or a breaker are series of their own, those that come first; all
	// others are added up as the key _other. Zero means 100, -1 none: say that where keys are secret, or come and go.
	MaxKeys int
	_       struct{}
}

// Collector shows tool calls and the state of an executor to Prometheus. It is a prometheus.Collector, and the
// sluice.EventSink that tells it of calls. Make one with [NewCollector], for each executor one; it is safe for
// concurrent use. A scrape takes one Snapshot; nothing waits.
type Collector struct {
	conf   Config
	counts counts
	exec   atomic.Pointer[sluice.Executor] // whose state is shown; nil before Watch

	tools  names
	codes  names
	limits names
	layers names
	fleets names

	waiting waiting

	mu     sync.Mutex          // of scrapes, which may overlap
	keys   map[string]*names   // of each limiter
	queues map[queueLabel]bool // that have been seen, and go on with zero
}

var (
	_ prometheus.Collector = (*Collector)(nil)
	_ sluice.EventSink     = (*Collector)(nil)
)

// NewCollector returns a collector that counts what events tell it. List it as Config.Sink of the executor and
// register it; [Collector.Watch] adds the executor's state. The error names the wrong field of c.
func NewCollector(c Config) (*Collector, error) {
	switch {
	case c.MaxTools < 0 || c.MaxTools > maxBound:
		return nil, fmt.Errorf("sluiceprom: Config.MaxTools is %d: must be from 1 to %d, or zero for %d", c.MaxTools, int(maxBound), defTools)
	case c.MaxKeys < noKeys || c.MaxKeys > maxBound:
		return nil, fmt.Errorf("sluiceprom: Config.MaxKeys is %d: must be from 1 to %d, zero for %d, or -1 for none", c.MaxKeys, int(maxBound), defKeys)
	}
	if c.MaxTools == 0 {
		c.MaxTools = defTools
	}
	if c.MaxKeys == 0 {
		c.MaxKeys = defKeys
	}
	x := &Collector{
		conf:   c,
		tools:  names{max: c.MaxTools},
		codes:  names{max: maxCodes},
		limits: names{max: maxLimiters},
		layers: names{max: maxLimiters},
		fleets: names{max: maxLimiters},
		keys:   make(map[string]*names),
		queues: make(map[queueLabel]bool),
	}
	for _, code := range ownCodes { // whatever codes tools make up, these have room
		x.codes.of(code)
	}
	x.counts.make()
	return x, nil
}

// Watch adds the state of e to what is scraped: what runs, what waits, and how limits, rates and breakers stand.
// Tools of its registry have a label from their first call on. A collector watches one executor: the state of those
// that share a registry, a gate or a scheduler with e is in e's already. e stays reachable as long as the collector.
func (c *Collector) Watch(e *sluice.Executor) error {
	switch {
	case e == nil:
		return errors.New("sluiceprom: Watch: the Executor is nil: must not be")
	case !c.exec.CompareAndSwap(nil, e) && c.exec.Load() != e:
		return errors.New("sluiceprom: Watch: another Executor is watched: each needs a collector of its own, in a prometheus.WrapRegistererWith that tells them apart")
	}
	return nil
}

// Describe sends what there may be.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, x := range c.counts.all {
		x.Describe(ch)
	}
	for _, x := range states {
		ch <- x.desc
	}
}

// Collect sends what there is.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for _, x := range c.counts.all {
		x.Collect(ch)
	}
	if e := c.exec.Load(); e != nil {
		s := e.Snapshot()
		for x, v := range c.show(&s) {
			ch <- prometheus.MustNewConstMetric(x.of.desc, x.of.kind, v, x.labels[:x.of.labels]...)
		}
	}
}
