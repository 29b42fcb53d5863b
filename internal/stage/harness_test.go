package stage

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/sluice-go/sluice/internal/rules"
)

// member is a client of a few lines: what it lists, and who listens for it.
type member struct {
	lists []Member
	hears Listener
}

// listing is a client that lists what the refs of these names lead from.
func listing(refs map[string]*Ref, names ...string) *member {
	c := new(member)
	for _, n := range names {
		if refs[n] == nil {
			refs[n] = new(Ref)
		}
		c.lists = append(c.lists, Member{refs[n], n})
	}
	return c
}

// Has reports whether c has the tool "known", or one of the type "kind".
func (c *member) Has(k rules.Kind, key string) bool {
	return key == map[rules.Kind]string{rules.ByTool: "known", rules.ByType: "kind"}[k]
}

func (c *member) Members() []Member { return c.lists }

func (c *member) Names() (names []string) {
	for _, x := range c.lists {
		names = append(names, x.Name)
	}
	return names
}

// Listeners is those of all, each once.
func (c *member) Listeners(all []Client) (list []Listener) {
	for _, x := range all {
		if l := x.(*member).hears; l != nil && !slices.Contains(list, l) {
			list = append(list, l)
		}
	}
	return list
}

// ear is a listener that notes what it hears. What it does then, if anything, it does first.
type ear struct {
	heard  []Notice
	missed int
	does   func(n *Notice)
}

func (l *ear) Hear(n *Notice) {
	if l.does != nil {
		l.does(n)
	}
	l.heard = append(l.heard, *n)
}

func (l *ear) Missed() { l.missed++ }

// names is what the notices that l heard are about, in order.
func (l *ear) names() (names []string) {
	for _, n := range l.heard {
		names = append(names, n.By)
	}
	return names
}

func joined(t testing.TB, c Client, o Order) *Stage {
	t.Helper()
	s, err := Join(c, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func slotsOf(name string, n int64) *admit.Class {
	return &admit.Class{Name: name, Kind: admit.Slots, Limit: n}
}

func rateOf(t testing.TB, name string, n int64, per time.Duration, burst int64) *admit.Class {
	t.Helper()
	r, err := bucket.NewRate(n, int64(per), burst)
	if err != nil {
		t.Fatal(err)
	}
	return &admit.Class{Name: name, Kind: admit.Tokens, Unit: "tokens", Rate: &r}
}

func breakerOf(name string) *admit.Class {
	return &admit.Class{Name: name, Kind: admit.Breaker, Breaker: new(breaker.Config)}
}

// caller is a tool of a client, whose calls the tests make.
func caller() *admit.Plan { return &admit.Plan{Tool: 1, Client: admit.NewClient()} }

// call is one that may wait without a goroutine, and says what became of it and when.
type call struct {
	s *Stage
	t *admit.Ticket

	// guarded by the stage
	fate fate
	then func()
}

type fate struct {
	told     int // times
	admitted bool
	at       int64
}

// Decided notes it under the stage's lock: who tells it must not hold that.
func (c *call) Decided(admitted bool) {
	c.s.Lock()
	c.fate = fate{c.fate.told + 1, admitted, c.s.Now()}
	then := c.then
	c.s.mu.Unlock()
	if then != nil {
		then()
	}
}

// does has f called when c is told.
func (c *call) does(f func()) {
	c.s.Lock()
	defer c.s.mu.Unlock()
	c.then = f
}

func (c *call) is() fate {
	c.s.Lock()
	defer c.s.mu.Unlock()
	return c.fate
}

func (c *call) state() admit.State {
	c.s.Lock()
	defer c.s.mu.Unlock()
	return c.t.State()
}

// arrives has a ticket, edited by each of edit, arrive at s for one of each of classes.
func arrives(s *Stage, p *admit.Plan, classes []*admit.Class, edit ...func(*admit.Ticket)) *admit.Ticket {
	s.Lock()
	defer s.Unlock()
	now := s.Now()
	s.M.Advance(now)
	t := s.M.Ticket()
	t.Plan = p
	for _, k := range classes {
		s.M.Add(t, s.M.Cell(now, k, ""), 1)
	}
	for _, f := range edit {
		f(t)
	}
	if s.M.Arrive(now, t) == admit.Waiting && t.Owner == nil {
		s.Waits(t)
	}
	return t
}

// submits has a call arrive that waits without a goroutine.
func submits(s *Stage, p *admit.Plan, classes []*admit.Class, edit ...func(*admit.Ticket)) *call {
	c := &call{s: s}
	c.t = arrives(s, p, classes, append(edit, func(t *admit.Ticket) { t.Owner = c })...)
	return c
}

func finish(s *Stage, t *admit.Ticket) {
	s.Lock()
	s.M.Finish(s.Now(), t, breaker.Success)
	s.Free(t)
	s.Unlock()
}

// leaving takes t out of the queue unless it has been decided, as who calls Await has to.
func leaving(s *Stage, t *admit.Ticket) func() bool {
	return func() bool {
		s.Lock()
		defer s.Unlock()
		now := s.Now()
		s.M.Advance(now)
		if t.State() != admit.Waiting {
			return false
		}
		s.M.Cancel(now, t)
		s.Free(t)
		return true
	}
}

func until(d time.Duration) func(*admit.Ticket) {
	return func(t *admit.Ticket) { t.Limit = int64(d) }
}

// wants fails t unless got is want.
func wants[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func wantsList(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

var background = context.Background()
