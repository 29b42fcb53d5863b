package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// Config is what a Fleet needs. Errors name its fields as the root does.
type Config struct {
	Engine       engine.Engine
	Name, Origin *string            // completed
	Budget       time.Duration      // of one trip
	Mode         engine.Mode        // what is answered while the engine is away
	Share        int                // of engine.LocalShare
	Shadow       bool               // nobody waits; who would have is counted
	Tell         func(Notice) error // on a goroutine of its own, one at a time; may block
}

// complete fills in the defaults.
func (c *Config) complete() error {
	switch {
	case c.Engine == nil:
		return errors.New(".Engine is nil: must be an engine.Engine")
	case c.Engine.Quota() == nil:
		return errors.New(".Engine has no Quota: must have one")
	case c.Mode < engine.Deny || c.Mode > engine.Admit:
		return fmt.Errorf(".Away is %d: must be engine.Deny, LocalShare or Admit", int(c.Mode))
	case c.Mode == engine.LocalShare && (c.Share < 1 || c.Share > maxShare):
		return fmt.Errorf(".Share is %d: must be from 1 to %d with LocalShare", c.Share, maxShare)
	case c.Mode != engine.LocalShare && c.Share != 0:
		return fmt.Errorf(".Share is %d: must be zero without LocalShare", c.Share)
	}
	if err := cmp.Or(check.NameOr(".Name", c.Name, "fleet"), check.NameOr(".Origin", c.Origin, engine.NewOpID().String()[:8]),
		check.Duration(".Budget", c.Budget)); err != nil {
		return err
	}
	c.Budget = cmp.Or(c.Budget, 100*time.Millisecond)
	return nil
}

const maxShare = 1 << 20

// Notice is a change that others are to hear of.
type Notice struct {
	By, Key  string // what it is about: the fleet, or a rate
	From, To string
	Cause    error // of an engine that came to be away
	At       time.Time
}

// Counts says what a Fleet has done so far.
type Counts struct {
	Trips            uint64 // fetches, settlements, and those of states
	Fetched, Settled int64  // units fetched, and given back
	Denied, Failed   uint64 // fetches that brought nothing, trips that failed
	Short            uint64 // in shadow: calls that would have waited, or would have been refused
	Slots            int64  // held
	Lost             uint64 // notices that nobody heard
	Away             bool
}

// Fleet makes errands for rates. Make one with [New]. It is safe for concurrent use.
type Fleet struct {
	conf   Config
	quota  *engine.Fallback
	store  engine.Store // nil without one
	repeat time.Duration
	cold   bool
	prefix string // of keys
	nonce  string // tells it from every other Fleet
	ctx    context.Context
	stop   context.CancelFunc
	closed chan struct{} // closed when Close is done

	trips, denied, failed, lost atomic.Uint64
	fetched, settled            atomic.Int64
	slotsAway                   atomic.Bool  // leases cannot be had, nor others be asked about breakers
	stuck                       atomic.Int32 // trips for slots and breakers that have not returned in time

	mu       sync.Mutex
	rates    []*Rate
	slots    []*Slots
	circuits []*Breaker
	scopes   map[string]rules.Scope // of what has a name at the engine
	missed   int                    // trips for slots and breakers, in a row
	away     bool
	ending   bool
	ended    bool
	errands  pool
	claims   pool          // which may wait long
	ballots  pool          // which try again and again
	left     int           // calls to the store that nobody waits for any more
	idle     chan struct{} // closed when there is no worker, once ending
	group    sync.WaitGroup
	heard    map[string]*heard // records that are there, by their keys
	ruled    map[string]*told  // those about breakers
	news     []Notice
	telling  bool
}

const (
	maxWorkers = 64
	maxClaims  = 1024
	maxLeft    = 32
	maxNews    = 100

	trip     = 3 // failures in a row until the engine counts as away
	cooldown = 250 * time.Millisecond

	firstPause = 10 * time.Millisecond // after a failure
	maxPause   = 250 * time.Millisecond
)

// version is that of what is written under the prefix.
const version = "sluice1/"

// claim has what, of that name, count by s in all of f. It answers an error if another one does by another scope: they
// would have one bucket, or one state, at the engine. It needs f.mu.
func (f *Fleet) claim(what, name string, s rules.Scope) error {
	if was, ok := f.scopes[what+" "+name]; ok && !was.Same(s) {
		return fmt.Errorf(".Name is %q: must differ from that of another %s of the Fleet, which has another Scope", name, what)
	}
	f.scopes[what+" "+name] = s
	return nil
}

// New returns a Fleet, or an error that begins with the field of c that is wrong.
func New(c Config) (*Fleet, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	f := &Fleet{conf: c, store: c.Engine.Store(), nonce: engine.NewOpID().String(), closed: make(chan struct{}), idle: make(chan struct{}),
		heard: make(map[string]*heard), errands: pool{most: maxWorkers}, claims: pool{most: maxClaims}, ballots: pool{most: maxWorkers},
		ruled: make(map[string]*told), scopes: make(map[string]rules.Scope)}
	f.prefix = version + *c.Name + "/"
	f.repeat = c.Engine.Limits().OpMemory / 2
	// One that lives in the process is empty when that begins, as limiters are without it.
	_, within := c.Engine.(*engine.Memory)
	f.cold = !within
	var err error
	f.quota, err = engine.NewFallback(c.Engine.Quota(), engine.FallbackConfig{
		Budget: c.Budget, Mode: c.Mode, Share: c.Share, Trip: trip, Cooldown: cooldown, OnChange: f.changed,
	})
	if err != nil {
		return nil, err
	}
	f.ctx, f.stop = context.WithCancel(context.Background())
	if f.store != nil {
		f.group.Add(1)
		go f.follow()
	}
	return f, nil
}

// changed tells that the engine is away, or back, for one of those who ask it.
func (f *Fleet) changed(_ bool, cause error) {
	f.mu.Lock()
	was, away := f.away, f.isAway()
	f.away = away
	f.mu.Unlock()
	if was == away {
		return
	}
	n := Notice{By: *f.conf.Name, From: "away", To: "there"}
	if away {
		n.From, n.To, n.Cause = n.To, n.From, cause
	}
	f.tell(n)
}

// isAway reports whether the engine does not answer somebody who asks it.
func (f *Fleet) isAway() bool { return f.quota.Away() || f.slotsAway.Load() }

// tell has n heard.
func (f *Fleet) tell(n Notice) {
	n.At = time.Now().Round(0)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.ended:
	case len(f.news) >= maxNews:
		f.lost.Add(1)
	default:
		f.news = append(f.news, n)
		if !f.telling {
			f.telling = true
			f.group.Add(1)
			go f.deliver()
		}
	}
}

// deliver has what there is heard, whatever that does.
func (f *Fleet) deliver() {
	defer f.group.Done()
	for {
		f.mu.Lock()
		if len(f.news) == 0 {
			f.telling = false
			f.mu.Unlock()
			return
		}
		n := f.news[0]
		f.news = f.news[1:]
		f.mu.Unlock()
		if guarded(func() error { return f.conf.Tell(n) }) != nil {
			f.lost.Add(1)
		}
	}
}

// pool is workers, of a bounded number. The Fleet's lock guards it.
type pool struct {
	most, workers int
	queue         []func() // what no worker is at yet
}

// start has a worker run do, now or when one is free. It does not block.
func (f *Fleet) start(do func()) { f.startBy(&f.errands, do) }

// startBy has one of p do so.
func (f *Fleet) startBy(p *pool, do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.ended:
	case p.workers < p.most:
		p.workers++
		f.group.Add(1)
		go f.work(p, do)
	default:
		p.queue = append(p.queue, do)
	}
}

func (f *Fleet) work(p *pool, do func()) {
	defer f.group.Done()
	for do != nil {
		do()
		f.mu.Lock()
		if do = nil; len(p.queue) > 0 {
			do = p.queue[0]
			p.queue = p.queue[1:]
		} else {
			p.workers--
			f.rest()
		}
		f.mu.Unlock()
	}
}

// rest says so if nobody is at work after the end has begun. f.mu is held.
func (f *Fleet) rest() {
	if !f.ending || f.errands.workers+f.claims.workers+f.ballots.workers > 0 {
		return
	}
	select {
	case <-f.idle:
	default:
		close(f.idle)
	}
}

// Close gives back what is held and ends what goes on, or gives that up when ctx ends. Calls of its rates are
// refused from then on. It returns when all goroutines have ended: nil if all was given back.
func (f *Fleet) Close(ctx context.Context) error {
	f.mu.Lock()
	if f.ending {
		f.mu.Unlock()
		select {
		case <-f.closed:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	f.ending = true
	rates, slots, circuits := f.rates, f.slots, f.circuits
	f.mu.Unlock()
	for _, b := range circuits {
		s := b.ref.Lock()
		s.M.LeaveVotes(s.Now(), b.class)
		unlock(s)
	}
	for _, r := range rates {
		s := r.ref.Lock()
		s.M.CloseStock(s.Now(), r.class)
		unlock(s)
	}
	for _, x := range slots {
		s := x.ref.Lock()
		s.M.CloseLeases(s.Now(), x.class)
		unlock(s)
		x.Tend()
	}
	f.mu.Lock()
	f.rest()
	f.mu.Unlock()
	var err error
	waits := []chan struct{}{f.idle}
	for _, x := range slots {
		waits = append(waits, x.over)
	}
	for _, c := range waits {
		select {
		case <-c:
			continue
		case <-ctx.Done():
		}
		err = fmt.Errorf("sluice: Fleet %q: not all was given back: %w", *f.conf.Name, context.Cause(ctx))
		break
	}
	f.mu.Lock()
	f.ended, f.errands.queue, f.claims.queue, f.ballots.queue = true, nil, nil, nil
	f.mu.Unlock()
	f.stop()
	go func() {
		f.group.Wait()
		_ = f.quota.Close()
		close(f.closed)
	}()
	select {
	case <-f.closed:
		return err
	case <-ctx.Done():
	}
	brief := time.NewTimer(f.conf.Budget) // what heeds its context has ended by then
	defer brief.Stop()
	select {
	case <-f.closed:
		return err
	case <-brief.C:
		return errors.Join(err, fmt.Errorf("sluice: Fleet %q: the engine, or the Sink, has not returned: %w", *f.conf.Name, context.Cause(ctx)))
	}
}

// unlock unlocks a stage; what listeners are to hear they hear on another goroutine.
func unlock(s *stage.Stage) { s.UnlockAside() }

// Counts is what f has done so far.
func (f *Fleet) Counts() Counts {
	c := Counts{Trips: f.trips.Load(), Fetched: f.fetched.Load(), Settled: f.settled.Load(), Denied: f.denied.Load(),
		Failed: f.failed.Load(), Lost: f.lost.Load(), Away: f.isAway()}
	f.mu.Lock()
	rates, slots := f.rates, f.slots
	f.mu.Unlock()
	for _, x := range slots {
		s := x.ref.Lock()
		c.Short += x.class.Short()
		c.Slots += x.class.HeldUnits()
		s.Unlock()
	}
	for _, r := range rates {
		s := r.ref.Lock()
		c.Short += r.class.Short()
		s.Unlock()
	}
	return c
}

// pause is how long to wait after so many failures in a row before the next try: doubled each time up to a
// bound, and less by up to half at random, so that processes do not come together.
func pause(fails int) time.Duration {
	d := maxPause
	if fails < 5 {
		d = min(d, firstPause<<fails)
	}
	return d - rand.N(d/2)
}
