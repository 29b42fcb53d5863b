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
}

func (s slots) ask(ctx context.Context, key, doing, holder string, args ...string) (slotAnswer, error) {
	args = append([]string{doing, itoa(offer.Milliseconds()), holder}, args...)
	out, err := s.e.exec(ctx, slotsScript, []string{s.e.key("s", key), s.e.key("n", "")}, args).ToArray()
	if err != nil {
		return slotAnswer{}, outcome(err)
	}
	var a slotAnswer
	if len(out) == 3 {
		what, err1 := out[0].AsInt64()
		fence, err2 := out[1].ToString()
		idle, err3 := out[2].AsInt64()
		number, err4 := strconv.ParseUint(fence, 10, 64)
		if errors.Join(err1, err2, err3, err4) == nil {
			return slotAnswer{what, number, time.Duration(idle) * time.Millisecond}, nil
		}
	}
	return a, fmt.Errorf("%w: the script answered %d values", engine.ErrUnsure, len(out))
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
			strconv.Itoa(c.Priority), c.Tenant, strconv.Itoa(c.Weight), s.e.mine(), token, yes(first))
		idle := min(a.idle+time.Millisecond, max(0, time.Until(over)))
		switch {
		case err != nil && (c.MaxWait == 0 || left == 0 || errors.Is(err, engine.ErrRefused) && !away(err)):
			return engine.Lease{}, s.leave(ctx, c, token, err)
		case err != nil: // perhaps it waits: it asks again, in its name
			idle = min(2*pause, max(0, time.Until(over)))
		case a.what == slotLeased && ctx.Err() == nil:
			return engine.Lease{Key: c.Key, Holder: c.Holder, Fence: a.fence, Units: c.Units, Until: sent.Add(c.TTL)}, nil
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

func (s slots) Renew(ctx context.Context, l engine.Lease, ttl time.Duration) (engine.Lease, error) {
	if ttl <= 0 || ttl > engine.MaxWait {
		return engine.Lease{}, fmt.Errorf("%w: ttl is %v: must be positive, at most a year", engine.ErrRefused, ttl)
	}
	if err := s.e.enter(ctx); err != nil {
		return engine.Lease{}, err
	}
	sent := time.Now()
	a, err := s.ask(ctx, l.Key, "renew", l.Holder, strconv.FormatUint(l.Fence, 10), itoa(millis(ttl)))
	if err != nil {
		return engine.Lease{}, err
	}
	if a.what != slotLeased {
		return engine.Lease{}, engine.ErrLost
	}
	l.Until = sent.Add(ttl)
	return l, nil
}

func (s slots) Release(ctx context.Context, l engine.Lease) error {
	if err := s.e.enter(ctx); err != nil {
		return err
	}
	a, err := s.ask(ctx, l.Key, "release", l.Holder, strconv.FormatUint(l.Fence, 10))
	if err != nil {
		return err
	}
	if a.what != slotLeased {
		return engine.ErrLost
	}
	return nil
}
