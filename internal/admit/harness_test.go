package admit

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
)

const (
	ms  int64 = 1e6
	sec int64 = 1e9
)

// world is a machine with names, so that tests read like tables: what happened since the
// last look is a line of names in the order in which they started or were refused.
type world struct {
	testing.TB
	m     *Machine
	now   int64
	news  []string
	calls []*Ticket // those that run or wait
	plans map[string]*Plan
	me    *Client
}

// standard is the policy that tests use unless they are about another one.
func standard() Policy {
	return Policy{Ordered: true, Ageing: 8, Claim: 4, MaxQueue: 1 << 30, MaxPerTenant: 1 << 30}
}

func newWorld(t testing.TB, p Policy) *world {
	return &world{TB: t, m: NewMachine(p), plans: map[string]*Plan{}, me: NewClient()}
}

func slots(name string, rank uint8, limit int64) *Class {
	return &Class{Name: name, Kind: Slots, Rank: rank, Limit: limit}
}

// units is a limit that calls take more or less of.
func units(name string, rank uint8, limit int64) *Class {
	return &Class{Name: name, Kind: Slots, Rank: rank, Limit: limit, Unit: "units"}
}

func (w *world) rate(name string, rank uint8, n, per, burst int64) *Class {
	w.Helper()
	r, err := bucket.NewRate(n, per, burst)
	if err != nil {
		w.Fatal(err)
	}
	return &Class{Name: name, Kind: Tokens, Rank: rank, Rate: &r}
}

func circuit(name string, cfg breaker.Config) *Class {
	return &Class{Name: name, Kind: Breaker, Breaker: &cfg}
}

// part is what a call takes of one limit.
type part struct {
	class *Class
	key   string
	n     int64
}

func (k *Class) of(n int64) part { return part{k, "", n} }

func (w *world) cell(k *Class) *Cell { return w.m.Cell(w.now, k, "") }

// at lets time pass up to now, ticking whenever something is due.
func (w *world) at(now int64) {
	w.Helper()
	for n := 0; w.m.Due() <= now && w.m.Due() < Never; n++ {
		if n > 1_000_000 {
			w.Fatalf("a million ticks without reaching %d: due %d", now, w.m.Due())
		}
		w.now = max(w.now, w.m.Due())
		w.m.Tick(w.now)
		w.collect()
	}
	w.now = max(w.now, now)
}

// first is the call that has run for longest.
func (w *world) first() *Ticket {
	return w.calls[slices.IndexFunc(w.calls, func(c *Ticket) bool { return c.State() == Running })]
}

type option func(*Ticket)

func within(limit int64) option   { return func(t *Ticket) { t.Limit = limit } }
func under(parent *Ticket) option { return func(t *Ticket) { t.Parent = parent } }
func of(p *Plan) option           { return func(t *Ticket) { t.Plan = p } }

// ticket makes a call that has not arrived. Its name is its owner.
func (w *world) ticket(name string, level int8, tenant string, what ...any) *Ticket {
	w.Helper()
	t := w.m.Ticket()
	t.Owner, t.Level, t.Tenant = name, level, tenant
	var parts []part
	for _, x := range what {
		switch x := x.(type) {
		case *Class:
			parts = append(parts, x.of(1))
		case part:
			parts = append(parts, x)
		case option:
			x(t)
		default:
			w.Fatalf("%T is no part of a call", x)
		}
	}
	slices.SortStableFunc(parts, func(a, b part) int { return a.class.order() - b.class.order() })
	var fixed []*Cell
	var keyed []*Class
	sign := ""
	for _, p := range parts {
		c := w.m.Cell(w.now, p.class, p.key)
		if c == nil {
			w.Fatalf("no room for key %q", p.key)
		}
		w.m.Add(t, c, p.n)
		if p.class.MaxKeys > 0 {
			keyed = append(keyed, p.class)
		} else {
			fixed = append(fixed, c)
		}
		sign += fmt.Sprintf(" %p", p.class)
	}
	if w.plans[sign] == nil {
		id := uint64(len(w.plans) + 1)
		w.plans[sign] = &Plan{Tool: id, Client: w.me}
		w.m.Together(fixed, keyed)
	}
	if t.Plan == nil {
		t.Plan = w.plans[sign]
	}
	return t
}

// plan is one that no other call has.
func (w *world) plan() *Plan { return &Plan{Tool: 1 << 32, Client: w.me} }

// arrive has a call arrive: classes and parts are what it needs, options what else it is.
func (w *world) arrive(name string, level int8, tenant string, what ...any) *Ticket {
	w.Helper()
	t := w.ticket(name, level, tenant, what...)
	switch w.m.Arrive(w.now, t) {
	case Running:
		w.news = append(w.news, name)
		w.calls = append(w.calls, t)
	case Refused:
		w.news = append(w.news, name+"!")
	default:
		w.calls = append(w.calls, t)
	}
	w.collect()
	return t
}

func (w *world) finish(ts ...*Ticket) {
	w.Helper()
	for _, t := range ts {
		w.ended(t, breaker.Success)
	}
}

func (w *world) ended(t *Ticket, o breaker.Outcome) {
	w.Helper()
	if t.State() != Running {
		w.Fatalf("%v is to finish and does not run (state %d)", t.Owner, t.State())
	}
	w.m.Finish(w.now, t, o)
	w.collect()
}

func (w *world) cancel(ts ...*Ticket) {
	w.Helper()
	for _, t := range ts {
		w.m.Cancel(w.now, t)
		w.collect()
	}
}

func (w *world) limit(k *Class, n int64) {
	w.Helper()
	w.m.SetLimit(w.now, k, n)
	for w.m.Pending() {
		w.m.Step(w.now)
	}
	w.collect()
}

func (w *world) pause(k *Class, until int64) {
	w.Helper()
	w.m.Pause(w.now, w.cell(k), until)
	w.collect()
}

// collect reads what the machine has decided and checks what must hold after every event.
func (w *world) collect() {
	w.Helper()
	for t := w.m.Decided(); t != nil; {
		next := t.Next()
		switch t.State() {
		case Running:
			w.news = append(w.news, t.Owner.(string))
			if t.Granted() != w.now {
				w.Errorf("%v started at %d, now is %d", t.Owner, t.Granted(), w.now)
			}
		case Refused:
			w.news = append(w.news, t.Owner.(string)+"!")
		default:
			w.Errorf("%v was decided on and has state %d", t.Owner, t.State())
		}
		t = next
	}
	w.calls = slices.DeleteFunc(w.calls, func(t *Ticket) bool { return t.State() != Waiting && t.State() != Running })
	w.check()
}

// check recounts what the machine believes.
func (w *world) check() {
	w.Helper()
	waiting, running := 0, 0
	for _, t := range w.calls {
		if t.State() == Running {
			running++
			continue
		}
		waiting++
		if t.lane == nil || t.lane.at == nil || t.lane.at.q == nil {
			w.Fatalf("%v waits and is parked nowhere", t.Owner)
		}
		if t.lane.nested {
			if in := w.m.cycle(t.lane); in != nil {
				w.Fatalf("%v waits for itself: %s", t.Owner, namesOf(in))
			}
		}
		if at := t.lane.at; t.prev == nil && len(w.m.claims) == 0 && (!at.bucketLike() && !at.shared || at.q.best(w.m.policy.Ageing) == t.lane) {
			if v := w.m.examine(t); v.cell == nil {
				w.Fatalf("every cell agrees to %v, which waits at %s", t.Owner, t.lane.at.class.Name)
			}
		}
	}
	if waiting != w.m.Waiting() || running != w.m.Running() {
		w.Errorf("the machine counts %d waiting and %d running, there are %d and %d", w.m.Waiting(), w.m.Running(), waiting, running)
	}
}

// sees fails unless exactly this happened since the last look: names in the order in which
// they started, with a ! if they were refused.
func (w *world) sees(want string) {
	w.Helper()
	if got := strings.Join(w.news, " "); got != want {
		w.Errorf("at %d ns: got %q, want %q", w.now, got, want)
	}
	w.news = w.news[:0]
}

// holds fails unless n slots of k are taken.
func (w *world) holds(k *Class, n int64) {
	w.Helper()
	if c := w.cell(k); c.used != n {
		w.Errorf("%s: %d slots are taken, want %d", k.Name, c.used, n)
	}
}

// count is what c counts; nothing, if that is not slots.
func (c *Cell) count() *slotCount {
	if c.slotCount == nil {
		return new(slotCount)
	}
	return c.slotCount
}

// rest fails unless nothing is left of what ran and waited.
func (w *world) rest(classes ...*Class) {
	w.Helper()
	for _, k := range classes {
		for _, c := range k.Cells() {
			if n := c.count(); n.used != 0 || n.stuck != 0 || c.calls != 0 || c.lanes != 0 || c.q != nil {
				w.Errorf("%s %q at rest: used %d, stuck %d, calls %d, lanes %d, queue %v", k.Name, c.key, n.used, n.stuck, c.calls, c.lanes, c.q != nil)
			}
		}
	}
	m := w.m
	m.Rest()
	if m.Waiting() != 0 || m.Running() != 0 || len(m.all) != 0 || m.lanes.n != 0 || len(m.claims) != 0 ||
		m.tenants.n != 0 || w.me.books.n+w.me.shares.n+w.me.tools.n != 0 || m.limits.Len() != 0 || m.timers.Len() != 0 || m.Due() != Never {
		w.Errorf("at rest: waiting %d, running %d, lanes %d/%d, claims %d, tenants %d, accounts %d, limits %d, timers %d",
			m.Waiting(), m.Running(), len(m.all), m.lanes.n, len(m.claims), m.tenants.n, w.me.books.n, m.limits.Len(), m.timers.Len())
	}
}

// refused fails unless t was refused for r by k (nil: by the queue), with this After.
func (w *world) refused(t *Ticket, r Reason, k *Class, after int64) {
	w.Helper()
	if t.State() != Refused || t.Refusal().Reason != r || t.Refusal().After != after {
		w.Errorf("%v: state %d, refusal %+v; want reason %d, after %d", t.Owner, t.State(), t.Refusal(), r, after)
	}
	if by := t.Refusal().By; (by == nil) != (k == nil) || by != nil && by.class != k {
		w.Errorf("%v: refused by %+v, want %+v", t.Owner, by, k)
	}
}
