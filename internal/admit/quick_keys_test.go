package admit

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/breaker"
)

// byKey is a plan whose calls need a slot of their tool and what a class says of their keys.
type byKey struct {
	*world
	own   *Cell
	class *Class
	plan  *Plan
	way   Way
	known map[string]*NeedSet
}

// kinds are classes with so many keys, of each kind that may be open.
func kinds(w *world, keys int) map[string]*Class {
	list := map[string]*Class{
		"slots": slots("slots", 2, 5), "rate": w.rate("rate", 2, 1000, sec, 5), "breaker": circuit("breaker", breaker.Config{Failures: 3}),
	}
	for _, k := range list {
		k.MaxKeys = keys
	}
	return list
}

func newByKey(w *world, k *Class) *byKey {
	p := &byKey{world: w, own: w.cell(slots("own", 0, Unlimited)), class: k, plan: &Plan{Tool: 1, Client: w.me}, way: QuickWay(), known: map[string]*NeedSet{}}
	w.m.Together([]*Cell{p.own}, []*Class{k})
	return p
}

// locked is a call of the key that comes by the lock: nil if there is no room for the key.
func (p *byKey) locked(key string) *Ticket {
	t := p.m.Ticket()
	t.Plan = p.plan
	if s := p.known[key]; s != nil && s.IsAlive() {
		p.m.Fixed(t, s)
	} else {
		c := p.m.Cell(p.now, p.class, key)
		if c == nil {
			p.m.Free(t)
			return nil
		}
		list := []*Cell{p.own, c}
		slices.SortFunc(list, func(x, y *Cell) int { return x.class.order() - y.class.order() })
		for _, c := range list {
			p.m.Add(t, c, 1)
		}
		t.Along(&p.way)
		p.known[key] = p.m.Share(t, &p.way)
	}
	require.Equal(p, Running, p.m.Arrive(p.now, t))
	return t
}

func (p *byKey) finish(t *Ticket) {
	p.m.Finish(p.now, t, breaker.Success)
	p.m.Free(t)
}

// quick is a call of the key that must come the quick way.
func (p *byKey) quick(key string) *Pass {
	p.Helper()
	x := new(Pass)
	require.True(p, p.known[key].Take(p.now, x), "a call of %q", key)
	return x
}

// give ends a quick call, and answers whether that needed the lock.
func (p *byKey) give(key string, x *Pass) (locked bool) {
	s := p.known[key]
	left := s.Give(p.now, x, p.now)
	if left > 0 {
		p.m.End(p.now, s, x, left, p.now)
	}
	return left > 0
}

// open has calls of the key come the quick way.
func (p *byKey) open(key string) {
	p.Helper()
	t := p.locked(key)
	require.NotNil(p, t, "room for %q", key)
	p.finish(t)
	require.Same(p, &p.way, p.known[key].set.way)
}

func eachKind(t *testing.T, keys int, f func(p *byKey)) {
	for name := range kinds(newWorld(t, standard()), keys) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, standard())
			w.now = sec
			f(newByKey(w, kinds(w, keys)[name]))
		})
	}
}

// has reports whether there is room for a new key, which goes again.
func (p *byKey) has(key string) bool { return p.m.Peek(p.now, p.class, key) != nil }

// A key is in use as long as a call that came without the lock is under way, and makes room from when
// it remembers nothing any more. What led to it then leads nowhere.
func TestQuickKeys_AKeyInUseStays(t *testing.T) {
	eachKind(t, 1, func(p *byKey) {
		p.open("a")
		x := p.quick("a")
		p.now += sec // the bucket is full again
		require.False(p, p.has("b"), "a key in use made room")
		require.Nil(p, p.locked("b"), "a key in use made room")
		require.Equal(p, Never, p.m.Vacancy(p.class))
		require.True(p, p.give("a", x), "it was looked at")
		require.Equal(p, p.now, p.m.Vacancy(p.class))
		require.True(p, p.has("b"), "a key of no use made no room")

		p.open("a")
		was := p.known["a"]
		require.False(p, p.give("a", p.quick("a")))
		p.now += sec
		require.True(p, p.has("b"), "a key that was used and left made no room")
		p.open("b")
		require.Nil(p, p.class.Lookup("a"))
		require.False(p, was.IsAlive())
		require.False(p, was.Take(p.now, new(Pass)), "a key that is forgotten is open")
		p.now += sec
		p.open("a")
		require.NotSame(p, was, p.known["a"])
		require.False(p, was.Take(p.now, new(Pass)), "a key that was forgotten is open")
	})
}

// A bucket that calls have taken of without the lock is remembered until it is full.
func TestQuickKeys_ABucketIsRememberedUntilItIsFull(t *testing.T) {
	w := newWorld(t, standard())
	k := w.rate("rate", 2, 1, sec, 5)
	k.MaxKeys = 1
	p := newByKey(w, k)
	p.open("a")
	p.now = 10 * sec
	for range 3 {
		require.False(t, p.give("a", p.quick("a")))
	}
	require.Nil(t, p.m.Cell(p.now, k, "b"))
	require.Equal(t, 13*sec, p.m.Vacancy(k))
	p.now = 13*sec - 1
	require.Nil(t, p.m.Cell(p.now, k, "b"))
	p.now++
	require.NotNil(t, p.m.Cell(p.now, k, "b"))
}

// Whoever looks for room finds a key in use, and looks at it no more until it can be idle. Once it is
// open again its calls leave without the lock, and it makes room all the same.
func TestQuickKeys_AnOpenKeyMayFallIdle(t *testing.T) {
	eachKind(t, 2, func(p *byKey) {
		p.m.Pause(p.now, p.m.Cell(p.now, p.class, "paused"), p.now+sec)
		p.open("a")
		x := p.quick("a")
		p.m.Pause(p.now, p.class.Lookup("paused"), p.now+3600*sec)
		require.False(p, p.has("b"))
		require.Equal(p, p.now+3600*sec+ramp, p.class.idle.Min(), "only time can help")
		require.False(p, p.known["a"].Take(p.now, new(Pass)), "it is shut")
		p.open("a")
		require.False(p, p.give("a", x), "it is open again")
		p.now += sec
		require.True(p, p.has("b"), "a key of no use made no room")
		require.NotNil(p, p.m.Cell(p.now, p.class, "b"))
		require.Nil(p, p.class.Lookup("a"))
	})
}

// Keys beyond a bound that has been lowered go as they fall idle, whichever way their calls came.
func TestQuickKeys_ALoweredBound(t *testing.T) {
	eachKind(t, 4, func(p *byKey) {
		calls := map[string][]*Pass{}
		for _, key := range []string{"a", "b", "c"} {
			p.open(key)
			calls[key] = append(calls[key], p.quick(key), p.quick(key))
		}
		p.now += sec
		p.m.SetMaxKeys(p.now, p.class, 1)
		require.Equal(p, 3, p.class.Len())
		sets := map[string]*NeedSet{}
		for _, key := range []string{"a", "b", "c"} {
			p.finish(p.locked(key)) // which opens what may be open
			p.now += sec
			sets[key] = p.known[key]
			require.Equal(p, key != "c", p.give(key, calls[key][0]), "it takes the lock while the table is too large")
			require.NotNil(p, p.class.Lookup(key), "a key in use is forgotten")
			p.give(key, calls[key][1])
			if key != "c" {
				require.Nil(p, p.class.Lookup(key), "%q is left beyond the bound", key)
				require.False(p, sets[key].Take(p.now, new(Pass)), "a key that is forgotten is open")
			}
		}
		require.Equal(p, 1, p.class.Len())
	})
}

// The bound counts from when it is lowered: who comes without the lock then finds that out.
func TestQuickKeys_ALoweredBoundIsFelt(t *testing.T) {
	eachKind(t, 4, func(p *byKey) {
		calls := map[string]*Pass{}
		for _, key := range []string{"a", "b", "c"} {
			p.open(key)
			calls[key] = p.quick(key)
		}
		p.now += sec
		p.m.SetMaxKeys(p.now, p.class, 1)
		for _, key := range []string{"c", "b", "a"} {
			require.True(p, p.give(key, calls[key]), "%q is shut", key)
		}
		require.Equal(p, 1, p.class.Len())
	})
}

// Nor does the end of a call leave others beyond the bound, which have fallen idle since.
func TestQuickKeys_ALoweredBoundIsFeltByOthers(t *testing.T) {
	w := newWorld(t, standard())
	k := w.rate("rate", 2, 1, sec, 5)
	k.MaxKeys = 3
	p := newByKey(w, k)
	p.m.Pause(p.now, p.m.Cell(p.now, k, "paused"), 3600*sec)
	for range 3 {
		p.open("a")
	}
	p.open("b")
	require.False(t, p.has("c"), "which makes their places among the idle ones right")
	p.open("a")
	x := p.quick("a")
	p.m.SetMaxKeys(p.now, k, 1)
	require.Equal(t, 3, k.Len())
	p.now = 2 * sec
	p.give("a", x)
	require.Nil(t, k.Lookup("b"), "it remembers nothing")
	require.NotNil(t, k.Lookup("a"))
}

// Breakers come first and tokens last, whatever counts the calls that need their keys.
func TestQuickKeys_Order(t *testing.T) {
	w := newWorld(t, standard())
	u := w.m.Ticket()
	for i, k := range []*Class{circuit("c1", breaker.Config{}), circuit("c2", breaker.Config{}), slots("own", 0, 1), w.rate("r1", 1, 1, sec, 1), w.rate("r2", 2, 1, sec, 1)} {
		if k.Kind != Slots {
			k.MaxKeys = 1
		}
		w.m.Add(u, w.cell(k), 1)
		require.Equal(t, "", u.needs.list[i].Cell.key)
	}
	way := QuickWay()
	var got []string
	for _, x := range w.m.Share(u, &way).latched {
		got = append(got, fmt.Sprint(x.class.Name, x.needing))
	}
	require.Equal(t, []string{"c1false", "c2false", "c1true", "c2true", "ownfalse", "r1true", "r2true", "r1false", "r2false"}, got)
}

// What the end of a call has forgotten is not opened by it.
func TestQuickKeys_TheEndOfACallForgets(t *testing.T) {
	eachKind(t, 2, func(p *byKey) {
		x, y := p.locked("a"), p.locked("b")
		p.now += sec
		p.m.SetMaxKeys(p.now, p.class, 1)
		was := p.known["a"]
		p.finish(x)
		require.Nil(p, p.class.Lookup("a"))
		require.False(p, was.Take(p.now, new(Pass)), "a key that is forgotten is open")
		p.finish(y)
		require.NotNil(p, p.class.Lookup("b"))
		p.finish(p.locked("b"))
		require.True(p, p.known["b"].Take(p.now, new(Pass)))
	})
}

// A call that is given a ticket needs its key once.
func TestQuickKeys_ACallThatIsAdopted(t *testing.T) {
	eachKind(t, 1, func(p *byKey) {
		p.open("a")
		x, y := p.quick("a"), p.quick("a")
		u := p.m.Adopt(p.known["a"], x, 0, p.now)
		u.Plan = p.plan
		require.Equal(p, int32(2), p.class.Lookup("a").calls)
		p.now += sec
		p.finish(u)
		require.Equal(p, int32(1), p.class.Lookup("a").calls)
		require.False(p, p.has("b"), "a key in use made room")
		p.give("a", y)
		require.Zero(p, p.class.Lookup("a").calls)
		require.True(p, p.has("b"), "a key of no use made no room")
	})
}

// What nobody finds any more leaves nothing open, and whoever has found it before comes by the lock.
// What other sets need as well stays as it is.
func TestQuickKeys_ASetThatNobodyFinds(t *testing.T) {
	eachKind(t, 2, func(p *byKey) {
		p.open("a")
		c, was := p.class.Lookup("a"), p.known["a"]
		other := p.m.Ticket()
		other.Plan = p.plan
		for _, n := range was.set.list {
			p.m.Add(other, n.Cell, 1)
		}
		set := p.m.Share(other, &p.way)
		require.Equal(p, Running, p.m.Arrive(p.now, other))
		p.finish(other)
		x, y, z := p.quick("a"), p.quick("a"), new(Pass)
		require.True(p, set.Take(p.now, z))

		p.m.Unshare(set)
		require.NotNil(p, c.latch, "the other set has it")
		require.Zero(p, set.Give(p.now, z, p.now))
		p.m.Unshare(was)
		require.Nil(p, c.latch)
		require.Equal(p, int32(2), c.calls)
		require.False(p, was.Take(p.now, z), "it is open")
		u := p.m.Adopt(was, x, 0, p.now)
		u.Plan = p.plan
		p.finish(u)
		require.Equal(p, int32(1), c.calls)
		require.True(p, p.give("a", y), "it is open")
		require.Zero(p, c.calls)
		require.Nil(p, c.latch)
		require.NotNil(p, p.own.latch, "it is no key's")

		p.known = map[string]*NeedSet{}
		p.way.shy = 0 // of the one that had to be adopted
		p.now += sec
		p.open("a")
		require.NotNil(p, c.latch)
		require.False(p, was.Take(p.now, z), "it leads to what is shut for ever")
		p.give("a", p.quick("a"))
	})
}

// A call whose bucket has got another latch since is corrected as if it had kept the first, and not at
// all if the rate has changed since.
func TestQuickKeys_ACorrectionAfterAnotherLatch(t *testing.T) {
	for _, changed := range []bool{false, true} {
		w := newWorld(t, standard())
		k := w.rate("rate", 2, 1, sec, 5)
		k.MaxKeys = 1
		p := newByKey(w, k)
		p.open("a")
		w.now = 10 * sec
		x, was := p.quick("a"), p.known["a"]
		p.m.Unshare(was)
		if changed {
			p.m.SetRate(w.now, k, k.Rate)
		}
		p.known = map[string]*NeedSet{}
		p.open("a")
		p.quick("a")
		u := p.m.Adopt(was, x, 0, p.now)
		u.Plan = p.plan
		p.m.Settle(w.now, u, "", 0)
		want := int64(3)
		if changed {
			want = 2
		}
		require.Equal(t, want, k.Lookup("a").bucket.Tokens(k.Rate, w.now))
	}
}

// Keys that come once have no latch, and nothing leads to them but their class.
func TestQuickKeys_AKeyThatComesOnceIsSmall(t *testing.T) {
	eachKind(t, 10, func(p *byKey) {
		p.once("a")
		assert.Nil(p, p.class.Lookup("a").latch)
	})
}

// once is a call of the key that shares its needs with no other.
func (p *byKey) once(key string) {
	p.Helper()
	u := p.m.Ticket()
	u.Plan = p.plan
	c := p.m.Cell(p.now, p.class, key)
	if c.kind == Breaker {
		p.m.Add(u, c, 1)
	}
	p.m.Add(u, p.own, 1)
	if c.kind != Breaker {
		p.m.Add(u, c, 1)
	}
	u.Along(&p.way)
	require.Equal(p, Running, p.m.Arrive(p.now, u))
	p.finish(u)
}

// Calls of other keys keep those that are known from coming the quick way only while they are many.
func TestQuickKeys_CallsOfOtherKeys(t *testing.T) {
	eachKind(t, 10, func(p *byKey) {
		for range worthOpening {
			p.open("a")
			p.now += sec
		}
		for range mostKnown - worthOpening {
			p.once("b")
			require.False(p, p.give("a", p.quick("a")), "a few others have come")
			p.now += sec
		}
		for range 3 * mostKnown {
			p.once("b")
			require.False(p, p.known["a"].Take(p.now, new(Pass)), "many others have come")
			p.now += sec
		}
		for range worthOpening/2 - 1 {
			p.open("a")
			require.False(p, p.known["a"].Take(p.now, new(Pass)), "many others have come lately")
			p.now += sec
		}
		p.open("a")
		require.False(p, p.give("a", p.quick("a")))
		p.open("a")
		p.once("a")
		require.False(p, p.class.Lookup("a").open, "only calls that are known to need a key open it")
		require.True(p, p.own.open)
	})
}

// Once its plan is retired nothing that its calls need is open, also of keys that nobody looks for.
func TestQuickKeys_ARetiredPlan(t *testing.T) {
	eachKind(t, 4, func(p *byKey) {
		p.open("a")
		p.open("b")
		x := p.quick("a")
		p.m.Retire(&p.way)
		assert.Empty(p, p.m.opened)
		p.give("a", x)
		p.finish(p.locked("b"))
		assert.Empty(p, p.m.opened)
		assert.False(p, p.known["a"].Take(p.now, new(Pass)))
	})
}

// Keys that are open belong to the machine that opened them last.
func TestQuickKeys_AnotherMachine(t *testing.T) {
	eachKind(t, 4, func(p *byKey) {
		p.open("a")
		p.m.Retire(&p.way)
		w := newWorld(t, standard())
		w.now = p.now
		q := newByKey(w, p.class)
		q.locked("a")
		q.open("a")
		require.Empty(p, p.m.opened)
		require.Len(p, q.m.opened, 2)
		x := q.quick("a")
		require.Equal(p, 2, q.m.Running())
		require.Empty(p, q.m.opened)
		q.give("a", x)
		require.Equal(p, 1, q.m.Running())
	})
}
