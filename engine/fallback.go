package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Mode is what [Fallback] answers while the engine is away.
type Mode int

const (
	// Deny refuses with [ErrAway]: nothing beyond the limits, and no work either.
	Deny Mode = iota
	// LocalShare grants from a part of each meter that the process keeps for itself.
	LocalShare
	// Admit grants everything. There is no bound on what that adds up to.
	Admit
)

var modeNames = [...]string{"deny", "local share", "admit"}

// String is "deny", "local share" or "admit".
func (m Mode) String() string {
	if m < 0 || int(m) >= len(modeNames) {
		return fmt.Sprintf("Mode(%d)", int(m))
	}
	return modeNames[m]
}

// Fallback answers when the engine does not. Every call has a hard budget; an engine that
// has not answered when it is over, that failed, or whose answer cannot be true (see
// [Draw.Check]) is not believed, and what Mode says is answered instead. After Trip such
// calls in a row the engine counts as away and is not asked for Cooldown; then one call
// asks it, and the answer decides.
//
// A caller that leaves says nothing about the engine. Nothing is repeated. What an engine
// may have charged although its answer did not count stays charged.
//
// Each call has a goroutine until the engine has returned, which one that does not heed its
// context does late or never. While 32 calls have not returned whose callers are gone,
// because the budget was over or they left, no other is made, and Mode answers at once; so it
// does beyond MaxCalls under way. That lasts for each until one of them returns.
//
// With LocalShare each meter has an own balance in this process, at 1/Share of its rate
// and its burst (rounded down, but at least 1). If k of N processes are cut off for D at
// a Share of N or more, all together use at most (B + r*D)*(1 + k/Share) as long as B is
// at least Share. A draw whose Min costs more than that burst is denied.
//
// Make one with [NewFallback]; the zero value is not usable. It is safe for concurrent use.
type Fallback struct {
	quota Quota
	conf  FallbackConfig
	local memoryQuota // of LocalShare
	quit  context.Context
	stop  context.CancelFunc
	calls sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	flying  int // calls that the engine has not returned from
	left    int // of them: those whose caller is gone
	away    bool
	fails   int       // in a row, while not away
	until   time.Time // no call before, while away
	probing bool
	turn    uint64 // grows with every change of away, and with every probe's answer
	counts  FallbackCounts
}

var _ Quota = (*Fallback)(nil)

// FallbackConfig configures a [Fallback]. Mode is Deny if it is not set.
type FallbackConfig struct {
	Budget   time.Duration // of one call; zero means 100ms
	Mode     Mode          // what is answered instead
	Share    int           // of LocalShare, which needs it: the number of processes, or more
	Trip     int           // failures in a row until the engine counts as away; zero means 5
	Cooldown time.Duration // how long it is not asked then; zero means 1s
	MaxCalls int           // calls to the engine under way at once; zero means 1,000
	// OnChange, if not nil, is told when the engine comes to count as away, with the error
	// that decided it, and when it is back, with nil. It runs on a caller's goroutine and
	// must be quick. A panic in it is recovered.
	OnChange func(away bool, cause error)
}

// FallbackCounts says what a [Fallback] has done so far.
type FallbackCounts struct {
	Asked   uint64 // calls made to the engine
	Failed  uint64 // those that failed, were late or lied
	Instead uint64 // draws answered by Mode
	Granted int64  // units granted by Mode
	Trips   uint64 // how often the engine came to count as away
}

// NewFallback returns a Fallback before q. Close it.
func NewFallback(q Quota, c FallbackConfig) (*Fallback, error) {
	if q == nil {
		return nil, badConfig("NewFallback's q", nil, "a Quota")
	}
	switch {
	case c.Budget < 0 || c.Budget > MaxWait:
		return nil, badConfig("FallbackConfig.Budget", c.Budget, "zero (100ms) or positive, at most a year")
	case c.Mode < Deny || c.Mode > Admit:
		return nil, badConfig("FallbackConfig.Mode", int(c.Mode), "Deny, LocalShare or Admit")
	case c.Mode == LocalShare && (c.Share < 1 || c.Share > 1<<20):
		return nil, badConfig("FallbackConfig.Share", c.Share, "from 1 to 1<<20 with LocalShare")
	case c.Mode != LocalShare && c.Share != 0:
		return nil, badConfig("FallbackConfig.Share", c.Share, "zero without LocalShare")
	case c.Trip < 0:
		return nil, badConfig("FallbackConfig.Trip", c.Trip, "zero (5) or positive")
	case c.MaxCalls < 0:
		return nil, badConfig("FallbackConfig.MaxCalls", c.MaxCalls, "zero (1,000) or positive")
	case c.Cooldown < 0 || c.Cooldown > MaxWait:
		return nil, badConfig("FallbackConfig.Cooldown", c.Cooldown, "zero (1s) or positive, at most a year")
	}
	if c.Budget == 0 {
		c.Budget = 100 * time.Millisecond
	}
	if c.Trip == 0 {
		c.Trip = 5
	}
	if c.Cooldown == 0 {
		c.Cooldown = time.Second
	}
	if c.MaxCalls == 0 {
		c.MaxCalls = 1000
	}
	f := &Fallback{quota: q, conf: c}
	var limits MemoryConfig
	if err := limits.normal(); err != nil {
		return nil, err
	}
	f.local.open(limits, newClock())
	f.quit, f.stop = context.WithCancel(context.Background())
	return f, nil
}

// Take asks the engine, and answers by Mode if that fails or is not tried. It returns
// within Budget. With Deny the error then matches [ErrAway] and says by ErrRefused or
// ErrUnsure whether the engine may have charged anything; Grant.Retry is when it will be
// asked again.
func (f *Fallback) Take(ctx context.Context, d Draw) (Grant, error) {
	d, err := d.Normal()
	if err != nil {
		return Grant{}, err
	}
	g, err, instead := f.call(ctx, func(ctx context.Context) (Grant, error) { return ask(ctx, f.quota, d) })
	if !instead {
		return g, err
	}
	g, err = f.instead(d, err)
	f.mu.Lock()
	f.counts.Instead++
	f.counts.Granted += g.Units
	f.mu.Unlock()
	return g, err
}

// Settle corrects the engine's meters within Budget. A Take that LocalShare has answered is
// corrected where it was charged, whether the engine is back or not. While the engine is
// away an increase of any other is charged to LocalShare, and a decrease gives back nothing
// there; without LocalShare Settle then returns [ErrAway]. So a list that concerns both is
// not settled at one instant.
func (f *Fallback) Settle(ctx context.Context, op OpID, list []Correction) error {
	list, err := checkList(list)
	if err != nil {
		return err
	}
	if f.conf.Mode == LocalShare && ctx.Err() == nil {
		here := slices.DeleteFunc(slices.Clone(list), func(c Correction) bool { return !f.local.took(c.Of, c.Meter.Key) })
		list = slices.DeleteFunc(list, func(c Correction) bool { return f.local.took(c.Of, c.Meter.Key) })
		if len(here) > 0 {
			if err := f.settleLocal(ctx, op, here); err != nil || len(list) == 0 {
				return err
			}
		}
	}
	_, err, instead := f.call(ctx, func(ctx context.Context) (Grant, error) {
		return Grant{}, unsure(f.quota.Settle(ctx, op, list))
	})
	switch {
	case !instead:
		return err
	case f.conf.Mode == LocalShare:
		// Another name: there may be corrections of Takes from here in the list's own.
		return f.settleLocal(ctx, op.other(), list)
	default:
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
}

func (f *Fallback) settleLocal(ctx context.Context, op OpID, list []Correction) error {
	list = slices.Clone(list)
	for i := range list {
		part, err := f.part(list[i].Meter)
		if err != nil {
			return err
		}
		list[i].Meter = part
	}
	return f.local.Settle(context.WithoutCancel(ctx), op, list)
}

// Hold holds the engine's meter within Budget. With LocalShare the part that this process
// keeps is held, too, whether the engine is there or not. Without it Hold returns [ErrAway]
// while the engine is away.
func (f *Fallback) Hold(ctx context.Context, m Meter, d time.Duration) error {
	m, err := checkHold(m, d)
	if err != nil {
		return err
	}
	var here error
	if f.conf.Mode == LocalShare && ctx.Err() == nil {
		var part Meter
		if part, here = f.part(m); here == nil {
			here = f.local.Hold(ctx, part, d)
		}
	}
	_, err, instead := f.call(ctx, func(ctx context.Context) (Grant, error) {
		return Grant{}, unsure(f.quota.Hold(ctx, m, d))
	})
	switch {
	case !instead:
		return err
	case f.conf.Mode == LocalShare:
		return here
	default:
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
}

// Away reports whether the engine counts as away.
func (f *Fallback) Away() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.away
}

// Counts returns what has happened so far.
func (f *Fallback) Counts() FallbackCounts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

// Close refuses new calls, ends those under way, whose callers are left unsure, and
// returns when their goroutines have ended: an engine that does not heed its context
// delays it. It always returns nil.
func (f *Fallback) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.stop()
	f.calls.Wait()
	return f.local.close()
}

// verdict is what a call says about the engine.
type verdict int

const (
	neutral verdict = iota
	good
	bad
)

// call makes a call to the engine, within the budget. instead says that Mode has to
// answer, and err why.
func (f *Fallback) call(ctx context.Context, do func(context.Context) (Grant, error)) (g Grant, err error, instead bool) {
	if ctx.Err() != nil {
		return Grant{}, ended(ctx), false
	}
	type answer struct {
		g   Grant
		err error
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return Grant{}, ErrClosed, false
	}
	turn, why := f.turnLocked(time.Now())
	if why != "" {
		f.mu.Unlock()
		return Grant{}, fmt.Errorf("%w: not asked: %s", ErrRefused, why), true
	}
	f.counts.Asked++
	f.flying++
	var returned, left bool // guarded by f.mu
	mine, cancel := context.WithTimeout(ctx, f.conf.Budget)
	unhook := context.AfterFunc(f.quit, cancel)
	answers := make(chan answer, 1)
	f.calls.Go(func() {
		fly(
			func() (Grant, error) { return do(mine) },
			func(g Grant, err error) {
				unhook()
				f.mu.Lock()
				returned = true
				f.flying--
				if left {
					f.left--
				}
				f.mu.Unlock()
				answers <- answer{g, err}
			})
	})
	f.mu.Unlock()
	defer cancel()

	var a answer
	select {
	case a = <-answers:
	case <-mine.Done():
		select {
		case a = <-answers: // both at once: an answer is an answer
		default:
			a.err = unsure(context.Cause(mine))
			f.mu.Lock()
			if left = !returned; left {
				f.left++
			}
			f.mu.Unlock()
		}
	}
	switch {
	case a.err == nil:
		f.report(turn, good, nil)
		return a.g, nil, false
	case ctx.Err() != nil:
		f.report(turn, neutral, nil)
		return Grant{}, unsure(a.err), false
	case f.quit.Err() != nil:
		return Grant{}, unsure(a.err), false
	default:
		f.report(turn, bad, a.err)
		return Grant{}, a.err, true
	}
}

// maxLeft is how many calls may be under way whose callers are gone.
const maxLeft = 32

// turnLocked lets a call through to the engine, or says why not. The turn belongs to the
// call's report: one from before a change says nothing about what came after it.
func (f *Fallback) turnLocked(now time.Time) (turn uint64, why string) {
	switch {
	case f.away && (f.probing || now.Before(f.until)):
		return 0, "it is away"
	case f.left >= maxLeft:
		return 0, "it has not returned from too many earlier calls"
	case f.flying >= f.conf.MaxCalls:
		return 0, "too many calls are under way"
	}
	f.probing = f.away
	return f.turn, ""
}

func (f *Fallback) report(turn uint64, v verdict, cause error) {
	f.mu.Lock()
	if v == bad {
		f.counts.Failed++
	}
	if turn != f.turn {
		f.mu.Unlock()
		return
	}
	was := f.away
	switch {
	case v == neutral:
		f.probing = false
	case v == good:
		f.fails = 0
		if f.away {
			f.away, f.probing = false, false
			f.turn++
		}
	case f.away:
		f.probing = false
		f.until = time.Now().Add(f.conf.Cooldown)
		f.turn++
	default:
		if f.fails++; f.fails >= f.conf.Trip {
			f.away, f.fails = true, 0
			f.until = time.Now().Add(f.conf.Cooldown)
			f.turn++
			f.counts.Trips++
		}
	}
	away := f.away
	f.mu.Unlock()
	if away != was && f.conf.OnChange != nil {
		tell(func() { f.conf.OnChange(away, cause) })
	}
}

// instead answers d without the engine; cause is why.
func (f *Fallback) instead(d Draw, cause error) (Grant, error) {
	denied := func(cause error) (Grant, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		var g Grant
		if f.away {
			g.Retry = max(0, time.Until(f.until))
		}
		return g, fmt.Errorf("%w: %w", ErrAway, cause)
	}
	switch f.conf.Mode {
	case Admit:
		return Grant{Units: d.Max}, nil
	case LocalShare:
		parts := make([]Meter, len(d.Meters))
		for i, m := range d.Meters {
			part, err := f.part(m)
			if err != nil {
				return denied(err)
			}
			parts[i] = part
		}
		d.Meters = parts
		g, err := f.local.Take(context.Background(), d)
		if err != nil {
			return denied(err)
		}
		return g, nil
	default:
		return denied(cause)
	}
}

// part is the share of m that this process keeps.
func (f *Fallback) part(m Meter) (Meter, error) {
	share := int64(f.conf.Share)
	if int64(m.Per) > int64(MaxWait)/share {
		return m, invalid("Meter.Per", m.Per, "such that Share times as long is at most a year")
	}
	m.Per *= time.Duration(share)
	m.Burst = max(1, m.Burst/share)
	return m, nil
}
