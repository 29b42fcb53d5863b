package stage

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
)

// Client is who belongs to a domain: an executor, from when it joins until it parts. Its methods
// answer at once, and Members the same each time.
type Client interface {
	Members() []Member
	Names() []string                   // of its gates and its scheduler, in errors
	Listeners(all []Client) []Listener // who listens for all, each once; asked of the first
	Has(k rules.Kind, key string) bool // a tool of that name, or with ByType one of that type
}

// Member is one of what ties a client to others: they may list it too.
type Member struct {
	Ref  *Ref
	Name string // in errors
}

// Order is a scheduler. Without a Ref there is none, and the order is first in, first out.
type Order struct {
	Ref    *Ref
	Name   string
	Policy func() admit.Policy // asked when nothing can change it, with the stage locked
}

// domain is who belongs to a stage. It is written with domains held and the stage locked, so
// that either is enough to read it.
type domain struct {
	order   Order
	clients []Client
	lists   map[*Ref]int // how many of clients list each
}

// domains is held by whoever changes what belongs to which stage, or locks more than one. No
// call does, and nobody asks for it who holds a stage's lock.
var domains sync.Mutex

// Ref leads from a registry, a gate or a scheduler to the domain of the clients that list it.
// Where there is none, the first who asks makes one without clients: nobody can wait or run
// there, so the next client takes what was counted over. The zero value leads nowhere yet.
type Ref struct{ p atomic.Pointer[Stage] }

// Lock returns the stage that r leads to, locked. As long as it is, r leads there.
func (r *Ref) Lock() *Stage {
	for {
		s := r.p.Load()
		if s == nil {
			r.p.CompareAndSwap(nil, newStage())
			continue
		}
		s.mu.Lock()
		if r.p.Load() == s {
			return s
		}
		s.mu.Unlock()
	}
}

// Leads reports whether r leads to s.
func (r *Ref) Leads(s *Stage) bool { return r.p.Load() == s }

// Clients is who belongs to the domain that r leads to.
func (r *Ref) Clients() []Client {
	domains.Lock()
	defer domains.Unlock()
	if s := r.p.Load(); s != nil {
		return slices.Clone(s.clients)
	}
	return nil
}

// move makes r lead to s, from nowhere or from a domain without clients. It returns when nobody is
// inside that any more.
func (r *Ref) move(s *Stage) {
	for {
		switch old := r.p.Load(); old {
		case s:
			return
		case nil:
			r.p.CompareAndSwap(nil, s)
		default:
			old.mu.Lock()
			old.M.RestStocks()
			r.p.Store(s)
			old.mu.Unlock()
		}
	}
}

// Join makes c one of the domain that its members belong to, or makes one of them where none
// belongs to a client. It fails, and changes nothing, if they belong to two, or if two schedulers
// would have to order one queue: calls wait and run in both, and nobody could say in what order.
//
// When it returns, others may have found c among the [Ref.Clients] already, and what c listens
// with may have heard notices.
func Join(c Client, o Order) (*Stage, error) {
	domains.Lock()
	s, err := home(c, o)
	if err != nil {
		domains.Unlock()
		return nil, err
	}
	for _, x := range c.Members() {
		x.Ref.move(s)
	}
	s.mu.Lock()
	if o.Ref != nil && s.order.Ref == nil {
		s.order = o
		s.M.SetPolicy(s.Now(), o.Policy())
	}
	s.clients = append(s.clients, c)
	for _, x := range c.Members() {
		s.lists[x.Ref]++
	}
	a := s.Release()
	domains.Unlock()
	a.Follow()
	return s, nil
}

// home is the stage that c is to join.
func home(c Client, o Order) (*Stage, error) {
	var home *Stage
	var first Member
	for _, x := range c.Members() {
		s := x.Ref.p.Load()
		switch {
		case s == nil || len(s.clients) == 0 || s == home:
		case home != nil:
			return nil, fmt.Errorf("sluice: %s belongs to a live executor of %s, and %s to another, of %s: "+
				"what one executor lists must belong to one domain: "+
				"close one of the two, or make one that lists both first",
				first.Name, home.owner(first), x.Name, s.owner(x))
		default:
			home, first = s, x
		}
	}
	if home == nil {
		return newStage(), nil
	}
	if o.Ref != nil && home.order.Ref != nil && home.order.Ref != o.Ref {
		return nil, fmt.Errorf("sluice: PrioritySchedulers %q and %q would order one queue: "+
			"executors that share a gate or a registry must list the same scheduler", home.order.Name, o.Name)
	}
	return home, nil
}

// owner is what a client that lists x lists.
func (s *Stage) owner(x Member) string {
	for _, c := range s.clients {
		if slices.ContainsFunc(c.Members(), func(y Member) bool { return y.Ref == x.Ref }) {
			return "[" + strings.Join(c.Names(), " ") + "]"
		}
	}
	return "[]"
}

// Part takes c, of which nothing waits or runs any more, out of its domain. What no other client
// lists belongs to nobody then; what it has counted stays with it.
func (s *Stage) Part(c Client) {
	domains.Lock()
	s.mu.Lock()
	s.clients = slices.DeleteFunc(s.clients, func(x Client) bool { return x == c })
	s.M.RestStocks() // before they belong to nobody
	for _, x := range c.Members() {
		if s.lists[x.Ref]--; s.lists[x.Ref] == 0 {
			delete(s.lists, x.Ref)
			x.Ref.p.Store(nil)
		}
	}
	if s.order.Ref != nil && s.lists[s.order.Ref] == 0 {
		s.order = Order{}
		s.M.SetPolicy(s.Now(), rules.FirstInFirstOut)
	}
	s.M.Rest()
	last := len(s.clients) == 0
	a := s.Release()
	domains.Unlock()
	a.Follow()
	if last {
		s.acquiring.Wait() // they have been told to end
	}
}

// OrderedBy reports whether the scheduler of r orders the queue. The stage is locked.
func (s *Stage) OrderedBy(r *Ref) bool { return s.order.Ref == r }

// Held is for whoever changes stages that are locked together.
type Held struct {
	Now int64 // the instant of all changes
}

// Stage is the one that r, which LockAll was given, leads to. It is locked.
func (*Held) Stage(r *Ref) *Stage { return r.p.Load() }

// LockAll asks refs whose stages to lock, when nothing can change where they lead, and locks all of
// them. Then it has change make its changes, which are felt at one instant: nobody starts before
// it returns. What follows from them follows once all stages are free again, for each as after
// Unlock. If refs fails, LockAll answers its error and does nothing.
func LockAll(refs func() ([]*Ref, error), change func(*Held)) error {
	after, err := lockAll(refs, change)
	followAll(after)
	return err
}

func lockAll(refs func() ([]*Ref, error), change func(*Held)) (after []Aftermath, err error) {
	domains.Lock()
	defer domains.Unlock()
	list, err := refs()
	if err != nil {
		return nil, err
	}
	var stages []*Stage
	for _, r := range list {
		s := r.Lock() // which makes one where there is none
		s.mu.Unlock()
		if !slices.Contains(stages, s) {
			stages = append(stages, s)
		}
	}
	h := new(Held)
	for _, s := range stages {
		s.mu.Lock()
		h.Now = max(h.Now, s.Now())
		s.M.Freeze(h.Now)
	}
	change(h)
	for _, s := range stages {
		s.M.Thaw(h.Now)
		after = append(after, s.Release())
	}
	return after, nil
}
