package recall

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// value is what tests put: it knows its keys.
type value struct {
	keys string
	dead bool
	left int // how often the table has said that it is found no more
}

func newTable() *Table[value] {
	return &Table[value]{
		Alive: func(v *value) bool { return !v.dead },
		Left:  func(v *value) { v.left++ },
	}
}

func keysOf(list ...string) *Keys {
	k := new(Keys)
	for _, x := range list {
		k.Add(x)
	}
	return k
}

func (t *Table[V]) find(list ...string) *V { return t.Find(keysOf(list...)) }

// put puts a new value, which it answers.
func put(t *Table[value], list ...string) *value {
	k := keysOf(list...)
	t.Find(k)
	v := &value{keys: strings.Join(list, "|")}
	t.Put(k, v)
	return v
}

func TestTable(t *testing.T) {
	x := newTable()
	require.Nil(t, x.find("a", "b"))
	ab, ba, joined := put(x, "a", "b"), put(x, "b", "a"), put(x, "ab", "")
	require.Same(t, ab, x.find("a", "b"))
	require.Same(t, ba, x.find("b", "a"))
	require.Same(t, joined, x.find("ab", ""))
	require.Nil(t, x.find("", "ab"))
	require.Nil(t, x.find("a", "a"))
	again := put(x, "a", "b")
	require.Same(t, again, x.find("a", "b"))
	require.Equal(t, 1, ab.left, "what has been replaced")
	x.Clear()
	require.Nil(t, x.find("a", "b"))
	require.Equal(t, []int{1, 1, 1, 1}, []int{ab.left, ba.left, joined.left, again.left})
	require.Same(t, put(x, "a", "b"), x.find("a", "b"))
	newTable().Clear()
}

func TestTable_ManyKeysOfACall(t *testing.T) {
	x := newTable()
	a := put(x, "1", "2", "3", "4", "5", "6")
	b := put(x, "1", "2", "3", "4", "5", "7")
	require.Same(t, a, x.find("1", "2", "3", "4", "5", "6"))
	require.Same(t, b, x.find("1", "2", "3", "4", "5", "7"))
	require.Nil(t, x.find("1", "2", "3", "4", "5", "8"))
}

// A table finds almost all of as many keys as are far less than its bound.
func TestTable_Grows(t *testing.T) {
	x := newTable()
	for i := range 200 {
		put(x, fmt.Sprint(i))
		require.NotNil(t, x.find(fmt.Sprint(i)), "what was put last")
	}
	found := 0
	for i := range 200 {
		if x.find(fmt.Sprint(i)) != nil {
			found++
		}
	}
	assert.Greater(t, found, 180)
	assert.LessOrEqual(t, len(*x.slots.Load()), most)
}

// The table has a bound, and says of each value once that it is found no more.
func TestTable_IsBounded(t *testing.T) {
	x := newTable()
	const n = 20_000
	var all []*value
	for i := range n {
		all = append(all, put(x, fmt.Sprint(i)))
		require.Same(t, all[i], x.find(fmt.Sprint(i)), "what was put last")
	}
	require.Len(t, *x.slots.Load(), most)
	found := 0
	for i, v := range all {
		if y := x.find(fmt.Sprint(i)); y != nil {
			found++
			require.Same(t, v, y)
			require.Zero(t, v.left)
		} else {
			require.Equal(t, 1, v.left)
		}
	}
	require.LessOrEqual(t, found, most)
	require.Greater(t, found, most*3/4, "room that is used")
	x.Clear()
	for _, v := range all {
		require.Equal(t, 1, v.left)
	}
}

// Room is made of what is not alive, before the table grows or something else has to go.
func TestTable_WhatIsNotAliveMakesRoom(t *testing.T) {
	x := newTable()
	var all []*value
	for i := range 5_000 {
		v := put(x, fmt.Sprint(i))
		all = append(all, v)
		if i >= 8 {
			all[i-8].dead = true
		}
	}
	require.Less(t, len(*x.slots.Load()), most, "eight are alive")
	for i, v := range all[len(all)-8:] {
		require.Same(t, v, x.find(fmt.Sprint(len(all)-8+i)))
	}
	left := 0
	for _, v := range all {
		require.LessOrEqual(t, v.left, 1)
		left += v.left
	}
	require.GreaterOrEqual(t, left, len(all)-most/2)
}

// Keys come again if they have come before, and if few others came since.
func TestTable_ComesAgain(t *testing.T) {
	x := newTable()
	come := func(s string) bool {
		k := keysOf(s)
		x.Find(k)
		return x.ComesAgain(k)
	}
	require.False(t, come("a"))
	require.True(t, come("a"))
	require.True(t, come("a"))
	again := 0
	for i := range 100 * marks {
		if come(fmt.Sprint("once ", i)) {
			again++
		}
	}
	assert.Less(t, again, 30, "of keys that have come once, by chance")
	require.False(t, come("a"), "it came long ago")
	for range 10 {
		for i := range 100 {
			come(fmt.Sprint("hot ", i))
		}
	}
	again = 0
	for i := range 100 {
		if come(fmt.Sprint("hot ", i)) {
			again++
		}
	}
	assert.Greater(t, again, 70, "of a hundred that take turns")
}

// Keys that have the same hash are told apart all the same.
func TestTable_OneHash(t *testing.T) {
	x, a, b := newTable(), keysOf("a"), keysOf("b")
	a.hash, b.hash = 7, 7
	x.Put(a, &value{keys: "a"})
	require.Nil(t, x.look(b))
	x.Put(b, &value{keys: "b"})
	require.Equal(t, "a", x.look(a).keys)
	require.Equal(t, "b", x.look(b).keys)
	b.hash += 1 << 63
	require.Nil(t, x.look(b))
	a, b = keysOf("a", "b"), keysOf("b", "a")
	x.Find(a)
	x.Find(b)
	require.NotEqual(t, a.hash, b.hash)
}

// A table that grows takes with it what is alive, and says what it leaves behind.
func TestTable_GrownLeavesBehind(t *testing.T) {
	x, s := newTable(), newSlots[value](least)
	var all []*value
	for i := range near + 3 {
		all = append(all, &value{dead: i == 1})
		s.at(uint64(i)).put(&entry[value]{hash: 3, keys: []string{fmt.Sprint(i)}, value: all[i]})
	}
	x.slots.Store(x.grown(s))
	require.Len(t, *x.slots.Load(), 2*least)
	var found, left []int
	for i, v := range all {
		k := keysOf(fmt.Sprint(i))
		k.hash = 3
		if x.look(k) == v {
			found = append(found, i)
		}
		if v.left > 0 {
			left = append(left, i)
		}
	}
	require.Equal(t, []int{0, 2, 3, 4}, found)
	require.Equal(t, []int{1, 5, 6}, left)
}

func TestFind_AllocatesNothing(t *testing.T) {
	x := newTable()
	put(x, "a", "b")
	if n := testing.AllocsPerRun(100, func() {
		var k Keys
		k.Add("a")
		k.Add("b")
		if x.Find(&k) == nil {
			t.Error("not found")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whoever looks while others put finds what belongs to its keys, or nothing.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	x := newTable()
	var over atomic.Bool
	var readers sync.WaitGroup
	var found, missed atomic.Int64
	name := func(r *rand.Rand) []string { return []string{fmt.Sprint(r.IntN(30)), fmt.Sprint(r.IntN(30))} }
	for n := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, n))
		readers.Go(func() {
			for !over.Load() {
				list := name(r)
				if v := x.find(list...); v == nil {
					missed.Add(1)
				} else if found.Add(1); v.keys != strings.Join(list, "|") {
					t.Errorf("%v finds %s", list, v.keys)
					return
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(seed, 99))
	dead := make(map[*value]bool)
	x.Alive = func(v *value) bool { return !dead[v] }
	for i := 0; i < 30_000 || found.Load() == 0 || missed.Load() == 0; i++ {
		v := put(x, name(r)...)
		if r.IntN(3) == 0 {
			dead[v] = true
		}
		if r.IntN(5_000) == 0 {
			x.Clear()
		}
	}
	over.Store(true)
	readers.Wait()
	t.Logf("%d found, %d not", found.Load(), missed.Load())
}
