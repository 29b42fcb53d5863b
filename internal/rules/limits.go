package rules

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
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
	// starves less and idles more; see the package documentation of the root.
	Claim = 4
)

// FirstInFirstOut is the policy without a scheduler.
var FirstInFirstOut = admit.Policy{Ageing: Ageing, Claim: Claim, MaxQueue: MaxQueue, MaxPerTenant: MaxQueue}

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
	Max      int64
	Adaptive *admit.Adaptive // instead of Max; may be nil
	MaxKeys  int
	Shared   admit.Semaphore // with other code, of Max at least; may be nil
}

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
		MaxKeys:   l.Scope.TableSize(l.MaxKeys),
		Limit:     l.Max,
		Adaptive:  l.Adaptive,
		Semaphore: l.Shared,
	}
	if l.Adaptive != nil {
		k.Limit = l.Adaptive.Min
	}
	k.Rank, k.ByPlan = l.Scope.place()
	return k
}

// Quota is what the rates of one limiter have in common.
type Quota struct {
	Name     string // of the limiter
	Scope    Scope
	Refuse   bool
	Upstream bool
	MaxKeys  int
}

// Class is the constraint of one rate, whose bucket is b.
func (q Quota) Class(r Rate, b *bucket.Rate) *admit.Class {
	k := q.class(admit.Tokens, q.RateName(r))
	k.Unit, k.Rate, k.MaxKeys = r.Unit, b, q.Scope.TableSize(q.MaxKeys)
	return k
}

// RateName is what the constraint of r is called.
func (q Quota) RateName(r Rate) string { return r.named(Label("rate", q.Name)) }

// Shared is the constraint of a limiter that other code uses too.
func (q Quota) Shared(l admit.Limiter) *admit.Class {
	k := q.class(admit.Foreign, Label("rate", q.Name)+" shared limiter")
	k.Foreign = l
	return k
}

func (q Quota) class(kind admit.Kind, name string) *admit.Class {
	k := &admit.Class{Name: name, Kind: kind, Refuse: q.Refuse, Upstream: q.Upstream}
	k.Rank, k.ByPlan = q.Scope.place()
	return k
}

// Rate is N units per Per; its fields are those of the root's Rate, all of them set.
type Rate struct {
	N     int64
	Per   time.Duration
	Burst int64
	Unit  string // empty counts calls
}

// String is the rate as it stands in events: "90000 tokens per minute, burst 90000".
func (r Rate) String() string { return fmt.Sprintf("%d%s, burst %d", r.N, r.named(""), r.Burst) }

// named says what a rate counts, as providers write it: "tokens per minute".
func (r Rate) named(prefix string) string {
	unit := r.Unit
	if unit == "" {
		unit = "calls"
	}
	per := ""
	switch r.Per {
	case time.Second:
		per = "second"
	case time.Minute:
		per = "minute"
	case time.Hour:
		per = "hour"
	case 24 * time.Hour:
		per = "day"
	default:
		per = r.Per.String()
		for _, zero := range []string{"m0s", "h0m"} { // 5m0s is 5m, and 2h0m is 2h
			if strings.HasSuffix(per, zero) {
				per = per[:len(per)-2]
			}
		}
	}
	return prefix + " " + unit + " per " + per
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
