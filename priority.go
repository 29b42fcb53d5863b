package sluice

import (
	"errors"
	"fmt"
	"maps"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/change"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// ErrQueueFull is the reason of a call that found the queue, or its tenant's part, full, or gave
// way.
var ErrQueueFull = errors.New("queue full")

// ErrWaitTooLong is the reason of a call that cannot start within MaxWait or its deadline, or did
// not.
var ErrWaitTooLong = errors.New("wait too long")

// Priority orders waiting calls, higher first; one outside 1 to 9 is refused. Zero means the
// tool's, and for a tool PriorityNormal. A nested call has at least its caller's.
type Priority int8

const (
	PriorityBatch       Priority = 1
	PriorityNormal      Priority = 5
	PriorityInteractive Priority = 9
)

// PriorityScheduler orders the queue by priority and fair shares of tenants, and bounds it. It stands among the gates,
// see [ConcurrencyLimiter]. A queue without one is first in, first out, of 1,000 calls.
//
// At each constraint where calls wait, the level (priority less one) with the largest level*Ageing + passed is next,
// where passed counts the starts of others there since its last; in it the tenant with the smallest start tag (start-time
// fair queuing); then arrival. So at most Ageing*(8-level) + 8 others start there between two starts of a waiting level;
// its waiting tenants i and j differ by at most 1/wi + 1/wj calls per weight.
type PriorityScheduler struct {
	core gateCore
	conf PrioritySchedulerConfig
}

// PrioritySchedulerConfig configures a [PriorityScheduler].
type PrioritySchedulerConfig struct {
	Name          string         // empty means "priority"
	Ageing        int            // starts of others worth one step; zero means 8
	TenantWeights map[string]int // shares in a level; missing means 1
	// MaxQueue calls of an executor may wait; zero means 1,000. Each tool and tenant has 16 places
	// (or MaxQueue), however many others wait.
	MaxQueue     int
	MaxPerTenant int // as MaxQueue, of one tenant; zero means MaxQueue
	// Shed drops from a full queue the newest call of the tenant with the most per weight in the
	// lowest level, not the newcomer.
	Shed bool
	// ShedStanding drops such calls also, ever more often, once those of the lowest level have
	// waited longer than their tool takes for twenty times that (controlled delay, RFC 8289).
	ShedStanding bool
	// RefuseLate refuses on arrival what by an estimate of the queue ahead and of tools misses
	// MaxWait or its deadline.
	RefuseLate bool
	// HandOff has a goroutine that gives back what calls wait for let those run before it goes on. So a slot idles for
	// about a microsecond, not for as long as that computes, 50 µs and more: of use where tools are short and callers
	// compute between calls. With more runnable goroutines than processors calls wait for Go's scheduler instead, where
	// no priority counts: at 512 goroutines the slowest in a hundred took 18 to 32 ms, not 2 to 3.
	HandOff bool
	_       struct{}
}

// complete fills in the defaults.
func (c PrioritySchedulerConfig) complete() (PrioritySchedulerConfig, error) {
	const field = "sluice: PrioritySchedulerConfig"
	if err := check.NameOr(field+".Name", &c.Name, "priority"); err != nil {
		return c, err
	}
	c.TenantWeights = maps.Clone(c.TenantWeights)
	p := c.policy()
	err := rules.Order(field, &p)
	c.Ageing, c.MaxQueue, c.MaxPerTenant = p.Ageing, p.MaxQueue, p.MaxPerTenant
	return c, err
}

// policy is c as the machine has it, if c is complete.
func (c *PrioritySchedulerConfig) policy() admit.Policy {
	return admit.Policy{
		Ordered: true, Claim: rules.Claim, Ageing: c.Ageing, MaxQueue: c.MaxQueue, MaxPerTenant: c.MaxPerTenant,
		Shed: c.Shed, Standing: c.ShedStanding, RefuseLate: c.RefuseLate, Weights: c.TenantWeights, HandOff: c.HandOff,
	}
}

// NewPriorityScheduler returns a scheduler.
func NewPriorityScheduler(c PrioritySchedulerConfig) (*PriorityScheduler, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	return &PriorityScheduler{core: gateCore{name: c.Name, stage: new(stage.Ref)}, conf: c}, nil
}

// Wrap makes s an [Interceptor].
func (s *PriorityScheduler) Wrap(tool Spec, next Handler) Handler { return outside(s) }

// String is the name.
func (s *PriorityScheduler) String() string { return nameOf(s) }

// Config returns a copy, defaults filled in.
func (s *PriorityScheduler) Config() PrioritySchedulerConfig {
	s.core.mu.Lock()
	defer s.core.mu.Unlock()
	c := s.conf
	c.TenantWeights = maps.Clone(c.TenantWeights)
	return c
}

// order is what the domain of an executor needs of s, which may be nil.
func (s *PriorityScheduler) order() stage.Order {
	if s == nil {
		return stage.Order{}
	}
	return stage.Order{Ref: s.core.stage, Name: s.String(), Policy: func() admit.Policy {
		c := s.Config()
		return c.policy()
	}}
}

// Change changes all but the name, by [Reconfigure]. Waiting calls stay, whatever the new bounds.
func (s *PriorityScheduler) Change(c PrioritySchedulerConfig) Change {
	return configChange(s, &s.core, &s.conf, c, s.fits, s.turn)
}

// fits says why s cannot become to, if it cannot.
func (s *PriorityScheduler) fits(was PrioritySchedulerConfig, to *PrioritySchedulerConfig) error {
	return check.Same("sluice: PrioritySchedulerConfig.Name", to.Name, was.Name)
}

// turn has the machine follow a change.
func (s *PriorityScheduler) turn(lk *change.Locked, st *stage.Stage, now int64, was, to PrioritySchedulerConfig) {
	old, policy := was.policy(), to.policy()
	if policy.Equal(&old) {
		return
	}
	if st.OrderedBy(s.core.stage) {
		st.M.SetPolicy(now, policy)
	}
	lk.Changed(st, to.Name, fmt.Sprintf("queue %d", was.MaxQueue), fmt.Sprintf("queue %d", to.MaxQueue))
}
