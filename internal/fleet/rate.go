package fleet

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// Rate is one rate of a limiter, whose buckets are the engine's.
type Rate struct {
	fleet *Fleet
	ref   *stage.Ref
	class *admit.Class
	limit string // the name of the limiter
}

var _ admit.Keeper = (*Rate)(nil)

const (
	// hold is how long a process keeps a unit that it does not use.
	hold = time.Second
	// ahead is how far ahead units are booked at least, so that processes need not ask again and again, and
	// maxAhead at most.
	ahead    = time.Second
	maxAhead = time.Minute
	// among is for how many processes' stocks that is.
	among = 16
	// part of a burst is in stock if nobody says how much.
	part = 20
)

// Add makes limits, the rates of a limiter of that name which counts by ref, f's. It answers an error
// that begins with the field that is wrong: if f is nil or closed, or has that name with another scope. No cell has been made yet.
func (f *Fleet) Add(ref *stage.Ref, limits []rules.Limit, limiter string, most, reserve int64) error {
	if f == nil {
		return errors.New(".Fleet is a zero value: must be made by NewFleet")
	}
	f.mu.Lock()
	if f.ending {
		f.mu.Unlock()
		return errors.New(".Fleet is closed: must be open")
	}
	if len(limits) > 0 {
		if err := f.claim("RateLimiter", limiter, limits[0].Scope); err != nil {
			f.mu.Unlock()
			return err
		}
	}
	list := slices.Clone(f.rates) // who has the old one reads it without the lock
	for _, l := range limits {
		r := &Rate{fleet: f, ref: ref, class: l.Class, limit: limiter}
		l.Class.Stock = r.stock(most, reserve)
		list = append(list, r)
	}
	added := list[len(f.rates):]
	f.rates = list
	f.mu.Unlock()
	f.start(func() { f.catchUp(added) })
	for _, r := range added {
		r.announce()
	}
	return nil
}

// Change is told that the rate, or how much of it is in stock, has changed. The machine is locked.
func (r *Rate) Change(m *admit.Machine, now, most, reserve int64) {
	m.SetStock(now, r.class, r.stock(most, reserve))
	r.announce()
}

// stock is what cells of r keep; most is zero for the default.
func (r *Rate) stock(most, reserve int64) *admit.Stock {
	n, per, burst := r.class.Rate.Terms()
	s := &admit.Stock{Most: cmp.Or(most, max(1, burst/part)), Reserve: reserve, Hold: int64(hold), Shadow: r.fleet.conf.Shadow, Keeper: r,
		Repeat: int64(r.fleet.repeat)}
	if book := float64(s.Most) * among * float64(per) / float64(n); book < float64(maxAhead) {
		s.Ahead = max(int64(ahead), int64(book))
	} else {
		s.Ahead = int64(maxAhead)
	}
	return s
}

// Run has c's errands made.
func (r *Rate) Run(c *admit.Cell) { r.fleet.start(func() { r.errands(c) }) }

func (r *Rate) errands(c *admit.Cell) {
	for {
		s := r.ref.Lock()
		e, more := s.M.Errand(s.Now(), c, admit.Op(engine.NewOpID()), admit.Op(engine.NewOpID()))
		unlock(s)
		if !more {
			return
		}
		if e.Max > 0 {
			r.fetch(c, &e)
		}
		if len(e.Corrections) > 0 {
			r.settle(c, &e)
		}
	}
}

func (r *Rate) fetch(c *admit.Cell, e *admit.Errand) {
	f := r.fleet
	d := engine.Draw{
		Op: engine.OpID(e.Op), Meters: []engine.Meter{r.meter(c.Key(), e.N, e.Per, e.Burst)},
		Min: e.Min, Max: e.Max, MaxWait: time.Duration(e.Ahead), Keep: e.Spare,
	}
	f.trips.Add(1)
	g, err := f.quota.Take(f.ctx, d)
	x := admit.Supplied{Units: g.Units, After: int64(g.After), Every: int64(g.Every)}
	switch {
	case err != nil:
		f.failed.Add(1)
		x = admit.Supplied{Failed: true, Refused: errors.Is(err, engine.ErrRefused), Pause: int64(max(pause(e.Fails), g.Retry))}
	case g.Units == 0:
		f.denied.Add(1)
		x.Pause = int64(max(time.Millisecond, g.Retry-d.MaxWait))
	default:
		f.fetched.Add(g.Units)
		if g.Units < e.Max {
			x.Pause = int64(max(0, g.Retry-d.MaxWait))
		}
	}
	s := r.ref.Lock()
	s.M.Supply(s.Now(), c, x)
	unlock(s)
}

func (r *Rate) settle(c *admit.Cell, e *admit.Errand) {
	f, m := r.fleet, r.meter(c.Key(), e.N, e.Per, e.Burst)
	list, back := make([]engine.Correction, len(e.Corrections)), int64(0)
	for i, x := range e.Corrections {
		list[i] = engine.Correction{Of: engine.OpID(x.Of), Meter: m, Delta: x.Units}
		back -= min(0, x.Units)
	}
	f.trips.Add(1)
	err := f.quota.Settle(f.ctx, engine.OpID(e.Saying), list)
	wait := time.Duration(0)
	if err == nil {
		f.settled.Add(back)
	} else {
		f.failed.Add(1)
		wait = pause(4)
	}
	s := r.ref.Lock()
	s.M.Settled(s.Now(), c, err == nil, int64(wait))
	unlock(s)
}

// meter is that of a key.
func (r *Rate) meter(key string, n, per, burst int64) engine.Meter {
	return engine.Meter{Key: r.fleet.key("rate", r.name(per), key), N: n, Per: time.Duration(per), Burst: burst, Cold: r.fleet.cold}
}

// name is what tells r from other rates: neither how much it is, nor its burst, so that processes which differ in
// that have one bucket.
func (r *Rate) name(per int64) string {
	return r.limit + "/" + r.class.Unit + "/" + time.Duration(per).String()
}

// key is what something of a limit and a cell's key is called at the engine.
func (f *Fleet) key(kind, name, key string) string {
	k := f.prefix + kind + "/" + name + "/" + key
	if len(k) > engine.MaxKey || !utf8.ValidString(k) {
		sum := sha256.Sum256([]byte(name + "/" + key))
		return f.prefix + kind + "/" + hex.EncodeToString(sum[:])
	}
	return k
}
