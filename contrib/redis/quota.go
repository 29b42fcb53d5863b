package sluiceredis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// most is the largest number of tokens that the scripts count with: sums of a few of them
// are whole in a double.
const most = 1 << 50

type quota struct{ e *Engine }

var _ engine.Quota = quota{}

// Take asks the script for one meter if d may be for it, and the general one if that is not
// so, or if the other says that the case is too seldom for it.
func (q quota) Take(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	return q.take(ctx, d, len(d.Meters) == 1 && d.Meters[0].Each <= 1)
}

func (q quota) take(ctx context.Context, d engine.Draw, one bool) (engine.Grant, error) {
	d, err := d.Normal()
	if err != nil {
		return engine.Grant{}, err
	}
	if err := q.e.enter(ctx); err != nil {
		return engine.Grant{}, err
	}
	keys := make([]string, 0, len(d.Meters)+2)
	args := make([]string, 0, 7+5*len(d.Meters))
	every, largest := time.Duration(0), int64(1)
	for _, m := range d.Meters {
		every, largest = max(every, m.Every()), max(largest, m.Each)
	}
	// No script counts beyond what it can: of a Max that costs more, less is granted.
	d.Max = max(d.Min, min(d.Max, most/largest))
	named := ""
	if !d.Op.IsZero() {
		named = itoa(millis(q.e.conf.OpMemory))
	}
	args = append(args, q.e.memory, named, itoa(d.Min), itoa(d.Max), itoa(d.Keep),
		itoa(int64(d.MaxWait/time.Microsecond)), itoa(micros(every)))
	for _, m := range d.Meters {
		n, per, err := rate(m)
		if err != nil {
			return engine.Grant{}, err
		}
		keys = append(keys, q.e.key("q", m.Key))
		args = append(args, itoa(n), itoa(per), itoa(m.Burst), itoa(m.Each), yes(m.Cold))
	}
	keys = append(keys, q.e.key("o", d.Op.String()), q.e.key("b", ""))
	var out []int64
	if one {
		out, err = q.e.exec(ctx, takeOneScript, keys, args).AsIntSlice()
	}
	if err == nil && len(out) < 2 {
		out, err = q.e.exec(ctx, takeScript, keys, args).AsIntSlice()
	}
	if err != nil {
		return engine.Grant{}, outcome(err)
	}
	if len(out) != 4 {
		return engine.Grant{}, fmt.Errorf("%w: the script answered %v", engine.ErrUnsure, out)
	}
	return engine.Grant{Units: out[0], After: duration(out[1]), Every: duration(out[2]), Retry: duration(out[3])}, nil
}

func (q quota) Settle(ctx context.Context, op engine.OpID, list []engine.Correction) error {
	if len(list) == 0 || len(list) > engine.MaxMeters {
		return fmt.Errorf("%w: length of Settle's list is %d: must be from 1 to %d", engine.ErrRefused, len(list), engine.MaxMeters)
	}
	keys := make([]string, 0, 2+2*len(list))
	args := make([]string, 0, 2+5*len(list))
	keys = append(keys, q.e.key("o", op.String()), q.e.key("b", ""))
	args = append(args, q.e.memory, "")
	says := sha256.New()
	for _, c := range list {
		m, err := c.Meter.Normal()
		if err != nil {
			return err
		}
		n, per, err := rate(m)
		if err != nil {
			return err
		}
		if c.Delta < -1<<62 || c.Delta > 1<<62 {
			return fmt.Errorf("%w: Correction.Delta is %d: must be from -1<<62 to 1<<62", engine.ErrRefused, c.Delta)
		}
		fmt.Fprintf(says, "%s %d %d %d %d %s ", c.Of, c.Delta, m.N, m.Per, m.Burst, strconv.Quote(m.Key))
		keys = append(keys, q.e.key("q", m.Key), q.e.key("o", c.Of.String()))
		args = append(args, itoa(n), itoa(per), itoa(m.Burst), yes(m.Cold), itoa(max(-2*most, min(2*most, c.Delta))))
	}
	if !op.IsZero() {
		args[1] = hex.EncodeToString(says.Sum(nil)[:16])
	}
	if err := q.e.enter(ctx); err != nil {
		return err
	}
	return outcome(q.e.exec(ctx, settleScript, keys, args).Error())
}

func (q quota) Hold(ctx context.Context, m engine.Meter, d time.Duration) error {
	m, err := m.Normal()
	if err != nil {
		return err
	}
	if d < 0 || d > engine.MaxWait {
		return fmt.Errorf("%w: d is %v: must be zero (end a hold) or positive, at most a year", engine.ErrRefused, d)
	}
	n, per, err := rate(m)
	if err != nil {
		return err
	}
	if err := q.e.enter(ctx); err != nil {
		return err
	}
	return outcome(q.e.exec(ctx, holdScript, []string{q.e.key("q", m.Key), q.e.key("b", "")},
		[]string{q.e.memory, itoa(n), itoa(per), itoa(m.Burst), yes(m.Cold), itoa(micros(d))}).Error())
}

// rate is how many tokens of m come in within how many microseconds, in lowest terms, so that
// their product is whole in a double. Whatever is rounded makes m slower: a Per that is no
// whole number of microseconds, and, by less than a billionth, terms that are too large.
func rate(m engine.Meter) (n, per int64, err error) {
	if m.Burst > most {
		return 0, 0, fmt.Errorf("%w: Burst of meter %q is %d: must be at most 1<<50", engine.ErrRefused, m.Key, m.Burst)
	}
	n, per = m.N, micros(m.Per)
	if n/per > most/int64(24*time.Hour/time.Microsecond) {
		return 0, 0, fmt.Errorf("%w: N of meter %q is %d per %v: must be at most %d per microsecond",
			engine.ErrRefused, m.Key, m.N, m.Per, most/int64(24*time.Hour/time.Microsecond))
	}
	n, per = fraction(n, per)
	return n, per, nil
}

// fraction is n/p in lowest terms, or the largest fraction not above it whose terms have a
// product that is whole in a double with something to spare: by continued fractions.
func fraction(n, p int64) (int64, int64) {
	const limit = 1 << 52
	a, b := n, p
	for b != 0 {
		a, b = b, a%b
	}
	n, p = n/a, p/a
	if n <= limit/p {
		return n, p
	}
	below, of := int64(0), int64(1)
	h0, k0, h1, k1 := int64(0), int64(1), int64(1), int64(0) // the last two convergents
	for even := true; p != 0; even = !even {
		a := n / p
		t := int64(-1) // the largest part of a that keeps within the limit
		for over := min(a, limit) + 1; t < over-1; {
			mid := t + (over-t)/2
			if h, k := mid*h1+h0, mid*k1+k0; k > 0 && h > limit/k {
				over = mid
			} else {
				t = mid
			}
		}
		if t >= 0 && even { // those of even number are not above
			below, of = t*h1+h0, t*k1+k0
		}
		if t < a {
			break
		}
		h0, k0, h1, k1 = h1, k1, a*h1+h0, a*k1+k0
		n, p = p, n-a*p
	}
	return below, of
}

// micros is d in microseconds, rounded up.
func micros(d time.Duration) int64 { return int64((d + time.Microsecond - 1) / time.Microsecond) }

func duration(micros int64) time.Duration { return time.Duration(micros) * time.Microsecond }

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func yes(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
