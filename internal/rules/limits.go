package rules

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/errtext"
)

const (
	// MaxLimit bounds what one limit allows at once: 1<<40, or what half an int can hold.
	MaxLimit = min(1<<40, math.MaxInt>>1+1)
	// MaxKeyBytes bounds what a key of a call can be.
	MaxKeyBytes = 1024
	// DefaultKeys is how many keys a limit has at once, unless its configuration says.
	DefaultKeys = 10_000
)

// What the queue does unless a scheduler says otherwise.
const (
	Ageing   = 8
	MaxQueue = 1000
	// Claim is how often a head may fail at a front before slots are collected for it. Fewer
	// starves less and idles more; ARCHITECTURE.md has the figures.
	Claim = 4
)

// FirstInFirstOut is the policy without a scheduler.
var FirstInFirstOut = admit.Policy{Ageing: Ageing, Claim: Claim, MaxQueue: MaxQueue, MaxPerTenant: MaxQueue}

// maxWeight bounds what a number of starts, of results or of shares can be.
const maxWeight = 1 << 20

// Order completes what a scheduler says of the policy p.
func Order(field string, p *admit.Policy) error {
	if err := check.Count(field+".Ageing", &p.Ageing, Ageing, maxWeight); err != nil {
		return err
	}
	if err := check.Count(field+".MaxQueue", &p.MaxQueue, MaxQueue, 1<<30); err != nil {
		return err
	}
	if err := check.Count(field+".MaxPerTenant", &p.MaxPerTenant, p.MaxQueue, 1<<30); err != nil {
		return err
	}
	for name, w := range p.Weights {
		if w < 1 || w > maxWeight {
			return fmt.Errorf("%s.TenantWeights[%q] is %d: must be from 1 to %d", field, name, w, maxWeight)
		}
	}
	return nil
}

// Limit is one constraint: its cells and what they count by.
type Limit struct {
	Class *admit.Class
	Scope Scope
}

// Label is how a component stands in the names of its constraints: its kind, or kind/name.
func Label(kind, name string) string {
	if name == "" || name == kind {
		return kind
	}
	return kind + "/" + name
}

// Slots is one bound on calls in flight, or on their weight.
type Slots struct {
	Scope    Scope
	Unit     string // empty counts calls
	Refuse   bool
	Ordered  bool
	Max      int64
	Adaptive *admit.Adaptive // instead of Max; may be nil
	MaxKeys  int
	Shared   admit.Semaphore // with other code, of Max at least; may be nil
}

// Complete fills in the defaults of l, which stands after others in its limiter.
func (l *Slots) Complete(field string, before []Slots) (err error) {
	switch a := l.Adaptive; {
	case a != nil:
		a.Min = cmp.Or(a.Min, 1)
		switch {
		case l.Max != 0:
			return fmt.Errorf("%s.Max is %d with Adaptive: must be zero, Adaptive.Max bounds it", field, l.Max)
		case a.Min < 1 || a.Min > a.Max:
			return fmt.Errorf("%s.Adaptive.Min is %d: must be from 1 to Max (%d)", field, a.Min, a.Max)
		case a.Max > MaxLimit:
			return fmt.Errorf("%s.Adaptive.Max is %d: must be at most %d", field, a.Max, MaxLimit)
		}
	case l.Max < 1 || l.Max > MaxLimit:
		return fmt.Errorf("%s.Max is %d: must be from 1 to %d", field, l.Max, MaxLimit)
	}
	if l.Scope, err = l.Scope.Complete(field+".Scope", Global); err != nil {
		return err
	}
	if err := check.Name(field+".Unit", l.Unit); err != nil {
		return err
	}
	if err := Keys(field+".MaxKeys", &l.MaxKeys); err != nil {
		return err
	}
	for i, o := range before {
		if o.Scope.Same(l.Scope) && o.Unit == l.Unit {
			return fmt.Errorf("%s has the Scope and Unit of Limits[%d]: must differ in one", field, i)
		}
	}
	if l.Shared != nil && !l.Scope.OneKey() {
		return fmt.Errorf("%s.Scope is %v with Semaphore: must be Global, ForTool or ForType", field, l.Scope)
	}
	if l.Scope.Kind() == ByWeights && l.Unit != "" {
		return fmt.Errorf("%s.Unit is %q with ByWeights(%q): must be empty, the keys have their weights", field, l.Unit, l.Scope.Name())
	}
	if l.Ordered && l.Refuse {
		return fmt.Errorf("%s.Ordered is true with Refuse: must be false, nobody waits there who could be passed", field)
	}
	if l.Ordered && l.Shared != nil {
		return fmt.Errorf("%s.Ordered is true with Semaphore: must be false, other code keeps no order", field)
	}
	return nil
}

// Keys completes a MaxKeys.
func Keys(field string, n *int) error { return check.Count(field, n, DefaultKeys, math.MaxInt) }

// Class is the constraint of l, which the limiter of that name has.
func (l Slots) Class(limiter string) *admit.Class {
	name := Label("concurrency", limiter)
	if l.Unit != "" {
		name += " " + l.Unit
	}
	k := &admit.Class{
		Name:      name + " " + l.Scope.String(),
		Kind:      admit.Slots,
		Unit:      l.Unit,
		Refuse:    l.Refuse,
		Ordered:   l.Ordered,
		Weighted:  l.Scope.Kind() == ByWeights,
		MaxKeys:   l.Scope.TableSize(l.MaxKeys),
		Limit:     l.Max,
		Full:      full,
		Adaptive:  l.Adaptive,
		Semaphore: l.Shared,
	}
	if l.Adaptive != nil {
		k.Limit = l.Adaptive.Min
	}
	k.Rank, k.ByPlan = l.Scope.place()
	return k
}

// full is what is behind refusals by c, whose slots are taken.
func full(c *admit.Cell) error {
	return &errtext.Bound{Limit: c.Limit(), Anonymous: c.IsAnonymous()}
}

// Breaker says when a breaker opens and how it recovers; its fields are those of the root's
// BreakerPolicy.
type Breaker struct {
	Ratio    float64
	MinCalls int
	Window   time.Duration
	Failures int
	Cooldown time.Duration
	Probes   int
	Lease    time.Duration
}

// Complete fills in the defaults of b.
func (b *Breaker) Complete(field string) error {
	if !(b.Ratio >= 0 && b.Ratio <= 1) {
		return fmt.Errorf("%s.Ratio is %v: must be from 0 (0.5, or off with Failures) to 1%s", field, b.Ratio, check.Percent(b.Ratio))
	}
	if b.Failures == 0 && b.Ratio == 0 {
		b.Ratio, b.Failures = 0.5, 20
	}
	for _, f := range []struct {
		name      string
		v         *int
		def, most int
	}{
		{".Failures", &b.Failures, 0, maxWeight},
		{".MinCalls", &b.MinCalls, 5, maxWeight},
		{".Probes", &b.Probes, 1, breaker.MaxProbes},
	} {
		if err := check.Count(field+f.name, f.v, f.def, f.most); err != nil {
			return err
		}
	}
	if err := check.Span(field+".Window", &b.Window, 30*time.Second); err != nil {
		return err
	}
	if err := check.Span(field+".Cooldown", &b.Cooldown, 5*time.Second); err != nil {
		return err
	}
	return check.Span(field+".Lease", &b.Lease, time.Minute)
}

// Machine is b as the machine has it.
func (b Breaker) Machine() *breaker.Config {
	return &breaker.Config{
		Failures: b.Failures,
		Ratio:    b.Ratio,
		MinCalls: b.MinCalls,
		Window:   int64(b.Window),
		Cooldown: int64(b.Cooldown),
		Lease:    int64(b.Lease),
		Probes:   b.Probes,
	}
}

// Circuit is the constraint of the circuit breaker of that name.
func Circuit(name string, s Scope, maxKeys int, c *breaker.Config) *admit.Class {
	k := &admit.Class{
		Name:    Label("breaker", name),
		Kind:    admit.Breaker,
		MaxKeys: s.TableSize(maxKeys),
		Breaker: c,
	}
	k.Rank, k.ByPlan = s.place()
	return k
}

// ToolLabel is how a tool stands in the names of its own constraints.
func ToolLabel(tool string) string { return "tool/" + tool }

// ToolSlots is the constraint on calls of one tool in flight. They are counted, limited or not.
func ToolSlots(tool string, max int) *admit.Class {
	return &admit.Class{Name: ToolLabel(tool) + " concurrency", Kind: admit.Slots, Limit: Concurrency(max)}
}

// Concurrency is how many calls a tool may have in flight, which its policy has set to n.
func Concurrency(n int) int64 {
	if n > 0 {
		return int64(n)
	}
	return admit.Unlimited
}

// limitText is how a tool's slots stand in events.
func limitText(n int64) string {
	if n == admit.Unlimited {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}

// ToolRate is the constraint of a quota that one tool has.
func ToolRate(tool string, r Rate, b *bucket.Rate) *admit.Class {
	return &admit.Class{Name: ToolRateName(tool, r), Kind: admit.Tokens, Unit: r.Unit, Rate: b}
}

// ToolRateName is what the constraint of r is called.
func ToolRateName(tool string, r Rate) string { return r.named(ToolLabel(tool)) }

// ToolBreaker is the constraint of a breaker that one tool has.
func ToolBreaker(tool string, c *breaker.Config) *admit.Class {
	return &admit.Class{Name: ToolLabel(tool) + " breaker", Kind: admit.Breaker, Breaker: c}
}

// IsPriority reports whether p is one: from 1 to 9.
func IsPriority[P ~int8](p P) bool { return p >= 1 && p <= admit.Levels }

// Level is where the priority p stands among the queue's levels.
func Level[P ~int8](p P) int8 { return int8(p) - 1 }
