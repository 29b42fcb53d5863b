package rules

import (
	"fmt"
	"time"

	"github.com/sluice-go/sluice/internal/check"
)

// CompleteQuorum fills in how many breakers of a fleet have to be open until all are, if a fleet has them.
func CompleteQuorum(field string, fleet bool, n *int) error {
	if !fleet {
		if *n != 0 {
			return fmt.Errorf("%s.Quorum is %d without Fleet: must be zero", field, *n)
		}
		return nil
	}
	return check.Count(field+".Quorum", n, 2, maxQuorum)
}

// maxQuorum bounds how many processes have to agree.
const maxQuorum = 1 << 10

// maxLeased bounds what one limit allows whose slots are leased.
const maxLeased = 1 << 30

// CompleteLeases fills in for how long the slots of limits, which are complete, are leased, if a fleet has them.
func CompleteLeases(field string, fleet bool, lease *time.Duration, limits []Slots) error {
	if !fleet {
		if *lease != 0 {
			return fmt.Errorf("%s.Lease is %v without Fleet: must be zero", field, *lease)
		}
		return nil
	}
	for i, l := range limits {
		switch {
		case l.Adaptive != nil:
			return fmt.Errorf("%s.Limits[%d].Adaptive is set with Fleet: must be nil, each process would find out for itself", field, i)
		case l.Shared != nil:
			return fmt.Errorf("%s.Limits[%d].Semaphore is set with Fleet: must be nil, it is of one process", field, i)
		case l.Ordered:
			return fmt.Errorf("%s.Limits[%d].Ordered is true with Fleet: must be false, processes keep no order among them", field, i)
		case l.Max > maxLeased:
			return fmt.Errorf("%s.Limits[%d].Max is %d with Fleet: must be at most %d", field, i, l.Max, maxLeased)
		}
	}
	return check.Span(field+".Lease", lease, 10*time.Second)
}
