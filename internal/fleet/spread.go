package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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
			return f.store.Erase(ctx, r.fleet.key(holds, name, key), engine.AnyRevision)
		})
		if errors.Is(err, engine.ErrAbsent) {
			return nil
		}
		return err
	}
	return f.write(r.fleet.key(holds, name, key), said{By: f.nonce, Rate: name, Key: key, Hold: d}, d)
}

// announce tells every process which rate this one has.
func (r *Rate) announce() {
	if r.fleet.store == nil {
		return
	}
	n, per, burst := r.class.Rate.Terms()
	x := said{By: r.fleet.nonce, Rate: r.name(per), N: n, Burst: burst}
	key := r.fleet.key(rates, x.Rate, "")
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
	for n := 0; f.ctx.Err() == nil; n++ {
		_ = guarded(func() error {
			first := make(map[string]bool) // what is told until all has been that was there
			for rec, err := range f.store.Follow(f.ctx, f.prefix) {
				if err != nil {
					return err
				}
				switch n = 0; {
				case !rec.Caught:
					if first != nil {
						first[rec.Key] = true
					}
					f.hear(rec, first != nil)
				case first != nil:
					f.miss(first)
					first = nil
				}
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

// heard is a record that is there: what it says, and until when.
type heard struct {
	said
	own   bool
	until time.Time // of a hold
	end   int64     // of the pause that it has brought about
	done  []*Rate   // who has followed it; as end, guarded by Fleet.mu
}

// maxHeard bounds the records that are remembered, to end holds early, and for rates that are added later.
const maxHeard = 10_000

// hear does as a process tells; anew says that the record was there before.
func (f *Fleet) hear(rec engine.Record, anew bool) {
	if f.isBallot(rec.Key) {
		f.hearBallot(rec, anew)
		return
	}
	h := new(heard)
	if rec.Gone || json.Unmarshal(rec.Value, &h.said) != nil {
		f.mu.Lock()
		h = f.heard[rec.Key]
		delete(f.heard, rec.Key)
		f.mu.Unlock()
		if h != nil {
			f.lift(h)
		}
		return
	}
	h.own = h.By == f.nonce
	if h.until = time.Now().Add(h.Hold); rec.Left > 0 && rec.Left < h.Hold {
		h.until = time.Now().Add(rec.Left)
	}
	f.mu.Lock()
	list := f.rates
	if _, known := f.heard[rec.Key]; known || len(f.heard) < maxHeard {
		f.heard[rec.Key] = h
	}
	f.mu.Unlock()
	for _, r := range list {
		r.follow(h)
	}
}

// catchUp does what was told before list, which has been added, was there.
func (f *Fleet) catchUp(list []*Rate) {
	f.mu.Lock()
	there := slices.Collect(maps.Values(f.heard))
	f.mu.Unlock()
	for _, h := range there {
		for _, r := range list {
			r.follow(h)
		}
	}
}

// follow does as h says, if it is about r.
func (r *Rate) follow(h *heard) {
	f := r.fleet
	f.mu.Lock()
	twice := slices.Contains(h.done, r)
	h.done = append(h.done, r)
	f.mu.Unlock()
	if twice {
		return
	}
	s := r.ref.Lock()
	n, per, burst := r.class.Rate.Terms()
	by := r.class.Name
	if r.name(per) != h.Rate {
		s.Unlock()
		return
	}
	if d := time.Until(h.until); h.Hold > 0 && d > 0 {
		if c := s.M.Cell(s.Now(), r.class, h.Key); c != nil {
			if !h.own { // else it is done, and may be ended by another
				s.PauseTold(c, d)
			}
			end := c.Usage(s.Now()).Paused
			f.mu.Lock()
			h.end = max(h.end, end)
			f.mu.Unlock()
		}
	}
	unlock(s)
	if h.N > 0 && !h.own && (h.N != n || h.Burst != burst) {
		text := func(n, burst int64) string {
			return rules.Rate{N: n, Per: time.Duration(per), Burst: burst, Unit: r.class.Unit}.String()
		}
		f.tell(Notice{By: by, From: text(n, burst), To: text(h.N, h.Burst)})
	}
}

// lift ends the pause that h has brought about, unless it is another by now.
func (f *Fleet) lift(h *heard) {
	f.mu.Lock()
	list, end := f.rates, h.end
	f.mu.Unlock()
	for _, r := range list {
		s := r.ref.Lock()
		if _, per, _ := r.class.Rate.Terms(); r.name(per) == h.Rate {
			if c := r.class.Lookup(h.Key); c != nil {
				s.LiftTold(c, end)
			}
		}
		unlock(s)
	}
}
