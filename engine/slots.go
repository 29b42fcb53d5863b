package engine

import (
	"context"
	"time"
)

// Claim asks for slots: Units of at most Limit that are live under Key.
type Claim struct {
	Key string
	// Holder names this one acquisition; a random string will do. It can have one lease of
	// a key: a second Acquire in its name, after an unknown outcome, finds that lease and
	// renews it. If the first still waits, the second waits in its place from then on, and
	// the first returns ErrLost; of other units, priority or tenant it is refused.
	Holder   string
	Units    int           // zero means 1
	Limit    int           // at least Units
	TTL      time.Duration // the lease ends after it unless renewed; positive
	MaxWait  time.Duration // zero means now or not at all
	Priority int           // higher first, strictly
	Tenant   string        // tenants of one priority share by weight
	Weight   int           // of the tenant; zero means 1
}

const (
	maxSlots  = 1 << 30
	maxWeight = 1 << 20
)

// Normal returns c with its zero fields filled in, or an error that names the field, its
// value and what is allowed and matches [ErrRefused].
func (c Claim) Normal() (Claim, error) {
	if err := checkKey("Claim.Key", c.Key); err != nil {
		return c, err
	}
	if err := checkKey("Claim.Holder", c.Holder); err != nil {
		return c, err
	}
	if c.Units == 0 {
		c.Units = 1
	}
	if c.Weight == 0 {
		c.Weight = 1
	}
	switch {
	case c.Limit < 1 || c.Limit > maxSlots:
		return c, invalid("Claim.Limit", c.Limit, "from 1 to 1<<30")
	case c.Units < 1 || c.Units > c.Limit:
		return c, invalid("Claim.Units", c.Units, "zero (1) or from 1 to Limit")
	case c.TTL <= 0 || c.TTL > MaxWait:
		return c, invalid("Claim.TTL", c.TTL, "positive, at most a year")
	case c.MaxWait < 0 || c.MaxWait > MaxWait:
		return c, invalid("Claim.MaxWait", c.MaxWait, "zero (do not wait) or positive, at most a year")
	case c.Weight < 1 || c.Weight > maxWeight:
		return c, invalid("Claim.Weight", c.Weight, "zero (1) or from 1 to 1<<20")
	case len(c.Tenant) > MaxKey:
		return c, invalid("length of Claim.Tenant", len(c.Tenant), "at most 512 bytes")
	}
	return c, nil
}

// Lease is the right to use slots until Until.
type Lease struct {
	Key, Holder string
	// Fence is larger than that of every lease of Key before. Whatever the slot protects
	// should refuse whoever comes with a smaller one than it has seen: a holder that was
	// stopped or cut off cannot know that its lease has ended.
	Fence uint64
	Units int
	// Until is when the holder must have stopped, by its own clock. An engine module
	// counts from before it sent what was granted, so that the engine's end is later.
	Until time.Time
}

// Slots are leases of a limited number of places.
type Slots interface {
	// Acquire waits for slots until ctx ends or MaxWait is over, then it returns
	// [ErrBusy]. Among those that wait the highest priority is next, then the tenant that
	// has had least for its weight, then arrival; the one that is next is not passed by
	// others that would fit. Who leaves holds nothing.
	Acquire(ctx context.Context, c Claim) (Lease, error)

	// Renew makes l end ttl from now, or returns [ErrLost].
	Renew(ctx context.Context, l Lease, ttl time.Duration) (Lease, error)

	// Release ends l. If it has ended before it returns [ErrLost] and ends nobody else's;
	// after an unknown outcome that is as good as nil.
	Release(ctx context.Context, l Lease) error
}
