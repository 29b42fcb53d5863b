package sluicetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// Fault is what a [Chaos] does to the calls made to it.
type Fault int

const (
	Healthy    Fault = iota // passes them on
	Slow                    // holds them up for a random part of Delay first
	Gone                    // does not answer until the context ends; nothing is applied
	Refusing                // returns ErrRefused; nothing is applied
	LosingAcks              // applies them and returns ErrUnsure
	Dropping                // returns ErrUnsure; nothing is applied
	Restarting              // each call is Healthy, Refusing, LosingAcks or Dropping at random
	Lying                   // applies them and answers what cannot be true
	Panicking               // panics; nothing is applied
	Exiting                 // ends the goroutine; nothing is applied
	faults
)

var faultNames = [faults]string{"healthy", "slow", "gone", "refusing", "losing acks", "dropping", "restarting", "lying", "panicking", "exiting"}

// String names the fault.
func (f Fault) String() string {
	if f < 0 || f >= faults {
		return fmt.Sprintf("Fault(%d)", int(f))
	}
	return faultNames[f]
}

// Chaos is an engine with faults, to test what stands before engines. What it does is
// decided by its seed and the order of the calls. Make one with [NewChaos]; the zero value
// is not usable. It is safe for concurrent use.
type Chaos struct {
	conf ChaosConfig
	quit context.Context
	stop context.CancelFunc

	mu     sync.Mutex
	inner  engine.Engine
	rand   *rand.Rand
	fault  Fault
	counts ChaosCounts
}

var _ engine.Engine = (*Chaos)(nil)

// ChaosConfig configures a [Chaos]. Open is required.
type ChaosConfig struct {
	Open  func() (engine.Engine, error) // the engine behind it; called again by Restart
	Seed  uint64
	Fault Fault         // to begin with; see Set
	Delay time.Duration // of Slow, at most; zero means 1s
}

// ChaosCounts says what has become of the calls to a [Chaos].
type ChaosCounts struct {
	Calls   int
	Applied int // passed on, whatever was answered
	Refused int // answered with ErrRefused by the Chaos itself
	Unsure  int // answered with ErrUnsure
	Lies    int
}

// NewChaos returns a Chaos before an engine that Open makes. Close closes that, too.
func NewChaos(c ChaosConfig) (*Chaos, error) {
	switch {
	case c.Open == nil:
		return nil, errors.New("sluicetest: ChaosConfig.Open is nil: must be a function")
	case c.Delay < 0:
		return nil, fmt.Errorf("sluicetest: ChaosConfig.Delay is %v: must be zero (1s) or positive", c.Delay)
	case c.Fault < 0 || c.Fault >= faults:
		return nil, fmt.Errorf("sluicetest: ChaosConfig.Fault is %v: must be one of the faults", c.Fault)
	}
	if c.Delay == 0 {
		c.Delay = time.Second
	}
	inner, err := c.Open()
	if err != nil {
		return nil, err
	}
	x := &Chaos{conf: c, inner: inner, fault: c.Fault, rand: rand.New(rand.NewPCG(c.Seed, 0))}
	x.quit, x.stop = context.WithCancel(context.Background())
	return x, nil
}

// Set makes f the fault of the calls from now on.
func (x *Chaos) Set(f Fault) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fault = f
}

// Restart closes the engine and opens another, which knows nothing of what was before
// unless Open sees to that. Calls under way are answered with ErrUnsure.
func (x *Chaos) Restart() error {
	next, err := x.conf.Open()
	if err != nil {
		return err
	}
	x.mu.Lock()
	old := x.inner
	x.inner = next
	x.mu.Unlock()
	return old.Close()
}

// Counts returns what has happened so far.
func (x *Chaos) Counts() ChaosCounts {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.counts
}

// Promises are those of the engine.
func (x *Chaos) Promises() engine.Promise { return x.engine().Promises() }

// Limits are those of the engine.
func (x *Chaos) Limits() engine.Limits { return x.engine().Limits() }

// Epoch is the engine's, with faults; after Restart it is another one.
func (x *Chaos) Epoch(ctx context.Context) (id uint64, age time.Duration, err error) {
	err = x.pass(ctx, func(e engine.Engine) (err error) {
		id, age, err = e.Epoch(ctx)
		return err
	}, func(n int) {
		if n%2 == 0 {
			id = 0
		}
		age = -age - 1
	})
	if err != nil {
		return 0, 0, err
	}
	return id, age, nil
}

// Store is the engine's, with faults.
func (x *Chaos) Store() engine.Store { return chaosStore{x} }

// Quota is the engine's, with faults.
func (x *Chaos) Quota() engine.Quota { return chaosQuota{x} }

// Slots are the engine's, with faults.
func (x *Chaos) Slots() engine.Slots { return chaosSlots{x} }

// Events is the engine's, with faults.
func (x *Chaos) Events() engine.Publisher { return chaosEvents{x} }

// Close ends the calls that hang and closes the engine.
func (x *Chaos) Close() error {
	x.stop()
	return x.engine().Close()
}

func (x *Chaos) engine() engine.Engine {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.inner
}

// pass does to a call what is the turn's fault. lie spoils an answer that apply got; n is
// a random number for it.
func (x *Chaos) pass(ctx context.Context, apply func(engine.Engine) error, lie func(n int)) error {
	x.mu.Lock()
	x.counts.Calls++
	fault := x.fault
	if fault == Restarting {
		fault = []Fault{Healthy, Refusing, LosingAcks, Dropping}[x.rand.IntN(4)]
	}
	n, wait := x.rand.IntN(1<<20), time.Duration(x.rand.Int64N(int64(x.conf.Delay)))+1
	inner := x.inner
	x.mu.Unlock()

	count := func(p *int) {
		x.mu.Lock()
		defer x.mu.Unlock()
		*p++
	}
	refuse := func(cause error) error {
		count(&x.counts.Refused)
		return fmt.Errorf("%w: %w", engine.ErrRefused, cause)
	}
	unsure := func(cause error) error {
		count(&x.counts.Unsure)
		return fmt.Errorf("%w: %w", engine.ErrUnsure, cause)
	}
	switch fault {
	case Slow:
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return refuse(context.Cause(ctx))
		case <-x.quit.Done():
			return refuse(engine.ErrClosed)
		}
	case Gone:
		select {
		case <-ctx.Done():
			return unsure(context.Cause(ctx))
		case <-x.quit.Done():
			return refuse(engine.ErrClosed)
		}
	case Refusing:
		return refuse(errors.New("chaos: connection refused"))
	case Dropping:
		return unsure(errors.New("chaos: connection reset"))
	case Panicking:
		panic("chaos")
	case Exiting:
		runtime.Goexit()
	}
	count(&x.counts.Applied)
	err := apply(inner)
	switch {
	case fault == LosingAcks:
		return unsure(errors.New("chaos: connection reset"))
	case errors.Is(err, engine.ErrClosed) && x.quit.Err() == nil: // restarted in between
		return unsure(errors.New("chaos: restarted"))
	case fault == Lying:
		count(&x.counts.Lies)
		lie(n)
		return nil
	}
	return err
}

type chaosQuota struct{ x *Chaos }

func (q chaosQuota) Take(ctx context.Context, d engine.Draw) (g engine.Grant, err error) {
	err = q.x.pass(ctx, func(e engine.Engine) (err error) {
		g, err = e.Quota().Take(ctx, d)
		return err
	}, func(n int) {
		least, most := max(d.Min, 1), max(d.Max, d.Min, 1)
		lies := []engine.Grant{
			{Units: -1},
			{Units: most + 1},
			{Units: most, After: -time.Second},
			{Units: most, After: d.MaxWait + time.Hour},
			{Units: most, After: d.MaxWait + 1},
			{Units: most + 1, Every: -1},
			{Retry: -time.Nanosecond},
			{Units: -1 << 63, Retry: -1 << 63},
			{Units: least - 1, After: 1},
		}
		g = lies[n%len(lies)]
	})
	if err != nil {
		return engine.Grant{}, err
	}
	return g, nil
}

func (q chaosQuota) Settle(ctx context.Context, op engine.OpID, list []engine.Correction) error {
	return q.x.pass(ctx, func(e engine.Engine) error { return e.Quota().Settle(ctx, op, list) }, func(int) {})
}

func (q chaosQuota) Hold(ctx context.Context, m engine.Meter, d time.Duration) error {
	return q.x.pass(ctx, func(e engine.Engine) error { return e.Quota().Hold(ctx, m, d) }, func(int) {})
}

type chaosStore struct{ x *Chaos }

func (s chaosStore) Read(ctx context.Context, key string) (rec engine.Record, err error) {
	err = s.x.pass(ctx, func(e engine.Engine) (err error) {
		rec, err = e.Store().Read(ctx, key)
		return err
	}, func(n int) {
		rec = []engine.Record{{Key: key}, {Key: key + "?", Rev: 1}, {Key: key, Rev: 1, Left: -1}}[n%3]
	})
	return rec, err
}

func (s chaosStore) Write(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (rev engine.Revision, err error) {
	err = s.x.pass(ctx, func(e engine.Engine) (err error) {
		rev, err = e.Store().Write(ctx, key, was, value, ttl)
		return err
	}, func(int) { rev = 0 })
	if err != nil {
		rev = 0
	}
	return rev, err
}

func (s chaosStore) Erase(ctx context.Context, key string, was engine.Revision) error {
	return s.x.pass(ctx, func(e engine.Engine) error { return e.Store().Erase(ctx, key, was) }, func(int) {})
}

func (s chaosStore) Fetch(ctx context.Context, keys ...string) (list []engine.Record, err error) {
	err = s.x.pass(ctx, func(e engine.Engine) (err error) {
		list, err = e.Store().Fetch(ctx, keys...)
		return err
	}, func(n int) {
		switch {
		case n%2 == 0 && len(list) > 0:
			list = list[1:]
		default:
			list = append(list, engine.Record{Key: "?", Rev: 1})
		}
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (s chaosStore) Commit(ctx context.Context, op engine.OpID, changes ...engine.Change) (revs []engine.Revision, err error) {
	err = s.x.pass(ctx, func(e engine.Engine) (err error) {
		revs, err = e.Store().Commit(ctx, op, changes...)
		return err
	}, func(int) { revs = append(revs, 0) })
	if err != nil {
		return nil, err
	}
	return revs, nil
}

func (s chaosStore) Add(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (total, applied int64, err error) {
	err = s.x.pass(ctx, func(e engine.Engine) (err error) {
		total, applied, err = e.Store().Add(ctx, op, key, delta, within, ttl)
		return err
	}, func(int) { applied = delta + 1 })
	if err != nil {
		return 0, 0, err
	}
	return total, applied, nil
}

// Follow delivers what the engine does unless it is Gone; every other fault ends it after
// the first record or note, with ErrUnsure.
func (s chaosStore) Follow(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
	return func(yield func(engine.Record, error) bool) {
		s.x.mu.Lock()
		fault, inner := s.x.fault, s.x.inner
		s.x.mu.Unlock()
		if fault == Gone {
			select {
			case <-ctx.Done():
				yield(engine.Record{}, fmt.Errorf("%w: %w", engine.ErrRefused, context.Cause(ctx)))
			case <-s.x.quit.Done():
				yield(engine.Record{}, engine.ErrClosed)
			}
			return
		}
		for rec, err := range inner.Store().Follow(ctx, prefix) {
			if !yield(rec, err) {
				return
			}
			if fault != Healthy && fault != Slow {
				yield(engine.Record{}, fmt.Errorf("%w: chaos: connection reset", engine.ErrUnsure))
				return
			}
		}
	}
}

type chaosSlots struct{ x *Chaos }

func (s chaosSlots) Acquire(ctx context.Context, c engine.Claim) (l engine.Lease, err error) {
	err = s.x.pass(ctx, func(e engine.Engine) (err error) {
		l, err = e.Slots().Acquire(ctx, c)
		return err
	}, func(n int) { l = lieLease(l, n) })
	if err != nil {
		return engine.Lease{}, err
	}
	return l, nil
}

func (s chaosSlots) Renew(ctx context.Context, ttl time.Duration, leases ...engine.Lease) (list []engine.Lease, err error) {
	err = s.x.pass(ctx, func(e engine.Engine) (err error) {
		list, err = e.Slots().Renew(ctx, ttl, leases...)
		return err
	}, func(n int) {
		if len(list) == 0 || n%4 == 3 {
			list = append(list, engine.Lease{})
			return
		}
		list[n%len(list)] = lieLease(list[n%len(list)], n)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (s chaosSlots) Resize(ctx context.Context, old engine.Lease, units, limit int) (l engine.Lease, err error) {
	err = s.x.pass(ctx, func(e engine.Engine) (err error) {
		l, err = e.Slots().Resize(ctx, old, units, limit)
		return err
	}, func(n int) { l = lieLease(l, n) })
	if err != nil {
		return engine.Lease{}, err
	}
	return l, nil
}

func lieLease(l engine.Lease, n int) engine.Lease {
	switch n % 3 {
	case 0:
		l.Fence = 0
	case 1:
		l.Until = l.Until.Add(1000 * time.Hour)
	default:
		l.Holder += "?"
	}
	return l
}

func (s chaosSlots) Release(ctx context.Context, leases ...engine.Lease) error {
	return s.x.pass(ctx, func(e engine.Engine) error { return e.Slots().Release(ctx, leases...) }, func(int) {})
}

type chaosEvents struct{ x *Chaos }

func (p chaosEvents) Publish(ctx context.Context, events []engine.Event) (n int, err error) {
	err = p.x.pass(ctx, func(e engine.Engine) (err error) {
		n, err = e.Events().Publish(ctx, events)
		return err
	}, func(lie int) { n = []int{-1, len(events) + 1}[lie%2] })
	if errors.Is(err, engine.ErrUnsure) {
		n = 0
	}
	return n, err
}
