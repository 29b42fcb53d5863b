package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Combine lets concurrent draws on the same meters travel together. While one trip to the
// engine is under way, later draws gather and share the next. It is exact: the engine
// sees an ordinary [Draw], and no unit is drawn before somebody asked for it. One caller
// at a time pays nothing but a goroutine.
//
// Together go draws of one unit up to any number, and draws of one same fixed number, of
// the same meters. First every caller in order of arrival gets its least, then what is
// left fills them up in that order. A caller that leaves while its units travel leaves
// them to the next; if there is none they are lost, and counted. Draws that have an Op,
// which only the engine can remember, those that Keep some, and ranges with a Min above 1
// travel alone.
//
// A trip has a goroutine until the engine has returned, which one that does not heed its
// context does late or never. While 32 trips have not returned that all callers have left,
// none begins on other meters: [ErrFull].
//
// Make one with [NewCombine]; the zero value is not usable. It is safe for concurrent use.
type Combine struct {
	quota Quota
	conf  CombineConfig
	quit  context.Context
	stop  context.CancelFunc
	trips sync.WaitGroup
	lost  atomic.Int64
	flown atomic.Int64

	mu      sync.Mutex
	closed  bool
	lines   map[string]*line
	waiting int
	left    int // trips under way that all their riders have left
}

var _ Quota = (*Combine)(nil)

// CombineConfig configures a [Combine]. Its zero value is usable.
type CombineConfig struct {
	MaxWaiting int // callers at once, beyond that ErrFull; zero means 100,000
}

// line is where callers of the same meters wait. It is there while a trip is.
type line struct {
	class  string
	meters []Meter
	scale  int64 // units per unit of a trip
	queue  []*rider
}

// rider is a caller; units are those of its line.
type rider struct {
	ctx     context.Context // its values may travel along
	max     int64
	maxWait time.Duration
	trip    *trip // nil in the queue
	left    bool
	done    chan struct{} // closed when there is an answer
	grant   Grant
	at      time.Time // what After and Retry of grant count from
	err     error
}

// trip is one draw for several riders.
type trip struct {
	riders []*rider
	live   int // riders that have not left
	draw   Draw
	cancel context.CancelFunc
}

// NewCombine returns a Combine before q. Close it.
func NewCombine(q Quota, c CombineConfig) (*Combine, error) {
	if q == nil {
		return nil, badConfig("NewCombine's q", nil, "a Quota")
	}
	if c.MaxWaiting < 0 {
		return nil, badConfig("CombineConfig.MaxWaiting", c.MaxWaiting, "zero (100,000) or positive")
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = 100_000
	}
	b := &Combine{quota: q, conf: c, lines: map[string]*line{}}
	b.quit, b.stop = context.WithCancel(context.Background())
	return b, nil
}

// Trips counts the draws sent for several callers or one; not those that travel alone by
// their nature.
func (b *Combine) Trips() int64 { return b.flown.Load() }

// Lost counts the units that came for callers who had left, and that nobody else wanted.
func (b *Combine) Lost() int64 { return b.lost.Load() }

// Take waits for a trip's answer, or until ctx ends. The trip goes on without a caller
// that leaves, until the last has left.
func (b *Combine) Take(ctx context.Context, d Draw) (Grant, error) {
	d, err := d.Normal()
	if err != nil {
		return Grant{}, err
	}
	scale := d.Min
	if d.Min < d.Max {
		scale = 1
	}
	alone := !d.Op.IsZero() || d.Keep > 0 || d.Min > 1 && d.Min < d.Max
	for _, m := range d.Meters {
		alone = alone || scale*m.Each > MaxUnits
	}
	if alone {
		if b.quit.Err() != nil {
			return Grant{}, ErrClosed
		}
		return ask(ctx, b.quota, d)
	}
	if ctx.Err() != nil {
		return Grant{}, ended(ctx)
	}
	r := &rider{ctx: ctx, max: d.Max / scale, maxWait: d.MaxWait, done: make(chan struct{})}
	l, err := b.join(d, scale, r)
	if err != nil {
		return Grant{}, err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if err := b.leave(l, r, ctx); err != nil {
			return Grant{}, err
		}
	}
	if r.err != nil {
		return Grant{}, r.err
	}
	g := r.grant
	late := time.Since(r.at)
	g.After, g.Retry = max(0, g.After-late), max(0, g.Retry-late)
	g.Units *= l.scale
	return g, nil
}

// Settle goes to the engine as it is. Draws that travelled together had no Op: there is
// nothing of them to give back.
func (b *Combine) Settle(ctx context.Context, op OpID, list []Correction) error {
	if b.quit.Err() != nil {
		return ErrClosed
	}
	return b.quota.Settle(ctx, op, list)
}

// Hold goes to the engine as it is.
func (b *Combine) Hold(ctx context.Context, m Meter, d time.Duration) error {
	if b.quit.Err() != nil {
		return ErrClosed
	}
	return b.quota.Hold(ctx, m, d)
}

// Close refuses new calls, ends the trips under way, whose callers are left unsure, and
// returns when their goroutines have ended: an engine that does not heed its context
// delays it. It always returns nil.
func (b *Combine) Close() error {
	b.mu.Lock()
	b.closed = true
	for _, l := range b.lines {
		for _, r := range l.queue {
			b.answer(r, Grant{}, ErrClosed)
		}
		l.queue = nil
	}
	b.mu.Unlock()
	b.stop()
	b.trips.Wait()
	return nil
}

// join puts r in its line, and sends it on its way if nobody of that line is.
func (b *Combine) join(d Draw, scale int64, r *rider) (*line, error) {
	var room [256]byte
	class := appendMeters(room[:0], d.Meters)
	kind := byte('r') // a range; fixed draws have their own lines, booked ones too
	if d.Min == d.Max {
		kind = 'f'
	}
	if d.MaxWait > 0 {
		kind -= 'a' - 'A'
	}
	class = append(class, kind)
	for k := scale; k > 0; k >>= 8 {
		class = append(class, byte(k))
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	if b.waiting >= b.conf.MaxWaiting {
		return nil, fmt.Errorf("%w: CombineConfig.MaxWaiting is %d", ErrFull, b.conf.MaxWaiting)
	}
	l := b.lines[string(class)]
	if l == nil && b.left >= maxLeft {
		return nil, fmt.Errorf("%w: the engine has not returned from %d trips that nobody waits for", ErrFull, b.left)
	}
	b.waiting++
	if l != nil {
		l.queue = append(l.queue, r)
		return l, nil
	}
	l = &line{class: string(class), meters: slices.Clone(d.Meters), scale: scale, queue: []*rider{r}}
	for i := range l.meters {
		l.meters[i].Each *= scale
	}
	b.lines[l.class] = l
	b.departLocked(l)
	return l, nil
}

// departLocked sends the riders at the front of l's queue, as many as one draw can carry.
func (b *Combine) departLocked(l *line) {
	ctx := l.queue[0].ctx
	t := &trip{draw: Draw{Meters: l.meters, Min: 1, MaxWait: l.queue[0].maxWait}}
	n := 0
	for ; n < len(l.queue) && t.draw.Max+l.queue[n].max <= MaxUnits; n++ {
		r := l.queue[n]
		r.trip = t
		t.draw.Max += r.max
		t.draw.MaxWait = min(t.draw.MaxWait, r.maxWait)
	}
	t.riders = slices.Clone(l.queue[:n])
	t.live = n
	l.queue = slices.Delete(l.queue, 0, n)
	// The values of one caller's context travel along, its end does not.
	ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(b.quit, t.cancel)
	b.flown.Add(1)
	b.trips.Go(func() {
		fly(
			func() (Grant, error) { return ask(ctx, b.quota, t.draw) },
			func(g Grant, err error) {
				unhook()
				t.cancel()
				b.land(l, t, g, err)
			})
	})
}

// land hands out what t brought, and sends the next trip if somebody waits.
func (b *Combine) land(l *line, t *trip, g Grant, err error) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.live == 0 {
		b.left--
	}
	if err != nil {
		for _, r := range t.riders {
			b.answer(r, Grant{}, err)
		}
	} else {
		b.shareLocked(l, t, g, now)
	}
	if len(l.queue) == 0 || b.closed {
		delete(b.lines, l.class)
		return
	}
	b.departLocked(l)
}

// shareLocked gives the units of g to riders of t, and to those in the queue what is over.
func (b *Combine) shareLocked(l *line, t *trip, g Grant, now time.Time) {
	riders := slices.DeleteFunc(t.riders, func(r *rider) bool { return r.left })
	own := len(riders)
	left := g.Units
	take := min(left, int64(own)) // the first of them get their least
	left -= take
	served := riders[:take:take]
	over := left
	for _, r := range served {
		over -= min(over, r.max-1)
	}
	var passed []*rider
	for _, r := range l.queue {
		// All units come within the wait of everyone in t; of others that must be asked.
		if over == 0 || int64(own) > take {
			break
		}
		if g.After+time.Duration(g.Units-1)*g.Every <= r.maxWait {
			over -= min(over, r.max)
			left--
			r.trip = t
			served = append(served, r)
			passed = append(passed, r)
		}
	}
	if len(passed) > 0 {
		l.queue = slices.DeleteFunc(l.queue, func(r *rider) bool { return slices.Contains(passed, r) })
	}

	from := int64(0)
	for _, r := range served {
		more := min(left, r.max-1)
		left -= more
		mine := Grant{Units: 1 + more, After: g.After + time.Duration(from)*g.Every}
		if more > 0 {
			mine.Every = g.Every
		}
		if mine.Units < r.max {
			mine.Retry = g.Retry
		}
		from += mine.Units
		r.at = now
		b.answer(r, mine, nil)
	}
	b.lost.Add(left * l.scale)

	var again []*rider
	for _, r := range riders[take:] {
		// Whoever waits longer than the trip did may still get a booking.
		if r.maxWait > t.draw.MaxWait && g.Retry <= r.maxWait && !b.closed {
			r.trip = nil
			again = append(again, r)
			continue
		}
		r.at = now
		b.answer(r, Grant{Retry: g.Retry}, nil)
	}
	l.queue = append(again, l.queue...)
}

// answer ends r's wait unless it has left or has its answer.
func (b *Combine) answer(r *rider, g Grant, err error) {
	if r.left {
		return
	}
	select {
	case <-r.done:
		return
	default:
	}
	r.grant, r.err = g, err
	b.waiting--
	close(r.done)
}

// leave takes r out; it returns nil if r has its answer already.
func (b *Combine) leave(l *line, r *rider, ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-r.done:
		return nil
	default:
	}
	r.left = true
	b.waiting--
	if r.trip == nil {
		l.queue = slices.DeleteFunc(l.queue, func(other *rider) bool { return other == r })
		return ended(ctx)
	}
	if r.trip.live--; r.trip.live == 0 {
		b.left++
		r.trip.cancel()
	}
	return unsure(context.Cause(ctx))
}
