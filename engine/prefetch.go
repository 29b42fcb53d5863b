package engine

import (
	"context"
	"sync"
	"time"
)

// Prefetch draws units ahead, so that most draws are answered without a trip. Per list of
// meters it holds at most Size units, each at most for Hold; when fewer than LowWater are
// left it fetches more on a goroutine of its own. A draw that finds too few held goes to
// the engine itself.
//
// In any window W processes with it use at most B + r*W + N*Size units, N being their
// number; a crash loses at most Size, and after Hold no unit drawn before is used. Good
// sizes are small: a tenth of B/N or less, but no fewer than the callers that draw at
// once.
//
// Make one with [NewPrefetch]; the zero value is not usable. It is safe for concurrent use.
type Prefetch struct {
	quota Quota
	conf  PrefetchConfig
	quit  context.Context
	stop  context.CancelFunc
	trips sync.WaitGroup

	mu     sync.Mutex
	closed bool
	pools  map[string]*pool
	counts PrefetchCounts
}

var _ Quota = (*Prefetch)(nil)

// PrefetchConfig configures a [Prefetch]. Size is required.
type PrefetchConfig struct {
	Size     int64         // units held per list of meters, those under way included; from 1 to 1<<30
	LowWater int64         // fetch when fewer are held; zero means half of Size, rounded up
	Hold     time.Duration // how long a unit is held, from before it was asked for; zero means 1s
	Budget   time.Duration // how long one fetch may take; zero means 1s
	MaxPools int           // lists of meters; draws of further ones go to the engine; zero means 1,000
	// OnRefill, if not nil, is called after a fetch brought units, on the goroutine that
	// fetched them; whoever waits for them may try again. It must be quick. A panic in it
	// is recovered.
	OnRefill func()
}

// PrefetchCounts says what a [Prefetch] has done so far.
type PrefetchCounts struct {
	Hits    uint64 // draws answered from what was held
	Misses  uint64 // draws that went to the engine
	Fetches uint64
	Failed  uint64 // fetches that failed
	Fetched int64  // units
	Expired int64  // units that nobody used within Hold
	Held    int64  // units held now
}

// pool is what is held of one list of meters.
type pool struct {
	meters  []Meter
	batches []batch // oldest first
	held    int64
	flying  bool
	next    time.Time // no fetch before
}

type batch struct {
	units int64
	until time.Time
}

// NewPrefetch returns a Prefetch before q. Close it.
func NewPrefetch(q Quota, c PrefetchConfig) (*Prefetch, error) {
	if q == nil {
		return nil, badConfig("NewPrefetch's q", nil, "a Quota")
	}
	switch {
	case c.Size < 1 || c.Size > MaxUnits:
		return nil, badConfig("PrefetchConfig.Size", c.Size, "from 1 to 1<<30")
	case c.LowWater < 0 || c.LowWater > c.Size:
		return nil, badConfig("PrefetchConfig.LowWater", c.LowWater, "zero (half of Size) or from 1 to Size")
	case c.Hold < 0 || c.Hold > MaxWait:
		return nil, badConfig("PrefetchConfig.Hold", c.Hold, "zero (1s) or positive, at most a year")
	case c.Budget < 0 || c.Budget > MaxWait:
		return nil, badConfig("PrefetchConfig.Budget", c.Budget, "zero (1s) or positive, at most a year")
	case c.MaxPools < 0:
		return nil, badConfig("PrefetchConfig.MaxPools", c.MaxPools, "zero (1,000) or positive")
	}
	if c.LowWater == 0 {
		c.LowWater = (c.Size + 1) / 2
	}
	if c.Hold == 0 {
		c.Hold = time.Second
	}
	if c.Budget == 0 {
		c.Budget = time.Second
	}
	if c.MaxPools == 0 {
		c.MaxPools = 1000
	}
	p := &Prefetch{quota: q, conf: c, pools: map[string]*pool{}}
	p.quit, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// Take spends units that are held, if at least Min are, or asks the engine. A draw that
// has an Op always does.
func (p *Prefetch) Take(ctx context.Context, d Draw) (Grant, error) {
	d, err := d.Normal()
	if err != nil {
		return Grant{}, err
	}
	if ctx.Err() != nil {
		return Grant{}, ended(ctx)
	}
	g, ok, err := p.spend(d)
	if ok || err != nil {
		return g, err
	}
	return ask(ctx, p.quota, d)
}

// Try spends units that are held, between Min and Max, and never waits. False means that
// too few are; more are being fetched then, unless the engine has said that it is too
// soon. MaxWait does not matter.
func (p *Prefetch) Try(d Draw) (Grant, bool) {
	d, err := d.Normal()
	if err != nil {
		return Grant{}, false
	}
	g, ok, err := p.spend(d)
	return g, ok && err == nil
}

// Settle goes to the engine as it is. What is held was drawn without a name: there is
// nothing of it to give back.
func (p *Prefetch) Settle(ctx context.Context, op, of OpID, m Meter, delta int64) error {
	if p.quit.Err() != nil {
		return ErrClosed
	}
	return p.quota.Settle(ctx, op, of, m, delta)
}

// Counts returns what has happened so far.
func (p *Prefetch) Counts() PrefetchCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	c := p.counts
	c.Held = 0
	for _, l := range p.pools {
		c.Expired += l.expire(now)
		c.Held += l.held
	}
	p.counts.Expired = c.Expired
	return c
}

// Close refuses new calls, drops what is held, ends the fetches under way and returns when
// their goroutines have ended: an engine that does not heed its context delays it. It
// always returns nil.
func (p *Prefetch) Close() error {
	p.mu.Lock()
	p.closed = true
	p.pools = nil
	p.mu.Unlock()
	p.stop()
	p.trips.Wait()
	return nil
}

// spend answers d from what is held, if it can, and has more fetched if little is left.
func (p *Prefetch) spend(d Draw) (Grant, bool, error) {
	var room [256]byte
	class := appendMeters(room[:0], d.Meters)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return Grant{}, false, ErrClosed
	}
	if !d.Op.IsZero() {
		p.counts.Misses++
		return Grant{}, false, nil
	}
	now := time.Now()
	l := p.pools[string(class)]
	if l == nil {
		if l = p.addLocked(now, string(class), d.Meters); l == nil {
			p.counts.Misses++
			return Grant{}, false, nil
		}
	}
	p.counts.Expired += l.expire(now)
	var g Grant
	if l.held >= d.Min {
		g.Units = min(d.Max, l.held)
		l.spend(g.Units)
		p.counts.Hits++
	} else {
		p.counts.Misses++
	}
	if l.held < p.conf.LowWater && !l.flying && !now.Before(l.next) {
		p.fetchLocked(now, l)
	}
	return g, g.Units > 0, nil
}

// addLocked makes a pool, in place of an idle one if there are too many; nil if all are
// in use.
func (p *Prefetch) addLocked(now time.Time, class string, list []Meter) *pool {
	if len(p.pools) >= p.conf.MaxPools {
		for key, l := range p.pools {
			p.counts.Expired += l.expire(now)
			if l.held == 0 && !l.flying {
				delete(p.pools, key)
			}
		}
		if len(p.pools) >= p.conf.MaxPools {
			return nil
		}
	}
	l := &pool{meters: append([]Meter(nil), list...)}
	p.pools[class] = l
	return l
}

// fetchLocked fills l up. What is held and what is under way never exceed Size.
func (p *Prefetch) fetchLocked(now time.Time, l *pool) {
	d := Draw{Meters: l.meters, Min: 1, Max: p.conf.Size - l.held}
	l.flying = true
	p.counts.Fetches++
	p.trips.Go(func() {
		ctx, cancel := context.WithTimeout(p.quit, p.conf.Budget)
		defer cancel()
		fly(
			func() (Grant, error) { return ask(ctx, p.quota, d) },
			func(g Grant, err error) {
				if p.land(now, l, g, err) && p.conf.OnRefill != nil {
					tell(p.conf.OnRefill)
				}
			})
	})
}

// land adds what a fetch sent at sent brought; true if that is something.
func (p *Prefetch) land(sent time.Time, l *pool, g Grant, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	l.flying = false
	switch {
	case err != nil:
		p.counts.Failed++
		l.next = now.Add(p.conf.Hold) // whoever needs units now asks for them itself
	case g.Units < p.conf.Size:
		l.next = now.Add(g.Retry)
	}
	if g.Units == 0 || p.closed {
		return false
	}
	p.counts.Fetched += g.Units
	l.batches = append(l.batches, batch{g.Units, sent.Add(p.conf.Hold)})
	l.held += g.Units
	p.counts.Expired += l.expire(now)
	return l.held > 0
}

// expire drops what has been held too long, and returns how much that is.
func (l *pool) expire(now time.Time) (units int64) {
	n := 0
	for n < len(l.batches) && !now.Before(l.batches[n].until) {
		units += l.batches[n].units
		n++
	}
	if n > 0 {
		l.batches = append(l.batches[:0], l.batches[n:]...)
		l.held -= units
	}
	return units
}

// spend uses n of the held units, the oldest first.
func (l *pool) spend(n int64) {
	l.held -= n
	i := 0
	for ; n > 0; i++ {
		if b := &l.batches[i]; b.units > n {
			b.units -= n
			break
		}
		n -= l.batches[i].units
	}
	l.batches = append(l.batches[:0], l.batches[i:]...)
}
