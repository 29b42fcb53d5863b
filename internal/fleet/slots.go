package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// Slots is one limit of a limiter on calls in flight, whose slots are leased from the engine.
type Slots struct {
	fleet *Fleet
	ref   *stage.Ref
	class *admit.Class
	ttl   time.Duration // of a lease
	every time.Duration // between renewals
	kick  chan struct{} // there is something to do
	over  chan struct{} // closed when there will be nothing any more

	mu    sync.Mutex // comes after a stage's
	waits map[*admit.Cell]context.CancelFunc
}

var _ admit.Lessee = (*Slots)(nil)

const (
	// linger is how long a process keeps slots that it does not use.
	linger = time.Second
	// maxEvery is how often leases are renewed at least, since by that holders learn who waits elsewhere.
	maxEvery = 500 * time.Millisecond
	// claimWait is how long somebody waits in line at the engine until he asks again.
	claimWait = time.Second
	// refusedFor is how long a limit that refuses calls does so before it asks the engine again.
	refusedFor = 50 * time.Millisecond
	// margin is the part of a lease that is left for calls to end in.
	margin = 10
	// minLease is the shortest lease.
	minLease = 20 * time.Millisecond
)

// AddSlots makes limits, those of a limiter of that name which counts by ref, f's. It answers an error that
// begins with the field that is wrong: if f is nil or closed, or its engine has no slots or cannot give leases that short.
func (f *Fleet) AddSlots(ref *stage.Ref, limits []rules.Limit, limiter string, lease time.Duration) error {
	if f == nil {
		return errors.New(".Fleet is a zero value: must be made by NewFleet")
	}
	e := f.conf.Engine
	if e.Slots() == nil {
		return errors.New(".Fleet has an engine without Slots: must have some")
	}
	if least := max(minLease, e.Limits().MinTTL); lease < least {
		return fmt.Errorf(".Lease is %v: must be zero (10s) or at least %v", lease, least)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ending {
		return errors.New(".Fleet is closed: must be open")
	}
	list := slices.Clone(f.slots) // who has the old one reads it without the lock
	for _, l := range limits {
		s := &Slots{fleet: f, ref: ref, class: l.Class, ttl: lease, every: min(lease/3, maxEvery),
			kick: make(chan struct{}, 1), over: make(chan struct{}), waits: make(map[*admit.Cell]context.CancelFunc)}
		l.Class.Leases = &admit.Leases{
			Name: limiter, Linger: int64(linger), Retry: int64(refusedFor), Repeat: int64(lease + claimWait + 2*f.conf.Budget),
			Part: int64(f.conf.Share), Admits: f.conf.Mode == engine.Admit, Shadow: f.conf.Shadow, Lessee: s,
		}
		list = append(list, s)
		f.group.Add(1)
		go s.tend()
	}
	f.slots = list
	return nil
}

// Run has what c demands acquired.
func (s *Slots) Run(c *admit.Cell) { s.fleet.startBy(&s.fleet.claims, func() { s.acquire(c) }) }

// CallOff ends the wait for that.
func (s *Slots) CallOff(c *admit.Cell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.waits[c]; cancel != nil {
		cancel()
	}
}

// Tend has what is to be given back be so.
func (s *Slots) Tend() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Slots) acquire(c *admit.Cell) {
	for {
		x := s.ref.Lock()
		d, more := x.M.Demand(x.Now(), c, admit.Op(engine.NewOpID()))
		key := c.Key()
		ctx, cancel := context.WithCancel(s.fleet.ctx)
		s.mu.Lock()
		s.waits[c] = cancel
		if !more {
			delete(s.waits, c)
		}
		s.mu.Unlock()
		unlock(x)
		if !more {
			cancel()
			s.Tend() // which may wait for that
			return
		}
		got := s.claim(ctx, key, d)
		cancel()
		x = s.ref.Lock()
		x.M.Leased(x.Now(), c, got)
		unlock(x)
	}
}

// claim asks the engine for d.
func (s *Slots) claim(ctx context.Context, key string, d admit.Demand) admit.Acquired {
	f := s.fleet
	c := engine.Claim{Key: f.key("slots", s.class.Name, key), Holder: engine.OpID(d.Op).String(), Units: int(d.Units), Limit: int(d.Limit),
		TTL: s.ttl, Tenant: f.nonce, Cold: f.cold}
	if d.Urgent {
		c.Priority = 1
	}
	if d.Waits {
		c.MaxWait = claimWait
	}
	l, err := ask(f, ctx, c.MaxWait+f.conf.Budget, func(ctx context.Context) (engine.Lease, error) { return f.conf.Engine.Slots().Acquire(ctx, c) })
	switch {
	case err == nil && (l.Key != c.Key || l.Holder != c.Holder || l.Units != c.Units || l.Fence == 0):
		err = fmt.Errorf("%w: the engine answered another lease than was claimed", engine.ErrUnsure)
	case err != nil && ctx.Err() != nil && errors.Is(err, engine.ErrRefused): // it was called off
		return admit.Acquired{}
	}
	f.heardOf(ctx, err)
	switch {
	case errors.Is(err, engine.ErrBusy):
		f.denied.Add(1)
		return admit.Acquired{}
	case err != nil:
		return admit.Acquired{Failed: true, Sure: errors.Is(err, engine.ErrRefused), Pause: int64(pause(d.Fails))}
	}
	return admit.Acquired{Term: s.term(l, time.Now()), Fence: l.Fence, Wanted: int64(l.Wanted)}
}

// term is that of l, given or renewed after the instant since, as the machine has it: some of its time is left for
// calls to end in.
func (s *Slots) term(l engine.Lease, since time.Time) admit.Term {
	if latest := since.Add(s.ttl); l.Until.After(latest) { // which is not believed, nor said to the engine again
		l.Until = latest
	}
	now := time.Now()
	left := l.Left(now) - s.ttl/margin
	return admit.Term{Units: int64(l.Units), Until: l.Until, Left: int64(left), Wall: now.Round(0).Add(left).UnixNano()}
}

// tend gives back slots and renews leases until there is nothing more to do, after the end has begun.
func (s *Slots) tend() {
	f := s.fleet
	defer f.group.Done()
	defer close(s.over)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var given []*admit.Lease
	var due time.Time // of a renewal; zero without a lease
	for fails := 0; ; {
		x := s.ref.Lock()
		given = x.M.Given(s.class, given)
		leases := x.M.Leases(nil, s.class)
		unlock(x)
		given = s.giveBack(given)
		if len(leases) == 0 {
			due = time.Time{}
		} else if due.IsZero() {
			due = time.Now().Add(s.every)
		}
		switch now := time.Now(); {
		case due.IsZero() || due.After(now):
		case s.renew(leases):
			fails, due = 0, now.Add(s.every-rand.N(s.every/4))
		default:
			due = now.Add(min(pause(fails), s.every))
			fails++
		}
		wait := time.Duration(-1)
		if !due.IsZero() {
			wait = max(0, time.Until(due))
		}
		if len(given) > 0 {
			wait = pause(0)
		}
		if wait < 0 && f.isEnding() && s.isIdle() {
			return
		}
		if timer.Stop(); wait >= 0 {
			timer.Reset(wait)
		}
		select {
		case <-s.kick:
		case <-timer.C:
		case <-f.ctx.Done():
			return
		}
	}
}

// isIdle reports whether there is no lease, and nobody acquires one.
func (s *Slots) isIdle() bool {
	x := s.ref.Lock()
	defer x.Unlock()
	return x.M.AreIdle(s.class)
}

func (f *Fleet) isEnding() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ending
}

// lease is l as the engine has it, with so many units.
func (s *Slots) lease(l *admit.Lease, units int64) engine.Lease {
	return engine.Lease{Key: s.fleet.key("slots", s.class.Name, l.Key), Holder: engine.OpID(l.Op).String(), Fence: l.Fence,
		Units: int(units), Until: l.Until}
}

// giveBack gives back what list says, and answers what is left of it.
func (s *Slots) giveBack(list []*admit.Lease) (left []*admit.Lease) {
	if len(list) == 0 {
		return nil
	}
	type change struct {
		*admit.Lease
		from engine.Lease
		to   int64
	}
	var whole, parts []change
	x := s.ref.Lock()
	for _, l := range list {
		switch c := (change{l, s.lease(l, l.Told()), l.Units}); {
		case l.Told() == 0 || l.Until.Before(time.Now()): // it has ended
		case l.Units == 0:
			whole = append(whole, c)
		case l.Units < l.Told():
			parts = append(parts, c)
		}
	}
	x.Unlock()
	slots := s.fleet.conf.Engine.Slots()
	for some := range slices.Chunk(whole, engine.MaxBatch) {
		var batch []engine.Lease
		for _, c := range some {
			batch = append(batch, c.from)
		}
		_, err := ask(s.fleet, s.fleet.ctx, s.fleet.conf.Budget, func(ctx context.Context) (struct{}, error) { return struct{}{}, slots.Release(ctx, batch...) })
		s.fleet.heardOf(s.fleet.ctx, err)
		for _, c := range some {
			if err != nil {
				left = append(left, c.Lease)
			} else {
				s.shrunk(c.Lease, 0, false)
			}
		}
	}
	for _, c := range parts {
		l, err := ask(s.fleet, s.fleet.ctx, s.fleet.conf.Budget, func(ctx context.Context) (engine.Lease, error) {
			return slots.Resize(ctx, c.from, int(c.to), c.from.Units)
		})
		s.fleet.heardOf(s.fleet.ctx, err)
		switch {
		case err == nil && l.Units != int(c.to):
			left = append(left, c.Lease)
		case errors.Is(err, engine.ErrLost):
			s.shrunk(c.Lease, 0, true)
		case err != nil:
			left = append(left, c.Lease)
		default:
			s.shrunk(c.Lease, int64(l.Units), false)
		}
	}
	return left
}

func (s *Slots) shrunk(l *admit.Lease, units int64, ended bool) {
	x := s.ref.Lock()
	x.M.Shrunk(x.Now(), l, units, ended)
	unlock(x)
}

// renew renews list, and reports whether the engine has answered for all of it.
func (s *Slots) renew(list []*admit.Lease) bool {
	x := s.ref.Lock()
	x.M.Look(s.class) // the process may have slept
	asked := make([]engine.Lease, len(list))
	for i, l := range list {
		asked[i] = s.lease(l, l.Told())
	}
	unlock(x)
	for from := 0; from < len(list); from += engine.MaxBatch {
		to := min(len(list), from+engine.MaxBatch)
		batch, sent := asked[from:to], time.Now()
		out, err := ask(s.fleet, s.fleet.ctx, s.fleet.conf.Budget, func(ctx context.Context) ([]engine.Lease, error) {
			return s.fleet.conf.Engine.Slots().Renew(ctx, s.ttl, batch...)
		})
		if err == nil && !slices.EqualFunc(out, batch, answers) {
			err = fmt.Errorf("%w: the engine answered other leases than it was asked to renew", engine.ErrUnsure)
		}
		if s.fleet.heardOf(s.fleet.ctx, err); err != nil {
			return false
		}
		renewed := make([]admit.Renewal, len(out))
		for i, l := range out {
			renewed[i] = admit.Renewal{Lease: list[from+i], Term: s.term(l, sent), Wanted: int64(l.Wanted)}
		}
		x := s.ref.Lock()
		lost := x.M.Renewed(x.Now(), renewed)
		var news []Notice
		for c, units := range lost {
			news = append(news, Notice{By: s.class.Name, Key: c.Key(), From: fmt.Sprintf("%d slots leased", units), To: "ended by the engine", Cause: errEnded})
		}
		unlock(x)
		for _, n := range news {
			s.fleet.tell(n)
		}
	}
	return true
}

// answers reports whether l can be what became of asked.
func answers(l, asked engine.Lease) bool {
	return l.Key == asked.Key && l.Holder == asked.Holder && l.Fence == asked.Fence && l.Units >= 0 && l.Units <= asked.Units
}

var errEnded = errors.New("leases have ended before their time: the engine's clock has jumped, or it has lost its data")

// ask calls the engine, and waits no longer than d for it, and for it to heed its context. A call that does not
// is left, and none is made while many are.
func ask[T any](f *Fleet, ctx context.Context, d time.Duration, do func(context.Context) (T, error)) (T, error) {
	type answer struct {
		what T
		err  error
	}
	var none T
	f.mu.Lock()
	if f.ended || f.stuck.Load() >= maxLeft {
		f.mu.Unlock()
		return none, fmt.Errorf("%w: the engine has not returned from earlier calls", engine.ErrRefused)
	}
	f.group.Add(1)
	f.mu.Unlock()
	f.trips.Add(1)
	ctx, cancel := context.WithTimeout(ctx, d)
	done := make(chan answer, 1)
	var left atomic.Bool // by the caller, or the other way round
	go func() {
		defer f.group.Done()
		defer cancel()
		var a answer
		if err := guarded(func() (err error) { a.what, a.err = do(ctx); return nil }); err != nil {
			a.err = err
		}
		if done <- a; !left.CompareAndSwap(false, true) {
			f.stuck.Add(-1)
		}
	}()
	select {
	case a := <-done:
		return a.what, a.err
	case <-ctx.Done():
	}
	brief := time.NewTimer(f.conf.Budget)
	defer brief.Stop()
	select {
	case a := <-done:
		return a.what, a.err
	case <-brief.C:
	}
	if f.stuck.Add(1); !left.CompareAndSwap(false, true) {
		f.stuck.Add(-1)
		a := <-done
		return a.what, a.err
	}
	return none, context.Cause(ctx)
}

// heardOf notes whether the engine has answered somebody who asked about slots or breakers, with err, unless he has left.
func (f *Fleet) heardOf(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil {
		return
	}
	answers := err == nil
	for _, x := range []error{engine.ErrBusy, engine.ErrLost, engine.ErrFull, engine.ErrConflict} {
		answers = answers || errors.Is(err, x)
	}
	if !answers {
		f.failed.Add(1)
	}
	f.mu.Lock()
	if f.missed++; answers {
		f.missed = 0
	}
	away := f.missed >= trip
	changed := f.slotsAway.Swap(away) != away
	list, circuits := f.slots, f.circuits
	f.mu.Unlock()
	if !changed {
		return
	}
	for _, b := range circuits {
		s := b.ref.Lock()
		s.M.SetAlone(s.Now(), b.class, f.slotsAway.Load())
		unlock(s)
	}
	for _, s := range list {
		x := s.ref.Lock()
		x.M.SetAway(x.Now(), s.class, f.slotsAway.Load())
		unlock(x)
	}
	f.changed(away, err)
}
