package stage

import (
	"context"

	"github.com/sluice-go/sluice/internal/admit"
)

// Semaphore is what the Semaphore of a class is to a stage: others acquire it too, and Acquire
// stands in line with them. It answers an error, and has acquired nothing, if ctx ends first.
type Semaphore interface {
	admit.Semaphore
	Acquire(ctx context.Context, n int64) error
}

// acquirer is a goroutine that waits in the line of a semaphore for the first call that waits for
// it. There is one while there is such a call; each is for one number of slots. The stage's lock
// guards which there are: one that is not in [Stage.acquirers] any more keeps nothing.
type acquirer struct {
	n   int64
	end context.CancelFunc
}

// acquire has an acquirer wait wherever a call waits for a semaphore, and no others. The stage is
// locked.
func (s *Stage) acquire() {
	for c, a := range s.acquirers {
		if s.M.Lacks(c) != a.n {
			a.end()
			delete(s.acquirers, c)
		}
	}
	for _, c := range s.M.Sought() {
		n := s.M.Lacks(c)
		if n == 0 || s.acquirers[c] != nil {
			continue
		}
		ctx, end := context.WithCancel(context.Background())
		a := &acquirer{n, end}
		if s.acquirers == nil {
			s.acquirers = make(map[*admit.Cell]*acquirer)
		}
		s.acquirers[c] = a
		s.acquiring.Add(1)
		go s.acquireFor(ctx, c, a)
	}
}

// acquireFor waits for what a is for, and hands it to those who wait at c, in their order.
func (s *Stage) acquireFor(ctx context.Context, c *admit.Cell, a *acquirer) {
	defer s.acquiring.Done()
	defer a.end()
	semaphore := c.Class().Semaphore.(Semaphore)
	if semaphore.Acquire(ctx, a.n) != nil {
		return
	}
	s.mu.Lock()
	if s.acquirers[c] != a {
		s.mu.Unlock()
		semaphore.Release(a.n)
		return
	}
	delete(s.acquirers, c)
	s.M.Obtained(s.Now(), c, a.n)
	if s.Release().wake() {
		go s.deliver() // listeners may block, and whoever closes waits for this goroutine
	}
}
