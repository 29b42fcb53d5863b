package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
)

// said is a record that processes tell each other something by.
type said struct {
	By   string        `json:"by"`            // the Fleet's nonce
	Rate string        `json:"rate"`          // its name
	Key  string        `json:"key,omitempty"` // of a cell
	Hold time.Duration `json:"hold_ns,omitempty"`

	N     int64 `json:"n,omitempty"` // of the rate
	Burst int64 `json:"burst,omitempty"`
}

// kinds of records, by what their keys begin with after the prefix.
const (
	holds = "hold"
	rates = "conf"
)

// keep is how long a record of a rate is there.
const keep = 7 * 24 * time.Hour

// Hold keeps everybody from c for d nanoseconds, or lets them go if that is zero. Those who are told to go on find
// that they may.
func (r *Rate) Hold(c *admit.Cell, d int64) {
	n, per, burst := c.Class().Rate.Terms()
	f, m, until := r.fleet, r.meter(c.Key(), n, per, burst), time.Now().Add(time.Duration(d))
	name, key := r.name(per), c.Key()
	hold := func(left time.Duration) error { return f.quota.Hold(f.ctx, m, left) }
	tell := func(left time.Duration) error { return r.tellHold(name, key, left) }
	if d > 0 {
		f.start(func() { f.persist(until, true, tell) })
		f.start(func() { f.persist(until, true, hold) })
		return
	}
	f.start(func() {
		f.persist(until, false, hold)
		s := r.ref.Lock()
		s.M.Lifted(s.Now(), c)
		unlock(s)
		f.persist(until, false, tell)
	})
}

// persist does what is to be done by that instant, if there is one, again and again until it succeeds, a few
// times at most.
func (f *Fleet) persist(until time.Time, timed bool, do func(left time.Duration) error) {
	for n := range 100 {
		left := time.Until(until)
		if timed && left <= 0 || do(max(0, left)) == nil {
			return
		}
		f.failed.Add(1)
		if !f.sleep(pause(n)) {
			return
		}
	}
}

// sleep waits for d, and reports whether f is there still.
func (f *Fleet) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.ending
	case <-f.ctx.Done():
		return false
	}
}

// tellHold tells every process that key is held for d, or not any more.
func (r *Rate) tellHold(name, key string, d time.Duration) error {
	f := r.fleet
	if f.store == nil {
		return nil
	}
	if d == 0 {
		err := f.apart(func(ctx context.Context) error {
			return f.store.Erase(ctx, r.key(holds, name, key), engine.AnyRevision)
		})
		if errors.Is(err, engine.ErrAbsent) {
			return nil
		}
		return err
	}
	return f.write(r.key(holds, name, key), said{By: f.nonce, Rate: name, Key: key, Hold: d}, d)
}

// announce tells every process which rate this one has.
func (r *Rate) announce() {
	if r.fleet.store == nil {
		return
	}
	n, per, burst := r.class.Rate.Terms()
	x := said{By: r.fleet.nonce, Rate: r.name(per), N: n, Burst: burst}
	key := r.key(rates, x.Rate, "")
	r.fleet.start(func() {
		r.fleet.persist(time.Time{}, false, func(time.Duration) error { return r.fleet.write(key, x, keep) })
	})
}

func (f *Fleet) write(key string, x said, ttl time.Duration) error {
	text, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return f.apart(func(ctx context.Context) error {
		_, err := f.store.Write(ctx, key, engine.AnyRevision, text, max(ttl, f.conf.Engine.Limits().MinTTL))
		return err
	})
}

// apart calls the engine's store, and waits no longer than the budget. A call that does not heed its context is
// left, and none is made while many are.
func (f *Fleet) apart(do func(context.Context) error) error {
	f.mu.Lock()
	if f.ended || f.left >= maxLeft {
		f.mu.Unlock()
		return errors.New("the engine's store has not returned from earlier calls")
	}
	f.left++
	f.group.Add(1)
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(f.ctx, f.conf.Budget)
	done := make(chan error, 1)
	go func() {
		defer f.group.Done()
		defer cancel()
		err := guarded(func() error { return do(ctx) })
		f.mu.Lock()
		f.left--
		f.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	default:
		return context.Cause(ctx)
	}
}

// guarded is what do answers, whatever it does: a panic is an error, and so is that it ends its goroutine.
func guarded(do func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the goroutine was ended")
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v", v)
			}
			done <- err
		}()
		err = do()
	}()
	return <-done
}

// follow hears what other processes tell, until f ends.
func (f *Fleet) follow() {
	defer f.group.Done()
	held := make(map[string]heldBy)
	for n := 0; f.ctx.Err() == nil; n++ {
		_ = guarded(func() error {
			for rec, err := range f.store.Follow(f.ctx, f.prefix) {
				if err != nil {
					return err
				}
				n = 0
				f.hear(rec, held)
			}
			return nil
		})
		t := time.NewTimer(pause(n))
		select {
		case <-t.C:
		case <-f.ctx.Done():
			t.Stop()
		}
	}
}

// maxHeld bounds the holds of others that are remembered, to end them early.
const maxHeld = 10_000

// hear does as another process tells.
func (f *Fleet) hear(rec engine.Record, held map[string]heldBy) {
	if rec.Gone {
		if h, ok := held[rec.Key]; ok {
			delete(held, rec.Key)
			f.lift(h)
		}
		return
	}
	var x said
	if json.Unmarshal(rec.Value, &x) != nil {
		return
	}
	own := x.By == f.nonce // then it is done, and may be ended by another
	for _, r := range f.all() {
		s := r.ref.Lock()
		n, per, burst := r.class.Rate.Terms()
		by := r.class.Name
		if r.name(per) != x.Rate {
			s.Unlock()
			continue
		}
		if x.Hold > 0 {
			d := x.Hold
			if rec.Left > 0 {
				d = min(d, rec.Left)
			}
			if c := s.M.Cell(s.Now(), r.class, x.Key); c != nil {
				if !own {
					s.PauseTold(c, d)
				}
				if len(held) < maxHeld {
					held[rec.Key] = heldBy{x.Rate, x.Key, c.Usage(s.Now()).Paused}
				}
			}
		}
		unlock(s)
		if x.N > 0 && !own && (x.N != n || x.Burst != burst) {
			text := func(n, burst int64) string {
				return rules.Rate{N: n, Per: time.Duration(per), Burst: burst, Unit: r.class.Unit}.String()
			}
			f.tell(Notice{By: by, From: text(n, burst), To: text(x.N, x.Burst)})
		}
	}
}

// all is the rates of f.
func (f *Fleet) all() []*Rate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rates
}

// heldBy is a pause of a key because of a record, and when it is to end.
type heldBy struct {
	rate, key string
	end       int64
}

// lift ends a pause, unless it is another by now.
func (f *Fleet) lift(h heldBy) {
	for _, r := range f.all() {
		s := r.ref.Lock()
		if _, per, _ := r.class.Rate.Terms(); r.name(per) == h.rate {
			if c := r.class.Lookup(h.key); c != nil {
				s.LiftTold(c, h.end)
			}
		}
		unlock(s)
	}
}
