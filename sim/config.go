package sim

import (
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/check"
)

// Config is what to simulate. Gates are only read, so those of a running program will do.
type Config struct {
	// Gates are the components of the executor's admission: limiters, rate limiters,
	// breakers and at most one scheduler, in any order. Without a scheduler the queue is
	// first in, first out. A RateLimiter around a *rate.Limiter counts as a bucket of that
	// limit and burst, full at the start. What is shared, by a Semaphore or a Fleet, counts as
	// this process's alone, without a Reserve.
	Gates    []sluice.Interceptor
	Tools    []Tool        // at least one
	Traffic  []Traffic     // at least one
	Duration time.Duration // how long calls come and are counted; required
	MaxWait  time.Duration // in the queue, as in sluice.Config: zero means no bound, sluice.NoWait none at all
	Timeout  time.Duration // per attempt, as in sluice.Config; zero means none
	Seed     uint64        // equal seeds give equal reports
	MaxCalls int           // an error beyond them; zero means 100,000,000

	// Each, if set, is told of every call that has ended or was refused until Duration, in
	// that order. It runs between two events.
	Each func(Call)
	_    struct{}
}

const defaultMaxCalls = 100_000_000

// Tool is a tool and what stands behind it.
type Tool struct {
	// Spec is the tool as it is registered: Name, Type and Policy count. Its Cost and the
	// functions of ByKey scopes are asked once per stream of traffic, or, if the stream has
	// an Input, once per call.
	Spec    sluice.Spec
	Service Dist // how long the tool's own code takes; required

	ErrorRate float64  // share of calls whose code fails, from 0 to 1
	Outages   []Outage // when all calls fail

	// Capacity is how many calls the backend can work on at once, and from when; before the
	// first step, and if there is none, any number. A call beyond it is answered after
	// RejectAfter (zero: at once) that the backend is too busy: OutcomeOverload, as for a 429.
	// Where RetryAfter is set that answer asks for a pause, which the library observes.
	Capacity    []Step
	RejectAfter Dist
	RetryAfter  Dist

	Calls          []string // tools that it then calls, one after another, in its own slot's time
	IgnoresTimeout bool     // its code goes on after its time is over; a loop does not wait for it then, a call around it does
	_              struct{}
}

// Outage is a time in which a backend fails every call that starts.
type Outage struct {
	From, For time.Duration // since the start; both required, but From may be zero
	After     Dist          // how long a call takes to fail; zero Dist means the tool's Service
}

// Step is a backend's capacity from an instant on.
type Step struct {
	From time.Duration // since the start
	Max  int           // calls at once; zero means it rejects all
}

// Traffic is one stream of calls that have everything in common but time.
type Traffic struct {
	Name     string            // in the report; empty means tool/tenant/priority
	Tool     string            // one of Tools
	Arrivals Arrivals          // when they come; required
	Tenant   string            // on whose behalf
	Priority sluice.Priority   // zero means the tool's own
	Attrs    map[string]string // PipelineContext.Attrs, for ByKey scopes
	Input    func(n int64) any // the input of the nth call, from 0, for ByKey scopes and Cost
	Uses     map[string]Dist   // what a call really takes of a unit, as its tool would report
	Deadline time.Duration     // when a call's context ends, after its arrival; zero means never
	From     time.Duration     // when the stream starts
	For      time.Duration     // how long calls come; zero means until the end
	_        struct{}
}

// Call is one simulated call, for [Config.Each].
type Call struct {
	Traffic  string // Traffic.Name; of a nested call "outer > tool", of the second of one tool "outer > tool (2)"
	Tool     string
	Tenant   string
	Priority sluice.Priority
	Arrived  time.Duration // since the start, as the others
	Started  time.Duration // -1 if it did not
	Ended    time.Duration
	Outcome  Outcome
	By       string // what refused it
}

// Outcome is how a call ended.
type Outcome uint8

const (
	Succeeded  Outcome = iota
	Failed             // its code did
	Overloaded         // the backend was too busy
	TimedOut           // its attempt's time was over
	Late               // its caller's deadline passed while it ran
	Refused            // it did not run
)

// String is the outcome in lower case.
func (o Outcome) String() string {
	return [...]string{"succeeded", "failed", "overloaded", "timed out", "late", "refused"}[min(o, Refused)]
}

// validate says which field of c is wrong. What the root package checks of specs and gates
// is checked there.
func (c *Config) validate() error {
	if c.Duration <= 0 || c.Duration > check.MaxDuration {
		return fmt.Errorf("sim: Config.Duration is %v: must be positive, up to %v", c.Duration, check.MaxDuration)
	}
	if err := check.Duration("sim: Config.Duration", c.Duration); err != nil {
		return err
	}
	if c.MaxCalls < 0 {
		return fmt.Errorf("sim: Config.MaxCalls is %d: must be zero (%d) or positive", c.MaxCalls, defaultMaxCalls)
	}
	wait := c.MaxWait
	if wait == sluice.NoWait {
		wait = 0
	}
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"MaxWait", wait}, {"Timeout", c.Timeout}} {
		if err := check.Duration("sim: Config."+f.name, f.d); err != nil {
			return err
		}
	}
	if len(c.Tools) == 0 {
		return fmt.Errorf("sim: Config.Tools is empty: must have at least one tool")
	}
	if len(c.Traffic) == 0 {
		return fmt.Errorf("sim: Config.Traffic is empty: must have at least one stream")
	}
	names := make(map[string]*Tool)
	for i := range c.Tools {
		t, field := &c.Tools[i], fmt.Sprintf("Config.Tools[%d]", i)
		if err := t.validate(field); err != nil {
			return err
		}
		if names[t.Spec.Name] != nil {
			return fmt.Errorf("sim: %s.Spec.Name is %q: must differ from the other tools'", field, t.Spec.Name)
		}
		names[t.Spec.Name] = t
	}
	for i := range c.Tools {
		if err := nesting(names, &c.Tools[i], 1, fmt.Sprintf("Config.Tools[%d]", i)); err != nil {
			return err
		}
	}
	seen := make(map[string]bool)
	for i := range c.Traffic {
		t, field := &c.Traffic[i], fmt.Sprintf("Config.Traffic[%d]", i)
		if err := t.validate(field, names); err != nil {
			return err
		}
		if name := t.name(); seen[name] {
			return fmt.Errorf("sim: %s is a second stream named %q: must have a Name of its own", field, name)
		} else {
			seen[name] = true
		}
	}
	return nil
}

func (t *Tool) validate(field string) error {
	if t.Service.isZero() {
		return fmt.Errorf("sim: %s.Service is missing: must be made by Constant, Exponential, LogNormal or another", field)
	}
	for _, f := range []struct {
		name string
		d    Dist
	}{{"Service", t.Service}, {"RejectAfter", t.RejectAfter}, {"RetryAfter", t.RetryAfter}} {
		if err := f.d.check(field + "." + f.name); err != nil {
			return err
		}
	}
	if !(t.ErrorRate >= 0 && t.ErrorRate <= 1) {
		return fmt.Errorf("sim: %s.ErrorRate is %v: must be from 0 to 1", field, t.ErrorRate)
	}
	for i, o := range t.Outages {
		if o.From < 0 || o.From > check.MaxDuration || o.For <= 0 || o.For > check.MaxDuration {
			return fmt.Errorf("sim: %s.Outages[%d] is from %v for %v: From must not be negative and For positive, up to %v",
				field, i, o.From, o.For, check.MaxDuration)
		}
		if err := o.After.check(fmt.Sprintf("%s.Outages[%d].After", field, i)); err != nil {
			return err
		}
	}
	for i, s := range t.Capacity {
		switch {
		case s.Max < 0:
			return fmt.Errorf("sim: %s.Capacity[%d].Max is %d: must not be negative", field, i, s.Max)
		case s.From < 0 || s.From > check.MaxDuration:
			return fmt.Errorf("sim: %s.Capacity[%d].From is %v: must not be negative, up to %v",
				field, i, s.From, check.MaxDuration)
		case i > 0 && s.From <= t.Capacity[i-1].From:
			return fmt.Errorf("sim: %s.Capacity[%d].From is %v: must be after the step before, %v",
				field, i, s.From, t.Capacity[i-1].From)
		}
	}
	return nil
}

// maxDepth is the depth of nested calls that an executor allows by default.
const maxDepth = 32

// nesting says if the calls of t name unknown tools, or never end.
func nesting(names map[string]*Tool, t *Tool, depth int, field string) error {
	if depth > maxDepth {
		return fmt.Errorf("sim: %s.Calls leads back to itself or is more than %d deep: must end before", field, maxDepth)
	}
	for i, name := range t.Calls {
		if names[name] == nil {
			return fmt.Errorf("sim: %s.Calls[%d] is %q: must name one of Tools", field, i, name)
		}
		if err := nesting(names, names[name], depth+1, field); err != nil {
			return err
		}
	}
	return nil
}

func (t *Traffic) validate(field string, names map[string]*Tool) error {
	if names[t.Tool] == nil {
		return fmt.Errorf("sim: %s.Tool is %q: must name one of Tools", field, t.Tool)
	}
	if err := t.Arrivals.check(field + ".Arrivals"); err != nil {
		return err
	}
	if t.Priority != 0 && (t.Priority < sluice.PriorityBatch || t.Priority > sluice.PriorityInteractive) {
		return fmt.Errorf("sim: %s.Priority is %d: must be zero (the tool's) or from %d to %d",
			field, t.Priority, sluice.PriorityBatch, sluice.PriorityInteractive)
	}
	for unit, d := range t.Uses {
		if d.isZero() {
			return fmt.Errorf("sim: %s.Uses[%q] is the zero Dist: must be made by Constant, LogNormal or another", field, unit)
		}
		if err := d.check(fmt.Sprintf("%s.Uses[%q]", field, unit)); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"Deadline", t.Deadline}, {"From", t.From}, {"For", t.For}} {
		if err := check.Duration("sim: "+field+"."+f.name, f.d); err != nil {
			return err
		}
	}
	return nil
}

func (t *Traffic) name() string {
	if t.Name != "" {
		return t.Name
	}
	name := t.Tool
	if t.Tenant != "" {
		name += "/" + t.Tenant
	}
	if t.Priority != 0 {
		name += "/" + priorityName(t.Priority)
	}
	return name
}

func priorityName(p sluice.Priority) string {
	switch p {
	case sluice.PriorityBatch:
		return "batch"
	case sluice.PriorityNormal:
		return "normal"
	case sluice.PriorityInteractive:
		return "interactive"
	}
	return fmt.Sprintf("%d", p)
}
