package latch

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func openSlots(used, limit int64) *Latch {
	l := New(Slots)
	l.OpenSlots(used, limit)
	return l
}

func openTokens(full int64, x *Terms) *Latch {
	l := New(Tokens)
	l.OpenTokens(full, x)
	return l
}

func openBreaker(generation uint32) *Latch {
	l := New(Breaker)
	l.OpenBreaker(generation, Never)
	return l
}

// setOf is a set of these, in the order in which they stand there.
func setOf(list ...*Latch) *Set {
	s := new(Set)
	for _, l := range list {
		switch l.kind {
		case Breaker:
			s.Breakers = append(s.Breakers, l)
		case Slots:
			s.Slots = append(s.Slots, l)
		default:
			s.Tokens = append(s.Tokens, l)
		}
	}
	return s
}

// ending is s with l as the last of its latches.
func (s *Set) ending(l *Latch) *Set {
	s.Last = l
	return s
}

// said is the word of slots that have been opened so often, where nobody is in doubt.
func said(used, opened uint64) uint64 { return used*oneSlot + opened*oneOpening }

// three is a bucket of three tokens: one comes in 1 2/3 ns.
func three() *Terms {
	return &Terms{Base: 100, Until: 1000, Scale: 3, One: 5, Span: 15, Edition: 7}
}

func TestSamples(t *testing.T) {
	var s Samples
	take := func(count int, mean int64) {
		t.Helper()
		n, d := s.Take()
		require.Equal(t, []int64{int64(count), mean}, []int64{int64(n), d})
	}
	take(0, 0)
	s.Add(7)
	take(1, 7)
	take(0, 0)
	s.Add(10)
	s.Add(0)
	s.Add(5)
	take(3, 5)
	for range mostSamples {
		s.Add(1 << 62)
	}
	take(mostSamples, longest)
	for range mostSamples {
		s.Add(100)
	}
	s.Add(164)
	take(mostSamples/2+1, 101)
}

// Each that is added is taken once, however many goroutines add while another takes.
func TestSamples_Storm(t *testing.T) {
	const each, workers = 5_000, 4
	var s Samples
	var adding sync.WaitGroup
	var added, taken atomic.Int64
	for range workers {
		adding.Go(func() {
			for range each {
				for added.Add(1)-taken.Load() > mostSamples { // more than are kept
					added.Add(-1)
					runtime.Gosched()
				}
				s.Add(1000)
				runtime.Gosched() // so that there seldom are so many
			}
		})
	}
	for lately := time.Now(); taken.Load() < each*workers; {
		n, d := s.Take()
		if n == 0 {
			require.Less(t, time.Since(lately), 10*time.Second, "%d of %d were taken", taken.Load(), each*workers)
			runtime.Gosched()
			continue
		}
		lately = time.Now()
		require.EqualValues(t, 1000, d)
		taken.Add(int64(n))
	}
	adding.Wait()
	require.EqualValues(t, each*workers, taken.Load())
}

func TestTake_Slots(t *testing.T) {
	l := New(Slots)
	s, p := setOf(l), new(Pass)
	assert.False(t, s.Take(0, p), "shut")
	l.OpenSlots(0, 2)
	assert.True(t, s.Take(0, p))
	assert.True(t, s.Take(0, p))
	assert.False(t, s.Take(0, p), "a third of two")
	assert.Zero(t, s.Give(0, p))
	assert.True(t, s.Take(0, p), "the one given back")
	assert.False(t, s.Take(0, p))
	assert.Equal(t, int64(2), l.Shut())
	assert.False(t, s.Take(0, p), "shut")
	l.OpenSlots(2, 3)
	assert.True(t, s.Take(0, p), "a higher limit")
	assert.False(t, s.Take(0, p))
	assert.Equal(t, int64(3), l.Shut())
	l.OpenSlots(3, 1)
	for want := range 3 {
		assert.False(t, s.Take(0, p), "a lower limit: %d given back", want)
		assert.Zero(t, s.Give(0, p))
	}
	assert.True(t, s.Take(0, p))
	assert.Equal(t, int64(1), l.Shut())
	for _, limit := range []int64{0, -1} {
		l.OpenSlots(0, limit)
		assert.False(t, s.Take(0, p), "a limit of %d", limit)
		assert.Zero(t, l.Shut())
	}
	l.OpenSlots(MostSlots-1, 1<<62)
	assert.True(t, s.Take(0, p))
	assert.False(t, s.Take(0, p), "more than a word can say")
	assert.Equal(t, int64(MostSlots), l.Shut())
}

func TestTake_Tokens(t *testing.T) {
	type at struct {
		now  int64
		full int64 // with it; 0: refused
	}
	for name, c := range map[string]struct {
		opened int64
		takes  []at
		shut   int64
	}{
		"full": {0, []at{
			{100, 5}, {100, 10}, {100, 15}, {100, 0}, {101, 0}, {102, 20}, {102, 0}, {103, 0},
			{104, 25}, {105, 30}, {106, 0}, {107, 35}, {107, 0},
			{200, 305}, {200, 310}, {200, 315}, {200, 0},
		}, 315},
		"half":           {7, []at{{100, 12}, {100, 0}, {101, 17}, {102, 0}, {103, 22}}, 22},
		"empty":          {15, []at{{100, 0}, {101, 0}, {102, 20}, {102, 0}}, 20},
		"in debt":        {40, []at{{100, 0}, {109, 0}, {110, 45}, {110, 0}}, 45},
		"a late clock":   {0, []at{{105, 20}, {104, 25}, {103, 0}, {99, 0}, {105, 30}, {105, 0}}, 30},
		"before base":    {0, []at{{0, 5}, {99, 10}, {100, 15}, {50, 0}}, 15},
		"until":          {0, []at{{1000, 2705}, {1001, 0}, {1 << 40, 0}, {1000, 2710}}, 2710},
		"a nanosecond":   {14, []at{{100, 0}, {101, 0}, {102, 19}}, 19},
		"full long past": {1, []at{{101, 8}, {101, 13}, {101, 18}, {101, 0}}, 18},
	} {
		t.Run(name, func(t *testing.T) {
			l := openTokens(c.opened, three())
			for _, x := range c.takes {
				p := new(Pass)
				require.Equal(t, x.full > 0, setOf(l).Take(x.now, p), "%+v", x)
				if x.full > 0 {
					assert.Equal(t, Pass{Full: [MaxRates]int64{x.full}, Editions: [MaxRates]uint32{7}}, *p)
					assert.Zero(t, setOf(l).Give(0, p), "tokens are not given back")
				}
			}
			assert.Equal(t, c.shut, l.Shut())
			assert.False(t, setOf(l).Take(500, new(Pass)), "shut")
			assert.Equal(t, uint32(7), l.Terms().Edition)
		})
	}
	assert.Nil(t, New(Tokens).Terms())
}

func TestTake_Breaker(t *testing.T) {
	for _, generation := range []uint32{0, 3, 1<<32 - 1} {
		l, p := New(Breaker), new(Pass)
		assert.False(t, setOf(l).Take(0, p), "shut")
		l.OpenBreaker(generation, Never)
		assert.True(t, setOf(l).Take(0, p))
		assert.Equal(t, generation, p.Generations[0])
		assert.Zero(t, setOf(l).Give(0, p))
		l.Shut()
		assert.False(t, setOf(l).Take(0, new(Pass)), "shut")
		assert.Equal(t, 1, setOf(l).Give(0, p), "shut")
		l.OpenBreaker(generation+1, Never)
		assert.Equal(t, 1, setOf(l).Give(0, p), "another generation")
		assert.True(t, setOf(l).Take(0, p))
		assert.Equal(t, generation+1, p.Generations[0])
		assert.Zero(t, setOf(l).Give(0, p))
	}
}

func TestTake_AllOfASet(t *testing.T) {
	x := &Terms{Base: 0, Until: 1000, Scale: 1, One: 10, Span: 20, Edition: 9}
	b, c, a, r, q := openBreaker(4), openBreaker(5), openSlots(0, 5), openTokens(2, three()), openTokens(95, x)
	s, p := setOf(b, c, a, r, q, a), new(Pass)
	require.True(t, s.Take(101, p))
	want := Pass{Full: [2]int64{8, 111}, Editions: [2]uint32{7, 9}, Generations: [2]uint32{4, 5}}
	assert.Equal(t, want, *p)
	assert.Equal(t, said(2, 1), a.word.Load(), "nobody is in doubt")
	assert.Equal(t, uint64(8)<<13, r.word.Load(), "nobody is in doubt")
	assert.Equal(t, uint64(111)<<13, q.word.Load(), "nobody is in doubt")
	assert.Zero(t, s.Give(0, p))
	assert.Zero(t, a.Shut())
	assert.True(t, setOf().Take(0, p))
	assert.Zero(t, setOf().Give(0, p))
}

// Whichever of a set refuses, the others say what they said before.
// MayTake says what Take will, if nobody comes in between.
func TestMayTake(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	took, not := 0, 0
	for range 5000 {
		list := []*Latch{openBreaker(1), openSlots(r.Int64N(3), 2), openSlots(r.Int64N(3), 2), openTokens(r.Int64N(20), three()), openTokens(r.Int64N(20), three())}
		s := setOf(list...)
		if r.IntN(2) == 0 {
			last := openSlots(r.Int64N(3), 2)
			s, list = s.ending(last), append(list, last)
		}
		if r.IntN(3) == 0 {
			list[r.IntN(len(list))].Shut()
		}
		now, words := 100+r.Int64N(3), make([]uint64, len(list))
		for i, l := range list {
			words[i] = l.word.Load()
		}
		may := s.MayTake(now)
		for i, l := range list {
			require.Equal(t, words[i], l.word.Load(), "the word of latch %d", i)
		}
		require.Equal(t, s.Take(now, new(Pass)), may)
		if may {
			took++
		} else {
			not++
		}
	}
	require.Greater(t, took, 100)
	require.Greater(t, not, 100)
}

func TestTake_ARefusalLeavesNothing(t *testing.T) {
	const now = 102 // 6 units
	latches := map[string]func() (*Latch, int64){
		"slots":   func() (*Latch, int64) { return openSlots(3, 5), 3 },
		"tokens":  func() (*Latch, int64) { return openTokens(12, three()), 12 },
		"tokens2": func() (*Latch, int64) { return openTokens(6, three()), 6 },
		"full":    func() (*Latch, int64) { return openTokens(1, three()), 1 },
		"breaker": func() (*Latch, int64) { return openBreaker(8), 0 },
	}
	refusing := map[string]*Latch{
		"slots": openSlots(5, 5), "tokens": openTokens(17, three()),
		"shut slots": New(Slots), "shut tokens": New(Tokens), "shut breaker": New(Breaker),
	}
	for name, last := range refusing {
		for _, order := range [][]string{
			{}, {"slots"}, {"tokens"}, {"breaker"}, {"breaker", "slots", "tokens"}, {"breaker", "tokens", "slots", "slots"},
			{"breaker", "tokens2"}, {"full"}, {"slots", "full", "tokens"}, {"breaker", "slots", "slots", "tokens2", "slots"},
		} {
			var list []*Latch
			var said []int64
			var words []uint64
			for _, k := range order {
				l, v := latches[k]()
				list, said, words = append(list, l), append(said, v), append(words, l.word.Load())
			}
			before, s := last.word.Load(), setOf(append(list, last)...)
			require.False(t, s.Take(now, new(Pass)), "%v, then %s", order, name)
			if last.kind == Slots {
				require.False(t, setOf(list...).ending(last).Take(now, new(Pass)), "%v, at last %s", order, name)
			}
			require.Equal(t, before, last.word.Load(), "%v, then %s", order, name)
			for i, l := range list {
				require.Equal(t, words[i], l.word.Load(), "%v, then %s: the word of %s", order, name, order[i])
				require.Equal(t, said[i], l.Shut(), "%v, then %s: %s", order, name, order[i])
			}
		}
	}
}

func TestGive_AnswersHowManyAreLeft(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *Set)
		left   int
		used   [3]int64 // of the slots
	}{
		"nothing":                {func(*Set) {}, 0, [3]int64{0, 0, 0}},
		"a shut breaker":         {func(s *Set) { s.Breakers[0].Shut() }, 6, [3]int64{1, 1, 1}},
		"the other shut breaker": {func(s *Set) { s.Breakers[1].Shut() }, 5, [3]int64{1, 1, 1}},
		"another generation":     {func(s *Set) { s.Breakers[1].Shut(); s.Breakers[1].OpenBreaker(6, Never) }, 5, [3]int64{1, 1, 1}},
		"the same generation":    {func(s *Set) { s.Breakers[1].Shut(); s.Breakers[1].OpenBreaker(5, Never) }, 0, [3]int64{0, 0, 0}},
		"shut slots":             {func(s *Set) { s.Slots[0].Shut() }, 4, [3]int64{1, 1, 1}},
		"the other shut slots":   {func(s *Set) { s.Slots[1].Shut() }, 3, [3]int64{0, 1, 1}},
		"a shut bucket":          {func(s *Set) { s.Tokens[0].Shut() }, 2, [3]int64{0, 0, 1}},
		"the last, shut":         {func(s *Set) { s.Last.Shut() }, 1, [3]int64{0, 0, 1}},
		"slots open again":       {func(s *Set) { s.Slots[0].Shut(); s.Slots[0].OpenSlots(4, 1) }, 0, [3]int64{3, 0, 0}},
		"the last, open again":   {func(s *Set) { s.Last.Shut(); s.Last.OpenSlots(4, 1) }, 0, [3]int64{0, 0, 3}},
		"all shut": {func(s *Set) {
			for _, l := range append(append(append([]*Latch{s.Last}, s.Breakers...), s.Slots...), s.Tokens...) {
				l.Shut()
			}
		}, 6, [3]int64{1, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			p := new(Pass)
			s := setOf(openBreaker(4), openBreaker(5), openSlots(0, 5), openTokens(0, three()), openSlots(0, 5)).ending(openSlots(0, 5))
			require.Equal(t, 6, s.Len())
			require.True(t, s.Take(100, p))
			c.change(s)
			assert.Equal(t, c.left, s.Give(0, p))
			assert.Equal(t, c.used, [3]int64{s.Slots[0].Shut(), s.Slots[1].Shut(), s.Last.Shut()})
			assert.Equal(t, int64(5), s.Tokens[0].Shut(), "tokens stay taken")
		})
	}
}

// If nobody has taken since, all is as it was. Else the token is lost, and no more than that.
func TestUntakeToken(t *testing.T) {
	for name, c := range map[string]struct {
		opened int64
		takes  []int64 // instants; the first is given back
		want   int64
	}{
		"nobody":                  {12, []int64{101}, 12},
		"nobody, it was full":     {0, []int64{102}, 0},
		"another, at once":        {0, []int64{100, 100}, 10},
		"two, at once":            {0, []int64{100, 100, 100}, 15},
		"another, later, in need": {12, []int64{101, 103}, 22},
		"another, later":          {0, []int64{101, 102}, 13},
		"another, long later":     {0, []int64{100, 102}, 11},
	} {
		t.Run(name, func(t *testing.T) {
			l := openTokens(c.opened, three())
			first, was := doubt(t, l, c.takes[0])
			for _, at := range c.takes[1:] {
				require.True(t, setOf(l).Take(at, new(Pass)))
			}
			l.untakeToken(first, was)
			assert.Equal(t, c.want, l.Shut())
		})
	}
}

// doubt takes a token of l, which is in doubt then.
func doubt(t *testing.T, l *Latch, now int64) (full, was int64) {
	p, w := new(Pass), new([MaxRates]int64)
	require.True(t, l.takeToken(now, p, 0, w))
	return p.Full[0], w[0]
}

// Both give back, in either order, and what a third has kept meanwhile stays taken: what was taken
// before that is lost.
func TestUntakeToken_OfTwoInDoubt(t *testing.T) {
	for want, order := range map[int64][]int{15: {0, 1}, 10: {1, 0}} {
		l := openTokens(0, three())
		var full, was [2]int64
		for i := range full {
			full[i], was[i] = doubt(t, l, 100)
		}
		for i, of := range order {
			l.untakeToken(full[of], was[of])
			if i == 0 {
				require.True(t, setOf(l).Take(100, new(Pass)))
			}
		}
		assert.Equal(t, want, l.Shut(), "%v", order)
	}
}

// Whoever gives back may have read the clock before the others did, as Set.Take has.
func TestUntakeToken_CreatesNothing(t *testing.T) {
	t.Run("one gives back", func(t *testing.T) {
		l := openTokens(0, three())
		full, was := doubt(t, l, 100)
		for range 3 {
			require.True(t, setOf(l).Take(102, new(Pass)), "three at one instant")
		}
		l.untakeToken(full, was)
		assert.False(t, setOf(l).Take(102, new(Pass)), "a fourth")
	})
	t.Run("two give back", func(t *testing.T) {
		l := openTokens(0, three())
		full, was := doubt(t, l, 100)
		full2, was2 := doubt(t, l, 104)
		l.untakeToken(full, was)
		require.True(t, setOf(l).Take(104, new(Pass)))
		l.untakeToken(full2, was2)
		got := 1
		for setOf(l).Take(104, new(Pass)) {
			got++
		}
		assert.LessOrEqual(t, got, 3, "at one instant")
	})
}

// Whoever took by terms that have changed since leaves what there is by the new ones. It is refused by
// what is full, so the bucket has to say what it was opened with, or that it is full at most now.
func TestUntakeToken_OfOldTermsLeavesWhatThereIs(t *testing.T) {
	for name, c := range map[string]struct {
		full, now int64
		terms     [2]Terms
	}{
		"a dearer token": {20, 3, [2]Terms{{0, 1000, 3, 5, 50, 1}, {0, 1000, 3, 10, 50, 2}}},
		"another base":   {0, 900, [2]Terms{{0, 1000, 3, 5, 50, 1}, {900, 1900, 3, 5, 50, 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			l := openTokens(c.full, &c.terms[0])
			around(1, 10_000, func(*rand.Rand) { takeAndGiveBack(l, c.now) }, 4, func(turn int) {
				from := max(0, c.now-c.terms[turn%2].Base) * c.terms[turn%2].Scale
				require.Equal(t, max(c.full, from), max(l.Shut(), from), "turn %d: full at", turn)
				l.OpenTokens(c.full, &c.terms[(turn+1)%2])
			})
		})
	}
}

// takeAndGiveBack takes a token, if there is one, and gives it back while that is in doubt.
func takeAndGiveBack(l *Latch, now int64) {
	p, was := new(Pass), new([MaxRates]int64)
	if l.takeToken(now, p, 0, was) {
		l.untakeToken(p.Full[0], was[0])
	}
}

// Also if another has taken by the new terms meanwhile.
func TestUntakeToken_OfOldTermsAfterAnother(t *testing.T) {
	// It has read that the bucket is full at 20, and terms by which a token costs 5. Then others shut it,
	// and open it by terms by which one costs 10, and it says the same. So the swap succeeds:
	l := openTokens(20, &Terms{Until: 1000, Scale: 3, One: 10, Span: 50, Edition: 2})
	l.word.Store(25*oneUnit + inDoubt)
	require.True(t, setOf(l).Take(3, new(Pass)), "another")
	l.untakeToken(25, 20)
	assert.GreaterOrEqual(t, l.Shut(), int64(30), "what the other has taken")
}

func takesToken(l *Latch) bool {
	return l.takeToken(100, new(Pass), 0, new([MaxRates]int64))
}

func untakeSlot(l *Latch) { untakeSlots([]*Latch{l}) }

// Shut does not return while somebody is in doubt, and answers what is left when nobody is.
func TestShut_WaitsForWhoeverIsInDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		latch   *Latch
		take    func(l *Latch) bool
		give    func(l *Latch)
		want    int64
		between int64
	}{
		"slots, given back":  {openSlots(3, 9), (*Latch).takeSlot, untakeSlot, 3, 2},
		"slots, kept":        {openSlots(3, 9), (*Latch).takeSlot, (*Latch).keep, 4, 2},
		"tokens, given back": {openTokens(2, three()), takesToken, func(l *Latch) { l.untakeToken(7, 2) }, 2, 2},
		"tokens, kept":       {openTokens(2, three()), takesToken, (*Latch).keep, 7, 2},
	} {
		t.Run(name, func(t *testing.T) {
			l := c.latch
			require.True(t, c.take(l))
			said := make(chan int64, 1)
			go func() { said <- l.Shut() }()
			for l.word.Load()&shut == 0 {
				runtime.Gosched()
			}
			for range 1000 {
				runtime.Gosched()
			}
			select {
			case x := <-said:
				require.Fail(t, "somebody is in doubt", "Shut has answered %d", x)
			default:
			}
			assert.False(t, c.take(l), "it is shut")
			assert.False(t, setOf(l).Take(100, new(Pass)), "it is shut")
			c.give(l)
			assert.Equal(t, c.want, <-said)
			for range 100 {
				runtime.Gosched()
			}
			assert.Equal(t, c.want, l.Shut(), "it stands still")
		})
	}
}

// Give waits for nobody, and what it gives back to somebody else's doubt is given back.
func TestGive_WhileOthersAreInDoubt(t *testing.T) {
	l, p := openSlots(0, 2), new(Pass)
	require.True(t, setOf(l).Take(0, p))
	require.True(t, l.takeSlot())
	assert.False(t, setOf(l).Take(0, new(Pass)), "what is in doubt is taken")
	assert.Zero(t, setOf(l).Give(0, p))
	untakeSlot(l)
	assert.Zero(t, l.Shut())
}

// No more calls can be in doubt than the word counts.
func TestTake_CountsEveryDoubt(t *testing.T) {
	l := openTokens(0, &Terms{Until: 1, Scale: 1, One: 1, Span: 1 << 40})
	for range tokenDoubts / inDoubt {
		doubt(t, l, 0)
	}
	before := l.word.Load()
	require.False(t, l.takeToken(0, new(Pass), 0, new([MaxRates]int64)), "one more")
	require.Equal(t, before, l.word.Load())
	for i := int64(tokenDoubts / inDoubt); i > 0; i-- {
		l.untakeToken(i, i-1)
	}
	assert.Zero(t, l.Shut())

	l = openSlots(1<<30, MostSlots)
	for range slotDoubts / inDoubt {
		require.True(t, l.takeSlot())
	}
	before = l.word.Load()
	require.False(t, l.takeSlot(), "one more")
	require.Equal(t, before, l.word.Load())
	require.Equal(t, said(1<<30+slotDoubts/inDoubt, 1)+slotDoubts, before)
}

// How often slots have been opened comes round to zero, and touches nothing else.
func TestOpenSlots_CountsOpenings(t *testing.T) {
	l := New(Slots)
	l.word.Store(said(0, openings/oneOpening-1) | shut)
	for _, opened := range []uint64{openings / oneOpening, 0, 1} {
		l.OpenSlots(7, 9)
		require.Equal(t, said(7, opened), l.word.Load())
		require.Equal(t, int64(7), l.Shut())
	}
}

// A breaker that changes while a call gets the rest has the call get nothing, since whoever changes it
// shuts every latch: also if all are open again, and the word says the same.
func TestTake_NobodyGetsInOnceABreakerHasChanged(t *testing.T) {
	for name, again := range map[string]bool{"shut": false, "open again": true} {
		t.Run(name, func(t *testing.T) {
			b, r, l, p := openBreaker(7), openTokens(0, three()), openSlots(3, 9), new(Pass)
			s := setOf(b, r).ending(l)
			last := l.word.Load()
			require.True(t, s.agree(p))
			b.Shut()
			require.Equal(t, int64(3), l.Shut())
			if again {
				l.OpenSlots(3, 9)
				b.OpenBreaker(9, Never)
			}
			require.False(t, s.takeRest(100, last, p))
			assert.Equal(t, int64(3), l.Shut())
			assert.Zero(t, r.Shut(), "the token is given back")
		})
	}
}

// Others may take from the last latch meanwhile, and give back.
func TestTake_TheLastMayHaveBeenTakenFrom(t *testing.T) {
	l := openSlots(3, 5)
	last := l.word.Load()
	require.True(t, setOf(l).Take(0, new(Pass)))
	require.True(t, l.takeLast(last), "one more has been taken")
	require.False(t, l.takeLast(last), "it is full")
	require.True(t, l.giveSlot())
	require.True(t, l.takeLast(last))
	require.Equal(t, int64(5), l.Shut())
}

// What the last latch says is kept: nobody waits for that.
func TestTake_TheLastIsNotInDoubt(t *testing.T) {
	l, a := openSlots(0, 5), openSlots(0, 5)
	require.True(t, setOf(a).ending(l).Take(0, new(Pass)))
	require.Equal(t, said(1, 1), l.word.Load())
	require.Equal(t, said(1, 1), a.word.Load())
}

// around has so many goroutines do something over and over until f, which has that many turns, is done.
func around(goroutines, turns int, do func(rng *rand.Rand), seed uint64, f func(turn int)) {
	var done atomic.Bool
	var g sync.WaitGroup
	for i := range goroutines {
		g.Go(func() {
			for rng := rand.New(rand.NewPCG(seed, uint64(i))); !done.Load(); {
				do(rng)
				if rng.IntN(64) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	for i := range turns {
		f(i)
		if i%4 == 0 {
			runtime.Gosched()
		}
	}
	done.Store(true)
	g.Wait()
}

// Nobody is seen to have what it does not keep: so nobody is refused for that by whoever holds the lock.
func TestShut_SeesNothingThatIsNotKept(t *testing.T) {
	a, b, x := openSlots(0, 1), openSlots(1, 1), &Terms{Until: 1000, Scale: 1, One: 5, Span: 15, Edition: 1}
	r, k := openTokens(10, x), openBreaker(1)
	sets := []*Set{setOf(a, b), setOf(k, a, b), setOf(k, a).ending(b)}
	around(4, 2000, func(rng *rand.Rand) {
		if sets[rng.IntN(len(sets))].Take(3, new(Pass)) {
			t.Error("b is full")
		}
		takeAndGiveBack(r, 3)
	}, 1, func(int) {
		require.Zero(t, a.Shut(), "the slot of a")
		require.Equal(t, int64(10), r.Shut(), "the token of r")
		a.OpenSlots(0, 1)
		r.OpenTokens(10, x)
	})
	assert.Equal(t, int64(1), b.Shut())
}

// Nobody gets in by a limit, or by terms, that were changed while the latch was shut, also if the word
// says the same then.
func TestTake_NobodyGetsInByOldTerms(t *testing.T) {
	wide := &Terms{Until: 1000, Scale: 1, One: 5, Span: 50, Edition: 1}
	narrow := &Terms{Until: 1000, Scale: 1, One: 5, Span: 5, Edition: 2}
	for name, c := range map[string]struct {
		latch  *Latch
		before int64 // what it is opened with
		open   func(l *Latch, wide bool)
	}{
		"slots": {New(Slots), 1, func(l *Latch, wide bool) {
			if wide {
				l.OpenSlots(1, 5)
			} else {
				l.OpenSlots(1, 1)
			}
		}},
		"tokens": {New(Tokens), 5, func(l *Latch, is bool) {
			if is {
				l.OpenTokens(5, wide)
			} else {
				l.OpenTokens(5, narrow)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var in atomic.Int64
			l := c.latch
			c.open(l, false)
			around(2, 1000, func(*rand.Rand) {
				if setOf(l).Take(0, new(Pass)) {
					in.Add(1)
				}
			}, 2, func(turn int) {
				for range 20 {
					require.Equal(t, c.before, l.Shut(), "turn %d: none was left", turn)
					c.open(l, true)
					l.Shut() // whoever has taken is forgotten
					c.open(l, false)
					for i := 0; i < turn%20; i++ {
						_ = in.Load()
					}
				}
			})
			t.Log(in.Load(), "got in by wider terms")
		})
	}
}

// Nobody gets in once the breaker has changed, that is once all have been shut, whatever else is opened
// meanwhile.
func TestTake_NobodyGetsInPastAShutBreaker(t *testing.T) {
	for name, last := range map[string]bool{"the last": true, "in doubt": false} {
		t.Run(name, func(t *testing.T) {
			k, a, b := openBreaker(1), openSlots(0, 1<<30), openSlots(0, 1<<30)
			generation, in := uint32(1), atomic.Int64{}
			s := setOf(k, b, a)
			if last {
				s = setOf(k, b).ending(a)
			}
			around(3, 3000, func(*rand.Rand) {
				if s.Take(0, new(Pass)) {
					in.Add(1)
				}
			}, 3, func(turn int) {
				k.Shut()
				used, other := a.Shut(), b.Shut()
				for range 3 {
					b.OpenSlots(other, 1<<30)
					a.OpenSlots(used, 1<<30)
					for i := 0; i < turn%50; i++ {
						_ = k.word.Load()
					}
					require.Equal(t, used, a.Shut(), "turn %d: the breaker was shut", turn)
					require.Equal(t, other, b.Shut(), "turn %d: the breaker was shut", turn)
				}
				b.OpenSlots(other, 1<<30)
				a.OpenSlots(used, 1<<30)
				generation++
				k.OpenBreaker(generation, Never)
				for in.Load() == 0 {
					runtime.Gosched()
				}
			})
			assert.Equal(t, in.Load(), a.Shut())
			assert.Equal(t, in.Load(), b.Shut())
		})
	}
}

// Where nothing is Last, breakers are looked at once slots are in doubt, and not before: between the two
// all might be shut and the slots opened again. That time is too short for a storm to meet it.
func TestTake_LooksAtBreakersInDoubt(t *testing.T) {
	k, l, p := openBreaker(7), openSlots(0, 1), new(Pass)
	s := setOf(k, l)
	require.True(t, s.Take(0, p))
	require.Equal(t, uint32(7), p.Generations[0])
	p = new(Pass)
	require.False(t, s.Take(0, p), "full")
	require.Zero(t, *p, "it has looked before it was in doubt")
}

// world is what a lock guards: three latches of slots, a bucket, a breaker.
type world struct {
	t     *testing.T
	mu    sync.Mutex
	clock atomic.Int64

	slots [3]struct {
		*Latch
		open                bool
		used, opened, limit int64
		holders             atomic.Int64 // have taken, and do not give back yet
	}
	bucket struct {
		*Latch
		open bool
		full int64
		x    *Terms
		most int64        // the greatest span so far
		kept atomic.Int64 // tokens
	}
	breaker struct {
		*Latch
		open       bool
		generation uint32
	}
	closed bool // the breaker has been shut since the others were opened last
}

// shutSlots has slots stand still, and checks what they say.
func (w *world) shutSlots(i int) {
	c := &w.slots[i]
	if !c.open {
		return
	}
	c.open, c.used = false, c.Shut()
	require.LessOrEqual(w.t, c.used, max(c.opened, c.limit), "slots %d: opened with %d of %d", i, c.opened, c.limit)
	require.GreaterOrEqual(w.t, c.used, c.holders.Load(), "slots %d: as many hold one", i)
	if w.closed {
		require.LessOrEqual(w.t, c.used, c.opened, "slots %d: the breaker was shut", i)
	}
}

func (w *world) openSlots(i int) {
	c := &w.slots[i]
	c.open, c.opened = true, c.used
	c.OpenSlots(c.used, c.limit)
}

func (w *world) shutBucket() {
	c := &w.bucket
	if !c.open {
		return
	}
	c.open = false
	opened, kept, from := c.full, c.kept.Load(), w.clock.Load()*c.x.Scale
	c.full = c.Shut()
	now := w.clock.Load() * c.x.Scale
	require.GreaterOrEqual(w.t, c.full, opened, "tokens were created")
	require.LessOrEqual(w.t, c.full, max(opened, now+c.x.Span), "more than there were")
	require.GreaterOrEqual(w.t, c.full, kept*c.x.One, "%d were kept", kept)
	if w.closed {
		require.LessOrEqual(w.t, c.full, max(opened, from), "the breaker was shut")
	}
}

func (w *world) openBucket() {
	c := &w.bucket
	c.open = true
	c.OpenTokens(c.full, c.x)
}

func (w *world) shutAll() {
	if w.breaker.open {
		w.breaker.open = false
		w.breaker.Shut()
	}
	for i := range w.slots {
		w.shutSlots(i)
	}
	w.shutBucket()
	w.closed = false
}

func (w *world) openAll(rng *rand.Rand) {
	w.closed = rng.IntN(4) == 0
	for i := range w.slots {
		w.openSlots(i)
	}
	w.openBucket()
	if !w.closed {
		w.breaker.open = true
		w.breaker.OpenBreaker(w.breaker.generation, Never)
	}
}

// change changes something about what is shut.
func (w *world) change(rng *rand.Rand) {
	switch rng.IntN(6) {
	case 0, 1:
		w.slots[rng.IntN(len(w.slots))].limit = rng.Int64N(4)
	case 2:
		// One token stays as dear, and units count from the same instant.
		x := *w.bucket.x
		x.Span, x.Edition = 5*(1+rng.Int64N(4)), x.Edition+1
		w.bucket.x, w.bucket.most = &x, max(w.bucket.most, x.Span)
	case 3:
		w.breaker.generation++
	}
}

// call takes, and gives back what it can without the lock, and the rest with it.
func (w *world) call(rng *rand.Rand) bool {
	s, of := setOf(w.breaker.Latch, w.bucket.Latch), []int{-1}
	some := rng.Perm(len(w.slots))[:1+rng.IntN(len(w.slots))]
	for _, i := range some[1:] {
		s.Slots, of = append(s.Slots, w.slots[i].Latch), append(of, i)
	}
	if i := some[0]; rng.IntN(2) == 0 {
		s.Slots, of = append(s.Slots, w.slots[i].Latch), append(of, i, -1)
	} else {
		s.Last, of = w.slots[i].Latch, append(of, -1, i)
	}
	p := new(Pass)
	if !s.Take(w.clock.Load(), p) {
		return false
	}
	w.bucket.kept.Add(1)
	each := func(of []int, f func(i int)) {
		for _, i := range of {
			if i >= 0 {
				f(i)
			}
		}
	}
	each(of, func(i int) { w.slots[i].holders.Add(1) })
	if rng.IntN(8) == 0 {
		runtime.Gosched()
	}
	each(of, func(i int) { w.slots[i].holders.Add(-1) })
	if left := s.Give(0, p); left > 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		each(of[len(of)-left:], func(i int) {
			open := w.slots[i].open
			w.shutSlots(i)
			w.slots[i].used--
			if open {
				w.openSlots(i)
			}
		})
	}
	return true
}

// Whatever calls do, and whoever holds the lock changes: what is shut says what calls have kept, and
// never more than was allowed.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &world{t: t}
	for i := range w.slots {
		w.slots[i].Latch, w.slots[i].limit = New(Slots), 2
	}
	w.bucket.Latch = New(Tokens)
	w.bucket.x = &Terms{Until: 1 << 40, Scale: 3, One: 5, Span: 15, Edition: 1}
	w.bucket.most = 15
	w.breaker.Latch = New(Breaker)
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	var in, out atomic.Int64
	around(4, 1500, func(rng *rand.Rand) {
		if w.call(rng) {
			in.Add(1)
		} else {
			out.Add(1)
		}
	}, seed, func(int) {
		w.mu.Lock()
		w.shutAll()
		w.change(rng)
		w.clock.Add(rng.Int64N(40))
		if rng.IntN(8) == 0 {
			runtime.Gosched() // while it is shut
		}
		w.openAll(rng)
		w.mu.Unlock()
		for range rng.IntN(4) {
			w.clock.Add(1)
			runtime.Gosched()
		}
		for i := 0; i < 1000 && w.breaker.open && in.Load() == 0; i++ {
			runtime.Gosched() // so that it is no idle storm
		}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shutAll()
	for i := range w.slots {
		assert.Zero(t, w.slots[i].used, "slots %d: everybody has gone", i)
		assert.Zero(t, w.slots[i].holders.Load())
	}
	kept, x := w.bucket.kept.Load(), w.bucket.x
	assert.Equal(t, in.Load(), kept)
	assert.LessOrEqual(t, kept*x.One, w.clock.Load()*x.Scale+w.bucket.most)
	assert.LessOrEqual(t, kept*x.One, w.bucket.full)
	t.Logf("%d got in, %d did not", in.Load(), out.Load())
}

// Calls that find a second bucket empty cost those that take of the first alone no token.
func TestTake_AnEmptyBucketCostsNobodyAToken(t *testing.T) {
	x := &Terms{Until: 1, Scale: 1, One: 1, Span: 1 << 40, Edition: 1}
	first := openTokens(0, x)
	second := openTokens(10, &Terms{Until: 1, Scale: 1, One: 1, Span: 10, Edition: 1})
	const takes = 20_000
	around(3, takes, func(*rand.Rand) {
		if setOf(first, second).Take(0, new(Pass)) {
			t.Error("the second is empty")
		}
	}, 4, func(int) { require.True(t, setOf(first).Take(0, new(Pass))) })
	assert.Equal(t, int64(takes), first.Shut())
}

// The first breaker that does not let a call start refuses it, if it says how.
func TestRefusal(t *testing.T) {
	x := &Refusal{Until: 10, By: "it"}
	says := func() *Latch { l := New(Breaker); l.Refuse(x); return l }
	for name, c := range map[string]struct {
		breakers []*Latch
		now      int64
		want     *Refusal
	}{
		"none":               {nil, 5, nil},
		"one that is open":   {[]*Latch{openBreaker(1)}, 5, nil},
		"one that is shut":   {[]*Latch{New(Breaker)}, 5, nil},
		"one that refuses":   {[]*Latch{says()}, 9, x},
		"no more":            {[]*Latch{says()}, 10, nil},
		"the second":         {[]*Latch{openBreaker(1), says()}, 9, x},
		"the first is shut":  {[]*Latch{New(Breaker), says()}, 9, nil},
		"the first is over":  {[]*Latch{{kind: Breaker}, says()}, 9, x},
		"the second is shut": {[]*Latch{openBreaker(1), New(Breaker)}, 9, nil},
	} {
		t.Run(name, func(t *testing.T) {
			require.Same(t, c.want, setOf(c.breakers...).Refusal(c.now))
		})
	}
	l := says()
	l.Refuse(nil)
	require.Nil(t, setOf(l).Refusal(0))
	require.False(t, setOf(l).Take(0, new(Pass)))
}

// Whoever is refused was so at an instant at which the second breaker refused, and the first did not.
func TestRefusal_IsThatOfOneInstant(t *testing.T) {
	var begun, done, refused atomic.Int64
	first, second := openBreaker(1), New(Breaker)
	s := setOf(first, second)
	around(3, 10_000, func(*rand.Rand) {
		since := done.Load()
		x := s.Refusal(-1)
		if until := begun.Load(); x != nil {
			refused.Add(1)
			if round := x.Until; until < 3*round+1 || since >= 3*round+2 {
				t.Errorf("refused by round %d from turn %d to turn %d", round, since, until)
			}
		}
	}, 5, func(i int) {
		n := int64(i)
		begun.Store(n)
		switch n % 3 { // both let nobody in, the second alone does not, both may
		case 0:
			first.Shut()
			second.Refuse(&Refusal{Until: n / 3})
		case 1:
			first.OpenBreaker(uint32(i), Never)
		case 2:
			second.Refuse(nil)
		}
		done.Store(n)
		for j := 0; j < 1000 && refused.Load() < n/100; j++ {
			runtime.Gosched()
		}
	})
	require.Positive(t, refused.Load())
}

// askedOf is a set of these, which are asked in the order in which they stand there.
func askedOf(list ...*Latch) *Set {
	s := setOf(list...)
	for _, l := range list {
		if l.kind != Breaker {
			s.Asked = append(s.Asked, l)
		}
	}
	return s
}

// The first that refuse calls refuse one, if they are open slots that are full, and every breaker is open.
func TestFull(t *testing.T) {
	x := &Refusal{Until: Never, Limit: 3, By: "it"}
	slots := func(used int64, x *Refusal) *Latch {
		l := New(Slots)
		l.Refuse(x)
		l.OpenSlots(used, 3)
		return l
	}
	closed := func(l *Latch, x *Refusal) *Latch { l.Shut(); l.Refuse(x); return l }
	for name, c := range map[string]struct {
		set  *Set
		want *Refusal
	}{
		"none":                      {askedOf(), nil},
		"full":                      {askedOf(slots(3, x)), x},
		"more than full":            {askedOf(slots(5, x)), x},
		"room":                      {askedOf(slots(2, x)), nil},
		"shut":                      {askedOf(closed(slots(3, x), x)), nil},
		"full, and calls wait":      {askedOf(slots(3, nil)), nil},
		"others are full":           {askedOf(slots(3, nil), slots(3, x), slots(3, &Refusal{Limit: 3})), x},
		"the second of two":         {askedOf(slots(2, &Refusal{Limit: 3}), slots(3, x)), nil},
		"after a shut one":          {askedOf(closed(slots(0, nil), nil), slots(3, x)), x},
		"after a shut one like it":  {askedOf(closed(slots(0, x), x), slots(3, x)), nil},
		"after tokens":              {askedOf(openTokens(9, three()), slots(3, x)), x},
		"after tokens that refuse":  {askedOf(closed(openTokens(9, three()), &Refusal{}), slots(3, x)), nil},
		"before tokens that refuse": {askedOf(slots(3, x), closed(openTokens(9, three()), &Refusal{})), x},
		"under an open breaker":     {askedOf(openBreaker(1), slots(3, x), openBreaker(2)), x},
		"under a shut breaker":      {askedOf(openBreaker(1), slots(3, x), New(Breaker)), nil},
		"forgotten":                 {askedOf(func() *Latch { l := closed(slots(3, x), x); l.Forget(); return l }()), nil},
	} {
		t.Run(name, func(t *testing.T) { require.Same(t, c.want, c.set.Full()) })
	}
	l := slots(3, x)
	s := askedOf(l)
	require.NotNil(t, s.Full())
	require.True(t, l.giveSlot())
	require.Nil(t, s.Full(), "one is free")
	require.True(t, l.takeSlot())
	require.Nil(t, s.Full(), "it is taken in doubt")
	l.keep()
	require.Same(t, x, s.Full())
}

// Whoever is refused was so at an instant at which the slots were full and the breaker was open, and by what
// they said then.
func TestFull_IsThatOfOneInstant(t *testing.T) {
	var begun, done, refused atomic.Int64
	k, l := New(Breaker), New(Slots)
	s := askedOf(k, l)
	around(3, 20_000, func(*rand.Rand) {
		since := done.Load()
		x := s.Full()
		if until := begun.Load(); x != nil {
			refused.Add(1)
			if n := x.Until; n%3 != 2 || n > until || n < since {
				t.Errorf("refused by turn %d, from turn %d to turn %d", n, since, until)
			}
		}
	}, 7, func(i int) {
		n := int64(i)
		begun.Store(n)
		k.Shut()
		l.Shut()
		l.Refuse(&Refusal{Until: n, Limit: 1})
		switch n % 3 {
		case 0: // the breaker lets nobody start
			l.OpenSlots(1, 1)
		case 1: // there is room
			k.OpenBreaker(uint32(n/3), Never)
			l.OpenSlots(0, 1)
		case 2:
			k.OpenBreaker(uint32(n/3), Never)
			l.OpenSlots(1, 1)
		}
		done.Store(n)
		for j := 0; j < 50 && refused.Load() < n/500; j++ {
			runtime.Gosched()
		}
	})
	require.Positive(t, refused.Load())
}

// Nobody is refused for a slot that another is in doubt of, and does not keep.
func TestFull_NotForWhatIsNotKept(t *testing.T) {
	l := New(Slots)
	l.Refuse(&Refusal{Limit: 2})
	l.OpenSlots(1, 2)
	s, other := askedOf(l), setOf(l, openSlots(1, 1))
	around(3, 20_000, func(*rand.Rand) {
		if other.Take(0, new(Pass)) {
			t.Error("the second is full")
		}
	}, 8, func(int) {
		if s.Full() != nil {
			t.Error("one of two is taken")
		}
	})
}

// A breaker counts successes before an instant, of calls that it has let start, until it is shut.
func TestGive_CountsSuccesses(t *testing.T) {
	l, p := New(Breaker), new(Pass)
	l.OpenBreaker(7, 10)
	s := setOf(l).ending(openSlots(0, 9))
	for range 3 {
		require.True(t, s.Take(9, p))
		require.Zero(t, s.Give(9, p))
	}
	require.Equal(t, uint64(7)<<32|3*oneSuccess, l.word.Load())
	require.True(t, s.Take(10, p), "only what counts it is another")
	require.Equal(t, 2, s.Give(10, p), "it is to be counted elsewhere")
	require.Equal(t, 2, s.Give(11, p))
	old := Pass{Generations: [MaxBreakers]uint32{6}}
	require.Equal(t, 2, s.Give(9, &old), "another generation")
	require.Equal(t, int64(3), l.Shut())
	require.Equal(t, 2, s.Give(9, p), "it is shut")

	l.OpenBreaker(7, 20)
	require.Zero(t, s.Give(19, p))
	require.Equal(t, int64(1), l.Shut())
	l.OpenBreaker(8, Never)
	p.Generations[0] = 8
	require.Zero(t, s.Give(1<<60, p), "it counts none")
	require.Zero(t, l.Shut())

	l.OpenBreaker(8, 30)
	l.word.Add(successes - oneSuccess)
	s.Last.OpenSlots(9, 9)
	require.Zero(t, s.Give(0, p))
	require.Equal(t, 2, s.Give(0, p), "more than a word can say")
	require.Equal(t, uint64(8)<<32|successes, l.word.Load())
	require.Equal(t, int64(1)<<31-1, l.Shut())
}

// A breaker that counts is the one that lets a call start, however many have succeeded.
func TestRefusal_PastABreakerThatCounts(t *testing.T) {
	first, second := New(Breaker), New(Breaker)
	first.OpenBreaker(1, 10)
	second.Refuse(&Refusal{Until: 10})
	s, p := setOf(first, second), &Pass{Generations: [MaxBreakers]uint32{1}}
	for range 3 {
		require.Equal(t, 1, s.Give(0, p), "the second is shut")
		require.NotNil(t, s.Refusal(0))
	}
	require.Equal(t, int64(3), first.Shut())
}

// No success is lost, and none counted twice or after its time, whoever shuts the breaker meanwhile.
func TestGive_StormOfSuccesses(t *testing.T) {
	l, counted, inTime := New(Breaker), int64(0), atomic.Int64{}
	var clock atomic.Int64
	l.OpenBreaker(1, 1)
	s, p := setOf(l).ending(openSlots(0, MostSlots)), &Pass{Generations: [MaxBreakers]uint32{1}}
	around(3, 4000, func(*rand.Rand) {
		if s.Take(0, new(Pass)) && s.Give(clock.Load(), p) == 0 {
			inTime.Add(1)
		}
	}, 6, func(turn int) {
		for i := 0; i < 1000 && inTime.Load() < int64(turn); i++ {
			runtime.Gosched()
		}
		if turn%2 == 0 {
			clock.Store(int64(turn + 1)) // whoever reads it now is too late
		}
		counted += l.Shut()
		l.OpenBreaker(1, int64(turn+2))
	})
	counted += l.Shut()
	require.Equal(t, inTime.Load(), counted)
	require.Positive(t, counted)
}
