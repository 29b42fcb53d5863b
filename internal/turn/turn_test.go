package turn

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// teller notes what it says. It takes a second for each thing.
type teller struct {
	line  Line
	queue Queue[string]
	said  []string // one at a time, so without a lock
	exits string   // calls Goexit at that
}

func (s *teller) Waiting() *Queue[string] { return &s.queue }

func (s *teller) Say(x string) {
	time.Sleep(time.Second)
	s.said = append(s.said, x)
	if x == s.exits {
		runtime.Goexit()
	}
}

func (s *teller) take(x string, last bool) bool { return Take(&s.line, s, x, last, 3) }

// Whoever comes while another speaks goes on at once; what it has to say follows, in order.
func TestOthersAreNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s teller
		go s.take("a", false)
		synctest.Wait()
		start := time.Now()
		for _, x := range []string{"b", "c", "d"} {
			assert.True(t, s.take(x, false), "%s was left out", x)
		}
		assert.False(t, s.take("e", false), "a fourth waits, the bound is three")
		assert.Zero(t, time.Since(start), "others were held up for")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"a", "b", "c", "d"}, s.said)
	})
}

// The last thing has been said when its Take returns, however many wait before it.
func TestTheLastIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s teller
		go s.take("a", false)
		synctest.Wait()
		for _, x := range []string{"b", "c", "d"} {
			s.take(x, false)
		}
		start := time.Now()
		assert.True(t, s.take("end", true), "the last was left out")
		assert.Equal(t, 5*time.Second, time.Since(start), "the last took")
		require.Equal(t, []string{"a", "b", "c", "d", "end"}, s.said)
	})
}

// One who ends by Goexit as it speaks says what waits before that.
func TestGoexitLosesNothing(t *testing.T) {
	for _, at := range []string{"a", "b", "end"} {
		synctest.Test(t, func(t *testing.T) {
			s := teller{exits: at}
			go s.take("a", false)
			synctest.Wait()
			s.take("b", false)
			s.take("end", true)
			require.Equal(t, []string{"a", "b", "end"}, s.said)
			done := false
			go func() { s.take("after", false); done = true }()
			time.Sleep(time.Minute)
			synctest.Wait()
			assert.True(t, done, "the line is still busy")
		})
	}
}

// counter says numbers quickly, so that who leaves something and who is just done meet.
type counter struct {
	line  Line
	queue Queue[int]
	said  []int
}

func (c *counter) Waiting() *Queue[int] { return &c.queue }
func (c *counter) Say(x int)            { c.said = append(c.said, x) }

// Nothing is lost, said twice, or said out of the order of its goroutine.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range 200 {
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		var c counter
		var wg sync.WaitGroup
		n, each := 1+r.IntN(6), 1+r.IntN(50)
		for g := range n {
			wg.Go(func() {
				for i := range each {
					assert.True(t, Take(&c.line, &c, g*1000+i, false, 1<<20), "left out")
				}
			})
		}
		wg.Wait()
		Take(&c.line, &c, -1, true, 0)
		if len(c.said) != n*each+1 || c.said[len(c.said)-1] != -1 {
			t.Fatalf("round %d: %d of %d said, the last is %d", round, len(c.said), n*each+1, c.said[len(c.said)-1])
		}
		next := make([]int, n)
		for _, x := range c.said[:n*each] {
			if x%1000 != next[x/1000] {
				t.Fatalf("round %d: goroutine %d says %d, want %d", round, x/1000, x%1000, next[x/1000])
			}
			next[x/1000]++
		}
	}
}
