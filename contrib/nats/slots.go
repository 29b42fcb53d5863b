package sluicenats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-go/sluice/engine"
)

type slots struct{ e *Engine }

var _ engine.Slots = slots{}

// look is how often a claim that waits looks for itself, in case it was not told.
const look = time.Second

// decide lets f decide about the slots of keys, each given once, and about when the data began.
func (s slots) decide(ctx context.Context, keys []string, asks string, f func(v *view, born birth, all []*places) error) error {
	subjects := make([]string, 0, len(keys)+1)
	for _, key := range keys {
		subjects = append(subjects, s.e.at("s", key))
	}
	subjects = append(subjects, s.e.at("b", ""))
	var told []string
	_, err := s.e.decide(ctx, subjects, true, func(v *view) ([]put, error) {
		told = nil
		born, puts, err := v.birth(&v.cells[len(keys)])
		if err != nil {
			return nil, err
		}
		all := make([]*places, len(keys))
		for i := range keys {
			if all[i], err = loadPlaces(v, &v.cells[i]); err != nil {
				return nil, err
			}
		}
		for _, p := range all {
			p.begin(v.hi, born, asks)
		}
		if err := f(v, born, all); err != nil {
			return nil, err
		}
		for i, p := range all {
			puts = append(puts, p.save(v, &v.cells[i])...)
			told = append(told, p.told...)
		}
		return v.sameBirth(puts), nil
	})
	if err == nil && len(told) > 0 {
		s.e.hub.tell(told)
	}
	return err
}

// ask is what has become of a claim.
type ask struct {
	lease  engine.Lease
	idle   time.Duration // for which nothing happens by itself
	final  error         // it never gets anything
	queued bool          // it waits
}

// claim asks for c, in the name of token: left is how long it waits, first says that it has had
// no answer yet.
func (s slots) claim(ctx context.Context, c engine.Claim, token string, left time.Duration, first bool) (a ask, err error) {
	err = s.decide(ctx, []string{c.Key}, token, func(v *view, born birth, all []*places) error {
		a = ask{}
		p, now := all[0], v.hi
		l, w := p.lease(c.Holder), p.waits(c.Holder)
		switch {
		case l != nil && l.Units != c.Units:
			a.final = refuse("%q holds %d units of %q already", c.Holder, l.Units, c.Key)
		case w != nil && (w.Units != c.Units || w.Priority != c.Priority || w.Tenant != c.Tenant || w.Weight != c.Weight):
			a.final = refuse("%q waits for %q already, with another claim", c.Holder, c.Key)
		case !first && (w != nil && w.Token != token || l != nil && l.Token != token):
			a.final = fmt.Errorf("%w: another Acquire of %q waits in its place", engine.ErrLost, c.Holder)
		}
		if a.final != nil {
			return nil
		}
		if l == nil && w == nil {
			w = &queued{Holder: c.Holder, Token: token, Units: c.Units, Priority: c.Priority, Tenant: c.Tenant, Weight: c.Weight}
			if n := len(p.Queue); n > 0 {
				w.Arrival = p.Queue[n-1].Arrival + 1
			}
			p.Queue = append(p.Queue, w)
			w.Until = now + int64(left)
		}
		if l == nil {
			if w.Token != token { // whoever waits in this place so far learns that
				p.told = append(p.told, w.Token)
				w.Token, w.Until = token, now+int64(left)
			}
			w.Limit, w.TTL, w.Cold = c.Limit, int64(c.TTL), c.Cold
			p.serve(now, born, token)
			l = p.lease(c.Holder)
		}
		switch {
		case l != nil:
			l.End, l.Token = now+int64(c.TTL), token
			a.lease = engine.Lease{Key: c.Key, Holder: c.Holder, Fence: l.Fence, Units: l.Units, Until: v.sent.Add(c.TTL), Wanted: p.wanted()}
		case left <= 0:
			p.leave(w)
			p.serve(now, born, token) // whoever it stood before
		default:
			a.queued, a.idle = true, p.idle(now, born)
		}
		return nil
	})
	return a, err
}

func (s slots) Acquire(ctx context.Context, c engine.Claim) (engine.Lease, error) {
	c, err := c.Normal()
	if err != nil {
		return engine.Lease{}, err
	}
	if err := s.e.enter(ctx); err != nil {
		return engine.Lease{}, err
	}
	token := engine.NewOpID().String()
	told, forget := s.e.hub.wait(token)
	defer forget()
	over := time.Now().Add(c.MaxWait)
	for first := true; ; {
		left := max(0, time.Until(over))
		a, err := s.claim(ctx, c, token, left, first)
		switch {
		case err == nil && a.final != nil:
			return engine.Lease{}, a.final
		case err == nil && a.lease.Units > 0 && ctx.Err() == nil:
			return a.lease, nil
		case err == nil && a.lease.Units == 0 && !a.queued:
			return engine.Lease{}, engine.ErrBusy
		case err == nil:
			first = false
		case left <= 0 || errors.Is(err, engine.ErrClosed):
			return engine.Lease{}, s.leave(ctx, c, token, err)
		default: // perhaps it waits: it asks again, in its name
			a.idle = 2 * again
		}
		timer := time.NewTimer(min(a.idle+time.Millisecond, look, max(0, time.Until(over))))
		select {
		case <-told:
		case <-timer.C:
		case <-ctx.Done():
		case <-s.e.quit.Done():
		}
		timer.Stop()
		if err := s.e.enter(ctx); err != nil {
			return engine.Lease{}, s.leave(ctx, c, token, err)
		}
	}
}

// leave takes a claim out of the queue, with a lease that it has got meanwhile, and returns err.
// If that cannot be said now the claim ends with its wait, and such a lease with its offer, or its
// time to live.
func (s slots) leave(ctx context.Context, c engine.Claim, token string, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), offer)
	defer cancel()
	_ = s.decide(ctx, []string{c.Key}, "", func(v *view, born birth, all []*places) error {
		p := all[0]
		if w := p.waits(c.Holder); w != nil && w.Token == token {
			p.leave(w)
		}
		if l := p.lease(c.Holder); l != nil && l.Token == token {
			p.end(l)
		}
		p.serve(v.hi, born, "")
		return nil
	})
	return err
}

// keysOf are the keys of leases, each once, and which of them each is of. Those of leases that
// cannot be are none: -1.
func keysOf(leases []engine.Lease) (keys []string, at []int) {
	at = make([]int, len(leases))
	for i, l := range leases {
		if checkKey(l.Key) != nil {
			at[i] = -1
			continue
		}
		if at[i] = slices.Index(keys, l.Key); at[i] < 0 {
			at[i] = len(keys)
			keys = append(keys, l.Key)
		}
	}
	return keys, at
}

func (s slots) Renew(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
	if ttl <= 0 || ttl > engine.MaxWait {
		return nil, refuse("ttl is %v: must be positive, at most a year", ttl)
	}
	if err := batch("leases", len(leases)); err != nil || len(leases) == 0 {
		return nil, err
	}
	if err := s.e.enter(ctx); err != nil {
		return nil, err
	}
	out := make([]engine.Lease, len(leases))
	keys, at := keysOf(leases)
	err := s.decide(ctx, keys, "", func(v *view, born birth, all []*places) error {
		for i, l := range leases {
			out[i] = engine.Lease{Key: l.Key, Holder: l.Holder, Fence: l.Fence}
			if at[i] < 0 {
				continue
			}
			p := all[at[i]]
			if live := p.find(v, born, l, true); live != nil {
				live.End = v.hi + int64(ttl)
				if live.Fence < born.fence() {
					live.TTL = int64(ttl)
				}
				out[i].Units, out[i].Wanted, out[i].Until = live.Units, p.wanted(), v.sent.Add(ttl)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s slots) Resize(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
	if limit < 1 || limit > 1<<30 {
		return engine.Lease{}, refuse("limit is %d: must be from 1 to 1<<30", limit)
	}
	if units < 1 || units > limit {
		return engine.Lease{}, refuse("units is %d: must be from 1 to limit", units)
	}
	if err := checkKey(l.Key); err != nil {
		return engine.Lease{}, engine.ErrLost
	}
	if err := s.e.enter(ctx); err != nil {
		return engine.Lease{}, err
	}
	var no error
	err := s.decide(ctx, []string{l.Key}, "", func(v *view, born birth, all []*places) error {
		p := all[0]
		no = nil
		live := p.find(v, born, l, true)
		if live == nil {
			no = engine.ErrLost
			return nil
		}
		more := units - live.Units
		if more > 0 && (live.Fence < born.fence() && v.hi < born.At+live.TTL || len(p.Queue) > 0 || p.used()+more > limit) {
			no = engine.ErrBusy
			return nil
		}
		live.Units = units
		if more < 0 {
			p.serve(v.hi, born, "")
		}
		l.Units, l.Wanted = units, p.wanted()
		return nil
	})
	if err == nil {
		err = no
	}
	if err != nil {
		return engine.Lease{}, err
	}
	return l, nil
}

func (s slots) Release(ctx context.Context, leases ...engine.Lease) error {
	if err := batch("leases", len(leases)); err != nil || len(leases) == 0 {
		return err
	}
	if err := s.e.enter(ctx); err != nil {
		return err
	}
	keys, at := keysOf(leases)
	return s.decide(ctx, keys, "", func(v *view, born birth, all []*places) error {
		for i, l := range leases {
			if at[i] < 0 {
				continue
			}
			p := all[at[i]]
			if live := p.find(v, born, l, false); live != nil {
				p.end(live)
				p.serve(v.hi, born, "")
			}
		}
		return nil
	})
}
