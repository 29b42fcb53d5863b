package sluice

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/turn"
)

// ThrottlePart names what a throttle is about, where an upstream limits its parts apart: a
// host, a resource, a policy, a model. A [RateLimiter] with Upstream set that counts
// [ByKey] with the name Kind has one key for each of them.
type ThrottlePart struct {
	Kind string // as in "host": the name given to ByKey; a part without one is ignored
	Key  string // which of them; a part without one, or with more than 1,024 bytes, is ignored
}

// ReportThrottle reports that an upstream asked the running call for a pause, as an error
// with a RetryAfter() time.Duration method does. Every waiter of what pauses is held, those
// who come meanwhile too. The calls that ctx's call is nested in are not concerned: their
// own limits and tools go on. Outside a call, after it has ended, and for a duration that is
// not positive it does nothing. It does not block.
//
// Without parts the keys of the call's Upstream rate limiters pause, for 24 hours at most.
// Parts say that it is about less than that, from wide to narrow: the host, then one of its
// resources. The last of them that an Upstream rate limiter of the tool counts [ByKey] has
// its key paused there, whatever the key of the call is, and nothing else is; an error says
// the same of one part by a ThrottledPart() (kind, key string) method. What is wider than
// the last part pauses for a minute at most: the key of another part, or, where no limiter
// counts by any of them, the keys of the call. So does the tool of a call without an Upstream
// rate limiter, with parts or without.
func ReportThrottle(ctx context.Context, retryAfter time.Duration, parts ...ThrottlePart) {
	if retryAfter <= 0 {
		return
	}
	r := scopeOf(ctx).call
	if r == nil {
		return
	}
	list := []throttle{{retryAfter, r.adm.aim(parts)}}
	s := r.adm.stage.Lock()
	if r.live {
		r.reported.Store(true)
		r.throttled(retryAfter)
		r.adm.throttle(s, r, list)
	}
	s.Unlock()
}

// maxWider bounds what an upstream can ask of what is wider than what it speaks of.
const maxWider = time.Minute

// throttle is what an upstream asked for.
type throttle struct {
	after time.Duration
	aim   aim
}

// aim is what a throttle is about.
type aim struct {
	classes []*admit.Class // whose key pauses; none means the call's own
	key     string
	bound   time.Duration // of the pause
}

// aim finds what the narrowest of parts is that a's limits tell apart.
func (a *admission) aim(parts []ThrottlePart) aim {
	bound := stage.MaxPause
	for _, p := range slices.Backward(parts) {
		if p.Kind == "" || p.Key == "" || len(p.Key) > rules.MaxKeyBytes {
			continue
		}
		x := aim{key: p.Key, bound: bound}
		for i := range a.parts {
			if l := &a.parts[i]; l.class.Upstream && l.key >= 0 && a.keys[l.key].Kind() == rules.ByKey && a.keys[l.key].Name() == p.Kind {
				x.classes = append(x.classes, l.class)
			}
		}
		if len(x.classes) > 0 {
			return x
		}
		bound = maxWider
	}
	return aim{bound: bound}
}

// throttle pauses what an upstream's answers to the attempt r, which is live, speak of.
func (a *admission) throttle(s *stage.Stage, r *running, list []throttle) {
	s.Together(func(int64) { a.throttleEach(s, r, list) }) // all of them, before anybody starts
}

func (a *admission) throttleEach(s *stage.Stage, r *running, list []throttle) {
	for _, x := range list {
		d := min(x.after, x.aim.bound)
		if d <= 0 {
			continue
		}
		cells := cellsOf(s, x.aim)
		if len(cells) == 0 { // the call's own, or the table of the part's is full
			cells = a.upstreams(s, r)
			if len(x.aim.classes) > 0 {
				d = min(d, maxWider)
			}
		}
		if len(cells) == 0 {
			cells, d = a.toolCells(r), min(d, maxWider)
		}
		for _, c := range cells {
			s.Pause(c, d)
		}
	}
}

// cellsOf is the cells that x means, made if need be: none if it means the call's own.
func cellsOf(s *stage.Stage, x aim) (cells []*admit.Cell) {
	for _, k := range x.classes {
		if c := s.M.Cell(s.Now(), k, x.key); c != nil {
			cells = append(cells, c)
		}
	}
	return cells
}

// upstreams is the cells of the Upstream rate limiters that apply to r's call, whatever it
// takes from them.
func (a *admission) upstreams(s *stage.Stage, r *running) (cells []*admit.Cell) {
	add := func(c *admit.Cell) {
		if c != nil && c.Class().Upstream && !slices.Contains(cells, c) {
			cells = append(cells, c)
		}
	}
	for _, n := range r.ticket.Needs() {
		add(n.Cell)
	}
	for i := range a.parts {
		add(a.parts[i].cell)
	}
	return cells
}

// toolCells is the cell of r's tool.
func (a *admission) toolCells(r *running) (cells []*admit.Cell) {
	for _, n := range r.ticket.Needs() {
		if n.Cell.Class() == a.tool.shared.core.limits[0].class {
			cells = append(cells, n.Cell)
		}
	}
	return cells
}

// aside is what few calls have to remember about their attempts.
type aside struct {
	again  atomic.Int64          // until when an upstream asked the latest attempt to wait, plus one; zero if none did
	failed atomic.Pointer[error] // of the attempt that ended last; nil if it did not fail
	late   atomic.Pointer[turn.Queue[*callEvent]]
	holds  atomic.Pointer[holds] // of those that a stream outlives, guarded by the stage's lock; nil without one

	mu      sync.Mutex
	charged []charge
	full    bool // there were more charges
}

// charge is an error that says that a call nested in an attempt met a throttle, which that
// call was charged with.
type charge struct {
	attempt int32
	err     error
	after   time.Duration // that it asks for; negative if it does not say
}

const maxCharges = 32

// remembers is what f remembers, made if need be.
func (f *first) remembers() *aside {
	if x := f.aside.Load(); x != nil {
		return x
	}
	f.aside.CompareAndSwap(nil, new(aside))
	return f.aside.Load()
}

// charged remembers that a call nested in r has been charged with what err says.
func (r *running) charged(err error, after time.Duration) {
	if r.hasCharged(err, after) {
		return
	}
	x := r.inv.first.remembers()
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.charged) >= maxCharges {
		x.full = true
		return
	}
	x.charged = append(x.charged, charge{r.attempt, err, after})
}

// hasCharged reports whether a call nested in r has been charged with what err says: with
// err itself, or with its equal. Beyond the bound of what is remembered, whatever asks for
// a pause counts as that of a nested call.
func (r *running) hasCharged(err error, after time.Duration) bool {
	x := r.inv.first.aside.Load()
	if x == nil {
		return false
	}
	x.mu.Lock()
	list, full := x.charged, x.full // of which nothing changes any more
	x.mu.Unlock()
	if full && after >= 0 {
		return true
	}
	for _, c := range list {
		if c.attempt == r.attempt && errwalk.Same(c.err, err, c.after == after) {
			return true
		}
	}
	return false
}

// retryable is an error that says when the upstream wants to be asked again.
type retryable interface {
	error
	RetryAfter() time.Duration
}

// blame is what the error of an attempt says about throttles.
type blame struct {
	r    *running // whose error it is, or nil
	left int      // nodes that may still be looked at

	own     []throttle // that the attempt itself met
	nested  bool       // there are some that calls nested in it have been charged with
	refusal bool       // or were refused
	carried []charge   // all errors that say so, for the call around
}

// blameOf looks through err.
func (r *running) blameOf(err error) blame {
	b := blame{r: r, left: errwalk.Max}
	b.nested = b.look(err, false)
	return b
}

// look looks at err and what it wraps, and answers whether a call nested in the attempt was
// charged with some of that: with all of it, if under is set.
//
// An error that asks for a pause and wraps such an error passes on what that said, so it is
// not the attempt's own; one that wraps others of the attempt's own speaks for them.
func (b *blame) look(err error, under bool) (nested bool) {
	if err == nil || b.left == 0 {
		return false
	}
	b.left--
	if e, ok := err.(*Error); ok && e != nil && e.Is(ErrRejected) {
		b.refusal = true
	}
	after, part, asks := asksFor(err)
	known := b.r != nil && b.r.hasCharged(err, after)
	under = under || known
	if asks || known {
		b.carried = append(b.carried, charge{err: err, after: after})
	}
	own := len(b.own)
	many, one := errwalk.Unwrap(err)
	if one != nil {
		nested = b.look(one, under)
	}
	for _, x := range many[:min(len(many), b.left)] {
		nested = b.look(x, under) || nested
	}
	nested = nested || under
	if asks && !nested && b.r != nil {
		b.own = append(b.own[:own], throttle{after, b.r.adm.aim(part)})
	}
	return nested
}

// asksFor is how long err itself, apart from what it wraps, asks to wait, and for what part.
func asksFor(err error) (after time.Duration, part []ThrottlePart, asks bool) {
	x, ok := errwalk.As[retryable](err)
	if !ok {
		return -1, nil, false
	}
	defer func() {
		if recover() != nil {
			after, part, asks = -1, nil, false
		}
	}()
	if after = x.RetryAfter(); after < 0 {
		return -1, nil, false
	}
	if p, ok := x.(interface{ ThrottledPart() (kind, key string) }); ok {
		kind, key := p.ThrottledPart()
		part = []ThrottlePart{{kind, key}}
	}
	return after, part, true
}

// passOn tells the attempt that inv is nested in, if any, which errors say that somebody
// else has been charged with a throttle already.
func (inv *invocation) passOn(carried []charge) {
	r := inv.parent.Load()
	if r == nil {
		return
	}
	for _, c := range carried {
		r.charged(c.err, c.after)
	}
}
