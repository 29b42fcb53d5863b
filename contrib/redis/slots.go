package sluiceredis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/redis/rueidis"
	"github.com/sluice-go/sluice/engine"
)

type slots struct{ e *Engine }

var _ engine.Slots = slots{}

// offer is how long a slot that was handed to a waiter waits for it.
const offer = time.Second

// What has become of a request, as lua/slots.lua says.
const (
	slotLeased  = 1
	slotWaits   = 2
	slotNone    = 3
	slotLost    = 4
	slotReplace = 5
)

type slotAnswer struct {
	what  int64
	fence uint64
	idle  time.Duration // for which nothing will happen by itself
	want  int           // units that others wait for
}

// keys are the last fence, the engine's birth, and the slots.
func (s slots) keys(slots ...string) []string {
	keys := []string{s.e.key("n", ""), s.e.key("b", "")}
	for _, key := range slots {
		keys = append(keys, s.e.key("s", key))
	}
	return keys
}

// ask is about one holder of one key.
func (s slots) ask(ctx context.Context, key, doing string, args ...string) (slotAnswer, error) {
	args = append([]string{doing, itoa(offer.Milliseconds())}, args...)
	out, err := s.e.exec(ctx, slotsScript, s.keys(key), args).ToArray()
	if err != nil {
		return slotAnswer{}, outcome(err)
	}
	var a slotAnswer
	if len(out) == 4 {
		what, err1 := out[0].AsInt64()
		fence, err2 := out[1].ToString()
		idle, err3 := out[2].AsInt64()
		want, err4 := out[3].AsInt64()
		number, err5 := strconv.ParseUint(fence, 10, 64)
		if errors.Join(err1, err2, err3, err4, err5) == nil {
			return slotAnswer{what, number, time.Duration(idle) * time.Millisecond, int(want)}, nil
		}
	}
	return a, fmt.Errorf("%w: the script answered %d values", engine.ErrUnsure, len(out))
}

// leases are the keys and arguments that say which.
func (s slots) leases(now time.Time, list []engine.Lease) (keys, args []string) {
	number, names := map[string]int{}, []string(nil)
	for _, l := range list {
		n := number[l.Key]
		if n == 0 {
			names = append(names, l.Key)
			n = len(names)
			number[l.Key] = n
		}
		left := max(0, min(l.Left(now), engine.MaxWait)) / time.Millisecond
		args = append(args, strconv.Itoa(n), l.Holder, strconv.FormatUint(l.Fence, 10), strconv.Itoa(l.Units), itoa(int64(left)))
	}
	return s.keys(names...), args
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
	var told chan struct{}
	if c.MaxWait > 0 {
		soon, cancel := context.WithTimeout(ctx, c.MaxWait)
		err := s.e.hub.ready(soon)
		cancel()
		switch {
		case err != nil && ctx.Err() == nil && !errors.Is(err, engine.ErrClosed):
			return engine.Lease{}, fmt.Errorf("%w: the server is away", engine.ErrBusy)
		case err != nil:
			return engine.Lease{}, err
		}
		var forget func()
		told, forget = s.e.hub.wait(token)
		defer forget()
	}
	over := time.Now().Add(c.MaxWait)
	for first := true; ; first = false {
		left := time.Duration(0)
		if c.MaxWait > 0 {
			left = max(0, time.Until(over))
		}
		sent := time.Now()
		a, err := s.ask(ctx, c.Key, "acquire", c.Holder, strconv.Itoa(c.Units), strconv.Itoa(c.Limit), itoa(millis(c.TTL)), itoa(millis(left)),
			strconv.Itoa(c.Priority), c.Tenant, strconv.Itoa(c.Weight), s.e.mine(), token, yes(first), yes(c.Cold))
		idle := min(a.idle+time.Millisecond, max(0, time.Until(over)))
		switch {
		case err != nil && (c.MaxWait == 0 || left == 0 || errors.Is(err, engine.ErrRefused) && !away(err)):
			return engine.Lease{}, s.leave(ctx, c, token, err)
		case err != nil: // perhaps it waits: it asks again, in its name
			idle = min(2*pause, max(0, time.Until(over)))
		case a.what == slotLeased && ctx.Err() == nil:
			return engine.Lease{Key: c.Key, Holder: c.Holder, Fence: a.fence, Units: c.Units, Until: sent.Add(c.TTL), Wanted: a.want}, nil
		case a.what == slotReplace:
			return engine.Lease{}, fmt.Errorf("%w: another Acquire of %q waits in its place", engine.ErrLost, c.Holder)
		case a.what == slotNone || left == 0 && a.what == slotWaits:
			return engine.Lease{}, engine.ErrBusy
		}
		timer := time.NewTimer(idle)
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

// away reports whether err says that there is no server to ask for now.
func away(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) || errors.Is(err, rueidis.ErrNoSlot) {
		return true
	}
	answer, ok := rueidis.IsRedisErr(err)
	return ok && begins(answer.Error(), gone)
}

// leave takes a claim out of the queue, with a lease that it has got meanwhile, and returns
// err. If that cannot be said now the claim ends with its wait, and such a lease with its
// offer, or its time to live.
func (s slots) leave(ctx context.Context, c engine.Claim, token string, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), offer)
	defer cancel()
	_, _ = s.ask(ctx, c.Key, "leave", c.Holder, token)
	return err
}

func (s slots) Renew(ctx context.Context, ttl time.Duration, leases ...engine.Lease) ([]engine.Lease, error) {
	if ttl <= 0 || ttl > engine.MaxWait {
		return nil, fmt.Errorf("%w: ttl is %v: must be positive, at most a year", engine.ErrRefused, ttl)
	}
	if err := batch("leases", len(leases)); err != nil || len(leases) == 0 {
		return nil, err
	}
	if err := s.e.enter(ctx); err != nil {
		return nil, err
	}
	sent := time.Now()
	keys, args := s.leases(sent, leases)
	args = append([]string{"renew", itoa(offer.Milliseconds()), itoa(millis(ttl))}, args...)
	out, err := s.e.exec(ctx, slotsScript, keys, args).AsIntSlice()
	if err != nil {
		return nil, outcome(err)
	}
	if len(out) != 2*len(leases) {
		return nil, fmt.Errorf("%w: the script answered %d values", engine.ErrUnsure, len(out))
	}
	list := make([]engine.Lease, len(leases))
	for i, l := range leases {
		list[i] = engine.Lease{Key: l.Key, Holder: l.Holder, Fence: l.Fence}
		if units := out[2*i]; units > 0 {
			list[i].Units, list[i].Wanted, list[i].Until = int(units), int(out[2*i+1]), sent.Add(ttl)
		}
	}
	return list, nil
}

func (s slots) Resize(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
	if limit < 1 || limit > 1<<30 {
		return engine.Lease{}, fmt.Errorf("%w: limit is %d: must be from 1 to 1<<30", engine.ErrRefused, limit)
	}
	if units < 1 || units > limit {
		return engine.Lease{}, fmt.Errorf("%w: units is %d: must be from 1 to limit", engine.ErrRefused, units)
	}
	if err := s.e.enter(ctx); err != nil {
		return engine.Lease{}, err
	}
	_, args := s.leases(time.Now(), []engine.Lease{l})
	a, err := s.ask(ctx, l.Key, "resize", append(args, strconv.Itoa(units), strconv.Itoa(limit))...)
	switch {
	case err != nil:
		return engine.Lease{}, err
	case a.what == slotLost:
		return engine.Lease{}, engine.ErrLost
	case a.what != slotLeased:
		return engine.Lease{}, engine.ErrBusy
	}
	l.Units, l.Wanted = units, a.want
	return l, nil
}

func (s slots) Release(ctx context.Context, leases ...engine.Lease) error {
	if err := batch("leases", len(leases)); err != nil || len(leases) == 0 {
		return err
	}
	if err := s.e.enter(ctx); err != nil {
		return err
	}
	keys, args := s.leases(time.Now(), leases)
	return outcome(s.e.exec(ctx, slotsScript, keys, append([]string{"release", itoa(offer.Milliseconds())}, args...)).Error())
}
