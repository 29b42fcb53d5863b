package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice"
)

// usageDenied is told before the tool.denied of a call.
const usageDenied sluice.EventKind = "usage.denied"

// UsageLimitsConfig configures [UsageLimits]. Run or Session must have a limit.
type UsageLimitsConfig struct {
	Name    string       // in snapshots, and of its sessions in State; empty means "usage", at most 64 bytes
	Run     Usage        // what the calls of a run may use, see WithRun
	Session Usage        // what those with one SessionID may, of one tenant, in all runs; calls without one are of none
	Exit    ExitBehavior // what a refusal is to the turn

	// State keeps what sessions have used, under names that begin with "usage/", and must outlive them. It is for
	// Session alone. UsageLimits of one Name count together in it.
	State *sluice.SharedState

	Lifetime    time.Duration // for how long a session is known after its latest call; zero means 24 h; from 1 s to 8,760 h
	MaxSessions int           // that are known; a call of another is refused, with the code usage_unknown; zero means 10,000
	_           struct{}
}

const (
	minUsageLife     = time.Second
	maxUsageLife     = 8760 * time.Hour
	maxUsageSessions = 1_000_000
	maxUsageName     = 64 // bytes
)

// complete fills in the defaults.
func (c UsageLimitsConfig) complete() (UsageLimitsConfig, error) {
	c.Name, c.Lifetime, c.MaxSessions = cmp.Or(c.Name, "usage"), cmp.Or(c.Lifetime, 24*time.Hour), cmp.Or(c.MaxSessions, 10_000)
	if err := cmp.Or(c.Run.check("UsageLimitsConfig.Run"), c.Session.check("UsageLimitsConfig.Session"), c.Exit.check("UsageLimitsConfig.Exit")); err != nil {
		return c, err
	}
	switch {
	case len(c.Name) > maxUsageName || !utf8.ValidString(c.Name):
		return c, fmt.Errorf("agent: UsageLimitsConfig.Name has %d bytes: must be UTF-8, of at most %d", len(c.Name), maxUsageName)
	case !c.Run.limits() && !c.Session.limits():
		return c, errors.New("agent: UsageLimitsConfig.Run and Session are zero: one of them must have a limit")
	case c.Session.limits() && c.State == nil:
		return c, errors.New("agent: UsageLimitsConfig.State is nil: must be a SharedState for what Session limits")
	case c.Lifetime < minUsageLife || c.Lifetime > maxUsageLife:
		return c, fmt.Errorf("agent: UsageLimitsConfig.Lifetime is %v: must be zero (24 h) or from %v to %v", c.Lifetime, minUsageLife, maxUsageLife)
	case c.MaxSessions < 0 || c.MaxSessions > maxUsageSessions:
		return c, fmt.Errorf("agent: UsageLimitsConfig.MaxSessions is %d: must be zero (10,000) or 1 to %d", c.MaxSessions, maxUsageSessions)
	}
	c.Run, c.Session = c.Run.clone(), c.Session.clone()
	return c, nil
}

// UsageLimits bounds what calls use, all together in a run and in a session. That is how many there are, of each tool and
// in all, for how long their code runs, how much they answer, and how much they report of units such as tokens. A
// call that finds a limit used up is refused at once, with a [*UsageLimitError] as the cause of a
// [sluice.ErrDenied], which the model reads; Exit says what becomes of its turn.
//
// A call counts from the beginning, so that however many come at once no more run than are allowed. One whose
// code has not run in the end, since it was denied, refused by a gate or cancelled while it waited, or since a layer
// had a stored answer, does not count. What else a call uses is known when it ends: calls that have begun by then go
// on, so that they may use more than the limit together.
//
// It is an interceptor that stands outside approvals, and all that repeats, stores or stands in. It concerns calls of
// a run alone, see [WithRun], and of tools that a limit can refuse; to others it adds nothing. Nested calls count,
// too. Make it with [NewUsageLimits]; it is safe for concurrent use, may be listed in several executors, and never
// waits, but for the trips of a State that is a Fleet's.
type UsageLimits struct {
	conf UsageLimitsConfig
	kept context.Context // with the view that has the sessions; nil if they have no limits
}

// NewUsageLimits returns UsageLimits, or an error that names the wrong field.
func NewUsageLimits(c UsageLimitsConfig) (*UsageLimits, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	l := &UsageLimits{conf: c}
	if c.Session.limits() {
		view, err := c.State.View("usage/"+c.Name+"/", sluice.SharedStateConfig{MaxKeys: c.MaxSessions})
		if err != nil {
			return nil, fmt.Errorf("agent: UsageLimitsConfig.State: %w", err)
		}
		l.kept = sluice.WithState(context.Background(), view)
	}
	return l, nil
}

// String is the name in snapshots.
func (l *UsageLimits) String() string { return l.conf.Name }

// Wrap makes l an interceptor.
func (l *UsageLimits) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return l.Steps(tool).Wrap(next)
}

// Steps makes l a [sluice.Stepper].
func (l *UsageLimits) Steps(tool sluice.Spec) sluice.Steps {
	if !l.conf.Run.concerns(tool.Name) && !l.conf.Session.concerns(tool.Name) {
		return sluice.Steps{}
	}
	steps := sluice.Steps{Before: func(ctx context.Context, s *sluice.Step) {
		if r, _ := ctx.Value(runKey{}).(*run); r != nil {
			l.before(ctx, r, s)
		}
	}}
	if l.conf.Run.Bytes > 0 || l.conf.Session.Bytes > 0 {
		steps.After = func(_ context.Context, s *sluice.Step) {
			if r, ok := s.State.(*run); ok && s.Err == nil && !s.Attempt().Held {
				r.sized(s.Call().Key, sizeOf(s.Result))
			}
		}
	}
	return steps
}

// before has a call begin, or refuses it.
func (l *UsageLimits) before(ctx context.Context, r *run, s *sluice.Step) {
	err := l.claim(ctx, r, s.Call())
	if err == nil {
		if l.conf.Run.Bytes > 0 || l.conf.Session.Bytes > 0 {
			s.State = r
		}
		return
	}
	if x, ok := err.(*UsageLimitError); ok {
		_ = s.Emit(ctx, usageDenied, slog.String("reason", x.Code()), slog.String("scope", x.Scope),
			slog.String("limit", x.Limit), slog.String("name", x.Name), slog.Int64("max", x.Max))
	}
	s.Answer(sluice.Result{}, err)
}

// sizeOf is how many bytes a result has.
func sizeOf(r sluice.Result) int64 {
	if text, ok := r.Value.(string); ok {
		return int64(len(text))
	}
	raw, err := r.JSON()
	if err != nil {
		return 0
	}
	return int64(len(raw))
}

// sized says how large the result of a call is.
func (r *run) sized(key sluice.CallKey, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for x := r; x != nil; x = x.around {
		if c := x.open[key]; c != nil {
			c.bytes = n
		}
	}
}

// claim is what a call has taken of a run's limits, and of a session's.
type claim struct {
	limits  *UsageLimits
	session sluice.Key[usageEntry] // empty if it has none
	counts  bool                   // as a call: it is not made in place of another that does
	inCode  bool                   // the code of another call has made it, whose time has its own
	inCall  bool                   // that, or a layer of another, whose result has its own
}

// claim has c begin, in all runs that it is part of and in its session, or in none.
func (l *UsageLimits) claim(ctx context.Context, r *run, c sluice.Call) error {
	by, _ := sluice.CallFrom(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	var own claim // in r
	for x := r; x != nil; x = x.around {
		p, err := l.placeLocked(x, &c, &by)
		if err != nil {
			return err
		}
		if x == r {
			own = p
		}
		if p.counts {
			if over := x.used[l].over(&l.conf.Run, c.Tool); over != nil {
				return l.refusal(over, "run")
			}
		}
	}
	if own.session = l.session(c.Pipeline); own.session != "" && own.counts {
		if err := l.begin(own.session, c.Tool); err != nil {
			return err
		}
	}
	for x := r; x != nil; x = x.around {
		p, _ := l.placeLocked(x, &c, &by)
		if x == r {
			p.session = own.session
		}
		o := x.open[c.Key]
		if o.claims = append(o.claims, p); !p.counts {
			o.placed = x.open[by.Key]
			continue
		}
		if x.used == nil {
			x.used = map[*UsageLimits]Usage{}
		}
		x.used[l] = x.used[l].count(&l.conf.Run, c.Tool, 1)
	}
	return nil
}

// placeLocked is how c, which by has made, if that is not zero, counts in r.
func (l *UsageLimits) placeLocked(r *run, c, by *sluice.Call) (claim, error) {
	if r.open[c.Key] == nil {
		return claim{}, errLostRun
	}
	around := r.open[by.Key]
	p := claim{limits: l, counts: true, inCall: around != nil}
	switch {
	case around == nil:
	case by.Attempt > 0:
		p.inCode = true
	case !around.started && around.tool == c.Tool: // a layer has made it, and means it to be the same call
		for _, x := range around.claims {
			if x.limits == l {
				p.counts = false
			}
		}
	}
	return p, nil
}

// refusal is x as one of a limit of that scope.
func (l *UsageLimits) refusal(x *UsageLimitError, scope string) error {
	x.Scope, x.Exit = scope, l.conf.Exit
	return x
}

// settle says what the call o of r, which has ended as e says, has used.
func (p *claim) settle(r *run, o *openCall, e *sluice.Event) {
	l, tool := p.limits, o.tool
	if p.counts && !o.ran {
		r.used[l] = r.used[l].give(&l.conf.Run, tool)
		if p.session != "" {
			l.change(p.session, func(u Usage) Usage { return u.give(&l.conf.Session, tool) })
		}
		return
	}
	var x Usage
	if !p.inCode {
		x.Time = e.Duration
	}
	if !p.inCall {
		x.Bytes = o.bytes
	}
	if len(l.conf.Run.Units)+len(l.conf.Session.Units) > 0 {
		for _, c := range e.Result.Decision().Costs {
			if x.Units == nil {
				x.Units = map[string]int64{}
			}
			x.Units[c.Unit] = c.Actual
		}
	}
	r.used[l] = r.used[l].settle(&l.conf.Run, x)
	if s := &l.conf.Session; p.session != "" && (s.Time > 0 || s.Bytes > 0 || len(s.Units) > 0) {
		l.change(p.session, func(u Usage) Usage { return u.settle(s, x) })
	}
}

// usageVersion is that of the entries. Whoever changes what they mean counts it up.
const usageVersion = 1

// usageEntry is what the state has of a session. Other processes read it.
type usageEntry struct {
	V int `json:"v"`
	Usage
}

// session is where the session of p is kept, empty if it has none.
func (l *UsageLimits) session(p *sluice.PipelineContext) sluice.Key[usageEntry] {
	if l.kept == nil || p.SessionID == "" {
		return ""
	}
	tenant := tenantOf(*p)
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(tenant), tenant, p.SessionID))
	return sluice.Key[usageEntry](hex.EncodeToString(sum[:]))
}

// begin takes a call of a tool of a session.
func (l *UsageLimits) begin(session sluice.Key[usageEntry], tool string) error {
	var over *UsageLimitError
	err := l.update(session, func(u Usage) (Usage, error) {
		u, over = u.take(&l.conf.Session, tool)
		if over != nil {
			return u, over
		}
		return u, nil
	})
	switch {
	case err == nil:
		return nil
	case over != nil:
		return l.refusal(over, "session")
	}
	return &usageUnknownError{err}
}

// change has a session's usage change, if it can be.
func (l *UsageLimits) change(session sluice.Key[usageEntry], step func(Usage) Usage) {
	_ = l.update(session, func(u Usage) (Usage, error) { return step(u), nil })
}

func (l *UsageLimits) update(session sluice.Key[usageEntry], step func(Usage) (Usage, error)) error {
	_, err := session.Update(l.kept, func(e usageEntry, ok bool) (usageEntry, error) {
		if err := e.check(); ok && err != nil {
			return e, err
		}
		e.V = usageVersion
		var err error
		e.Usage, err = step(e.Usage)
		return e, err
	}, sluice.TTL(l.conf.Lifetime))
	return err
}

// check returns an error if e is none that this version understands.
func (e *usageEntry) check() error {
	if e.V != usageVersion {
		return fmt.Errorf("its entry is of version %d: must be %d", e.V, usageVersion)
	}
	return nil
}

// usageUnknownError is why a call is refused of whose session nothing can be known.
type usageUnknownError struct{ why error }

func (e *usageUnknownError) Error() string {
	return "it is not known how much tools may still be used here, so it has not run"
}
func (e *usageUnknownError) Code() string  { return "usage_unknown" }
func (e *usageUnknownError) Unwrap() error { return e.why }

// Used is what has been used so far, calls that run included: by the run of ctx, and by the session of its
// [sluice.PipelineContext], as [UsageLimitsConfig].Session counts it; zero where there is none. It has
// Calls, and what is limited. The error is one of the State. It does not wait.
func (l *UsageLimits) Used(ctx context.Context) (run, session Usage, err error) {
	run = l.usedBy(ctx)
	pc := sluice.PipelineContextFrom(ctx)
	key := l.session(&pc)
	if key == "" {
		return run, session, nil
	}
	e, _, err := key.Get(l.kept)
	if err == nil {
		err = e.check()
	}
	switch {
	case errors.Is(err, sluice.ErrAbsent):
		return run, session, nil
	case err != nil:
		return run, session, fmt.Errorf("agent: UsageLimits.Used: the session: %w", err)
	}
	return run, e.Usage.clone(), nil
}

func (l *UsageLimits) usedBy(ctx context.Context) Usage {
	r, _ := ctx.Value(runKey{}).(*run)
	if r == nil {
		return Usage{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used[l].clone()
}
