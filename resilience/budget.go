package resilience

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/sluice-go/sluice"
)

// Budget bounds retries and hedges to a share of the calls that are made. So what is overloaded is not
// asked more often than before. Layers that are given one Budget share it. Make one with [NewBudget]; it is
// safe for concurrent use, and nothing of it waits.
//
// Attempts beyond the first are never more than Share of the calls so far, and Min: each call adds Share to
// the balance, which begins with Min and is at most Max, and each further attempt takes one. A call that
// passes a [Retry] and a [Hedge] of one budget counts once, where it meets the Retry.
type Budget struct {
	share, most int64 // in parts of one attempt
	balance     atomic.Int64
	counted     atomic.Bool // a Retry counts the calls
}

// BudgetConfig configures a [Budget].
type BudgetConfig struct {
	Share float64 // further attempts for each call, up to 10; zero means 0.2
	Min   int     // that there are to begin with; zero means 10
	Max   int     // that may be saved up; zero means ten times Min
	_     struct{}
}

// one attempt, so that shares written as decimals are exact.
const one = 1_000_000

// maxBudget bounds Min and Max.
const maxBudget = 1 << 30

// NewBudget returns a full budget, or an error that names the wrong field.
func NewBudget(c BudgetConfig) (*Budget, error) {
	if c.Share == 0 {
		c.Share = 0.2
	}
	if !(c.Share > 0 && c.Share <= 10) {
		percent := ""
		if c.Share > 10 {
			percent = fmt.Sprintf("; %v %% is %v", c.Share, c.Share/100)
		}
		return nil, fmt.Errorf("resilience: BudgetConfig.Share is %v: must be zero (0.2) or from 0 to 10%s", c.Share, percent)
	}
	if c.Min < 0 || c.Min > maxBudget {
		return nil, fmt.Errorf("resilience: BudgetConfig.Min is %d: must be zero (10) or up to %d", c.Min, maxBudget)
	}
	if c.Min == 0 {
		c.Min = 10
	}
	if c.Max == 0 {
		c.Max = min(10*c.Min, maxBudget)
	}
	if c.Max < c.Min || c.Max > maxBudget {
		return nil, fmt.Errorf("resilience: BudgetConfig.Max is %d: must be zero (ten times Min) or from Min, %d, to %d", c.Max, c.Min, maxBudget)
	}
	b := &Budget{share: int64(math.Round(c.Share * one)), most: int64(c.Max) * one}
	b.balance.Store(int64(c.Min) * one)
	return b, nil
}

// earn adds the share of one call.
func (b *Budget) earn() { b.add(b.share) }

// sees adds the share of a call that a Hedge sees, unless a Retry counts the calls.
func (b *Budget) sees() {
	if !b.counted.Load() {
		b.earn()
	}
}

// giveBack takes back that an attempt was made.
func (b *Budget) giveBack() { b.add(one) }

// add adds so much, as far as there is room.
func (b *Budget) add(much int64) {
	for {
		was := b.balance.Load()
		now := min(was+much, b.most)
		if now == was || b.balance.CompareAndSwap(was, now) {
			return
		}
	}
}

// spend takes one attempt, if there is one.
func (b *Budget) spend() bool {
	for {
		was := b.balance.Load()
		if was < one {
			return false
		}
		if b.balance.CompareAndSwap(was, was-one) {
			return true
		}
	}
}

// left is how many attempts there are.
func (b *Budget) left() int64 { return b.balance.Load() / one }

// inspect is the budget of the layer of that name, for snapshots.
func (b *Budget) inspect(layer string) []sluice.GateState {
	most := b.most / one
	return []sluice.GateState{{Name: layer + " budget", Limit: most, Used: most - b.left()}}
}
