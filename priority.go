package sluice

import (
	"errors"
	"fmt"
	"maps"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/rules"
)

// ErrQueueFull is the reason of a call that found the queue, or its tenant's part of it,
// full, or that was queued and then gave way to others.
var ErrQueueFull = errors.New("queue full")

// ErrWaitTooLong is the reason of a call that could not start, or did not, within MaxWait
// or before its deadline.
var ErrWaitTooLong = errors.New("wait too long")

// Priority orders waiting calls; higher first, from 1 to 9. The zero value asks for none
// and takes the next best: a run's is then its tool's, a tool's is PriorityNormal. A nested
// call has at least its caller's. A call with a priority outside that range is refused.
type Priority int8

const (
	PriorityBatch       Priority = 1
	PriorityNormal      Priority = 5
	PriorityInteractive Priority = 9
)

func (p Priority) valid() bool { return p >= PriorityBatch && p <= PriorityInteractive }

// level is where p stands among the queue's levels.
func (p Priority) level() int8 { return int8(p - PriorityBatch) }

// PriorityScheduler orders and bounds the queue of the admission stage it is listed in.
// Without one the queue is first in, first out, and holds 1,000 calls.
//
// At each constraint where calls wait, the level with the largest level*Ageing + passed
// is next, where passed counts the starts given to others there since its last one; inside
// a level the tenant with the smallest start tag (start-time fair queuing, Goyal, Vin and
// Cheng 1996), charged when a call starts; then arrival. So at one constraint at most
// Ageing*(8-level) + 8 others start between two starts of a waiting level, where a level is
// a priority less one, and tenants i and j of one level that both wait differ by at most
// 1/wi + 1/wj calls per weight. Ageing counts starts, not seconds: an old backlog of
// batch calls never outranks fresh interactive ones for longer than that.
//
// Make one with [NewPriorityScheduler]; the zero value is not usable. It is safe for
// concurrent use. Executors that share a registry or a gate share one queue, and so one
// scheduler.
type PriorityScheduler struct {
	core gateCore
	conf PrioritySchedulerConfig
}

// PrioritySchedulerConfig configures a [PriorityScheduler].
type PrioritySchedulerConfig struct {
	Name          string         // for snapshots; empty means "priority"
	Ageing        int            // starts given to others that are worth one priority step; zero means 8
	TenantWeights map[string]int // shares inside a level; missing means 1
	// MaxQueue is how many calls of one executor may wait at once; zero means 1,000. What fills
	// the queue has to be one's own to be refused for it: each tool, and each tenant, has 16
	// places (MaxQueue, if that is less) however many others wait.
	MaxQueue     int
	MaxPerTenant int // of one executor's calls, of one tenant; zero means MaxQueue, which is no bound of its own
	// Shed drops, when the queue is full, the newest call of the tenant with the most queued
	// per weight in the lowest level, instead of the newcomer.
	Shed bool
	// ShedStanding drops such calls also while the queue stands: while calls of its lowest
	// level keep waiting longer than their tool takes, for twenty times as long as that, and
	// then ever more often (controlled delay, RFC 8289).
	ShedStanding bool
	// RefuseLate refuses on arrival, with ErrWaitTooLong, what by estimate cannot start within
	// MaxWait or be done by its deadline: from the queue ahead of it and from how long calls
	// took lately. An estimate can be wrong either way.
	RefuseLate bool
	_          struct{}
}

func (c PrioritySchedulerConfig) validate() (PrioritySchedulerConfig, error) {
	if err := check.Name("sluice: PrioritySchedulerConfig.Name", c.Name); err != nil {
		return c, err
	}
	if c.Name == "" {
		c.Name = "priority"
	}
	for _, f := range []struct {
		name     string
		v        *int
		def, max int
	}{
		{"Ageing", &c.Ageing, rules.Ageing, 1 << 20},
		{"MaxQueue", &c.MaxQueue, rules.MaxQueue, 1 << 30},
		{"MaxPerTenant", &c.MaxPerTenant, 0, 1 << 30},
	} {
		if *f.v < 0 || *f.v > f.max {
			return c, fmt.Errorf("sluice: PrioritySchedulerConfig.%s is %d: must be from 0 to %d", f.name, *f.v, f.max)
		}
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	if c.MaxPerTenant == 0 {
		c.MaxPerTenant = c.MaxQueue
	}
	c.TenantWeights = maps.Clone(c.TenantWeights)
	for name, w := range c.TenantWeights {
		if w < 1 || w > 1<<20 {
			return c, fmt.Errorf("sluice: PrioritySchedulerConfig.TenantWeights[%q] is %d: must be from 1 to %d", name, w, 1<<20)
		}
	}
	return c, nil
}

func (c *PrioritySchedulerConfig) policy() admit.Policy {
	return admit.Policy{
		Ordered:      true,
		Ageing:       c.Ageing,
		Claim:        rules.Claim,
		MaxQueue:     c.MaxQueue,
		MaxPerTenant: c.MaxPerTenant,
		Shed:         c.Shed,
		Standing:     c.ShedStanding,
		RefuseLate:   c.RefuseLate,
		Weights:      c.TenantWeights,
	}
}

// NewPriorityScheduler returns a scheduler, or an error that names the field of c that is
// out of range.
func NewPriorityScheduler(c PrioritySchedulerConfig) (*PriorityScheduler, error) {
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	s := &PriorityScheduler{conf: c}
	s.core.name, s.core.stage = c.Name, new(stageRef)
	return s, nil
}

// Wrap makes s an [Interceptor]. An [Executor] makes it part of its admission stage and
// does not call it; the Handler of one that is called by hand refuses every call, and says so.
func (s *PriorityScheduler) Wrap(tool Spec, next Handler) Handler {
	return outside("PriorityScheduler", s.String())
}

// String is the name that Plan shows; "nil" of a nil pointer.
func (s *PriorityScheduler) String() string {
	if s == nil {
		return "nil"
	}
	return s.core.name
}

// Config returns a copy of the current configuration, defaults filled in.
func (s *PriorityScheduler) Config() PrioritySchedulerConfig {
	s.core.mu.Lock()
	defer s.core.mu.Unlock()
	c := s.conf
	c.TenantWeights = maps.Clone(c.TenantWeights)
	return c
}

// Change is the change to c, applied by [Reconfigure]; alone it does nothing. The name
// cannot change. Calls that wait already stay, also where the new bounds are narrower.
func (s *PriorityScheduler) Change(c PrioritySchedulerConfig) Change {
	return Change{&schedulerChange{s: s, to: c}}
}

type schedulerChange struct {
	s  *PriorityScheduler
	to PrioritySchedulerConfig
}

func (x *schedulerChange) target() any       { return x.s }
func (x *schedulerChange) refs() []*stageRef { return []*stageRef{x.s.core.stage} }

func (x *schedulerChange) check() (err error) {
	if x.to, err = x.to.validate(); err != nil {
		return err
	}
	if was := x.s.Config().Name; x.to.Name != was {
		return fmt.Errorf("sluice: PrioritySchedulerConfig.Name is %q: cannot change from %q", x.to.Name, was)
	}
	return nil
}

func (x *schedulerChange) apply(lk *locked) {
	s, now := lk.stage(x.s.core.stage)
	x.s.core.mu.Lock()
	was := x.s.conf
	x.s.conf = x.to
	x.s.core.mu.Unlock()
	if was.equal(&x.to) {
		return
	}
	if s.scheduler == x.s {
		s.m.SetPolicy(now, x.to.policy())
	}
	lk.changed(s, x.to.Name, fmt.Sprintf("queue %d", was.MaxQueue), fmt.Sprintf("queue %d", x.to.MaxQueue))
}

func (c *PrioritySchedulerConfig) equal(o *PrioritySchedulerConfig) bool {
	return c.Name == o.Name && c.Ageing == o.Ageing && c.MaxQueue == o.MaxQueue && c.MaxPerTenant == o.MaxPerTenant &&
		c.Shed == o.Shed && c.ShedStanding == o.ShedStanding && c.RefuseLate == o.RefuseLate && maps.Equal(c.TenantWeights, o.TenantWeights)
}
