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
	// Cold makes an engine that has lost its data, or begins, give nothing for this claim
	// before its data are TTL old, see [Engine]'s Epoch: leases that it forgot have ended by
	// then, or it has learned of them by [Slots.Renew]. Let all claims of a Key be Cold and of
	// one TTL, and no renewal longer. Otherwise it gives at once.
	Cold bool
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
	Units int // zero in an answer of Renew says that the lease has ended
	// Until is when the holder must have stopped, by its own clock. An engine module
	// counts from before it sent what was granted, so that the engine's end is later.
	Until time.Time
	// Wanted is how many units of Key others waited for when this was answered. A holder that
	// keeps what it has for long gives some up while that is not zero.
	Wanted int
}

// Left is for how long from now on the holder may use what l gives, zero or less when it must
// have stopped. It asks the monotonic clock and the wall clock, and believes the one that says
// less: one of them stands still while a machine sleeps. now is a time.Now.
func (l Lease) Left(now time.Time) time.Duration {
	return min(l.Until.Sub(now), l.Until.Round(0).Sub(now.Round(0)))
}

// Slots are leases of a limited number of places.
type Slots interface {
	// Acquire waits for slots until ctx ends or MaxWait is over, then it returns
	// [ErrBusy]. Among those that wait the highest priority is next, then the tenant that
	// has had least for its weight, then arrival; the one that is next is not passed by
	// others that would fit. Who leaves holds nothing.
	Acquire(ctx context.Context, c Claim) (Lease, error)

	// Renew makes each of leases, at most MaxBatch, end ttl from now, and returns them in the
	// same order, with what is Wanted of each. One that has ended comes back with no Units:
	// that is an answer, not an error. Of no leases nothing is asked.
	//
	// An engine that has lost its data learns here what is held: a lease that it does not know,
	// from before its data began, goes on if it has time Left and the engine has given nothing
	// else of its Key.
	Renew(ctx context.Context, ttl time.Duration, leases ...Lease) ([]Lease, error)

	// Resize gives the holder of l units in place of those it has, and leaves the end of l and
	// its fence as they are. Fewer can be had always. More are given now or not at all, [ErrBusy]:
	// if limit allows, and nobody waits for units of that key. If l has ended it returns
	// [ErrLost]. A repetition does no harm.
	Resize(ctx context.Context, l Lease, units, limit int) (Lease, error)

	// Release ends leases, at most MaxBatch, and nobody else's. Those that have ended before are
	// no error, so a repetition does no harm.
	Release(ctx context.Context, leases ...Lease) error
}

// MaxBatch is how many leases one Renew or Release can name, keys one Fetch, and changes one
// Commit.
const MaxBatch = 256

func checkBatch(field string, n int) error {
	if n > MaxBatch {
		return invalid("length of "+field, n, "at most 256")
	}
	return nil
}

func checkRenew(ttl time.Duration, leases []Lease) error {
	if ttl <= 0 || ttl > MaxWait {
		return invalid("ttl", ttl, "positive, at most a year")
	}
	return checkBatch("leases", len(leases))
}

func checkResize(units, limit int) error {
	switch {
	case limit < 1 || limit > maxSlots:
		return invalid("limit", limit, "from 1 to 1<<30")
	case units < 1 || units > limit:
		return invalid("units", units, "from 1 to limit")
	}
	return nil
}
