package engine

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"time"
)

const (
	// MaxWait is the longest wait and the longest time to live that can be asked for: a
	// year.
	MaxWait = 365 * 24 * time.Hour

	// MaxMeters is how many meters one [Draw] can name, and corrections one Settle.
	MaxMeters = 16

	// MaxUnits is how many units one [Draw] can ask for, and Each of a [Meter].
	MaxUnits = 1 << 30
)

// Meter is a shared rate: N tokens per Per, at most Burst at once. It is a value that
// every caller brings along; the engine keeps only the balance, under Key. Callers of one
// key should agree on the rest; where they do not, an engine creates no tokens out of the
// difference.
type Meter struct {
	Key   string
	N     int64
	Per   time.Duration
	Burst int64 // zero means N
	// Each is how many tokens one unit of a [Draw] costs on this meter; zero means 1. So
	// one draw of one unit can cost one token of a meter of requests and 500 of a meter
	// of words.
	Each int64
	// Cold makes a meter that the engine knows nothing of as full as if it had been empty
	// when the engine's data began, see [Engine]'s Epoch: what lost its data grants no second
	// burst. Otherwise such a meter is full.
	Cold bool
}

// Normal returns m with its zero fields filled in, or an error that names the field, its
// value and what is allowed. Engines call it (by [Draw.Normal]) before anything else.
func (m Meter) Normal() (Meter, error) {
	if err := checkKey("Meter.Key", m.Key); err != nil {
		return m, err
	}
	if m.Burst == 0 {
		m.Burst = m.N
	}
	if m.Each == 0 {
		m.Each = 1
	}
	switch {
	case m.N < 1:
		return m, invalid("Meter.N", m.N, "at least 1")
	case m.Per < 1 || m.Per > MaxWait:
		return m, invalid("Meter.Per", m.Per, "positive, at most a year")
	case m.Burst < 1:
		return m, invalid("Meter.Burst", m.Burst, "zero (N) or positive")
	case m.Each < 1 || m.Each > MaxUnits:
		return m, invalid("Meter.Each", m.Each, "zero (1) or from 1 to 1<<30")
	}
	if _, err := m.rate(); err != nil {
		return m, fmt.Errorf("%w: Meter %q: %w", ErrRefused, m.Key, err)
	}
	return m, nil
}

// Every is how long the tokens of one unit take to come in, rounded up.
func (m Meter) Every() time.Duration {
	hi, lo := bits.Mul64(uint64(max(m.Each, 1)), uint64(m.Per))
	if hi >= uint64(m.N) {
		return MaxWait
	}
	q, rem := bits.Div64(hi, lo, uint64(m.N))
	if rem > 0 {
		q++
	}
	return time.Duration(min(q, uint64(MaxWait)))
}

// Draw asks for units of several meters at once. Each unit costs Each tokens on every
// meter, and either all of them are charged or none.
type Draw struct {
	Op     OpID // set it to be able to repeat a draw of unknown outcome, and to give back some of it
	Meters []Meter
	Min    int64 // fewer are worth nothing to the caller; zero means 1
	Max    int64 // more are not asked for; zero means Min
	// MaxWait lets the engine book units that come in later but within it, so that nobody
	// has to ask again. Zero means now or not at all.
	MaxWait time.Duration
	// Keep is how many units this draw leaves there, for draws that are more urgent and keep
	// less: it gets what it would if it asked for Keep more, and is charged without them.
	Keep int64
}

// Normal returns d with its zero fields and those of its meters filled in, or an error
// that names the field, its value and what is allowed. A Min that can never be had,
// because it costs, with Keep, more than a meter's burst, is an error, too. All errors match
// [ErrRefused].
func (d Draw) Normal() (Draw, error) {
	if d.Min == 0 {
		d.Min = 1
	}
	if d.Max == 0 {
		d.Max = d.Min
	}
	switch {
	case d.Min < 1 || d.Min > MaxUnits:
		return d, invalid("Draw.Min", d.Min, "zero (1) or from 1 to 1<<30")
	case d.Max < d.Min || d.Max > MaxUnits:
		return d, invalid("Draw.Max", d.Max, "zero (Min) or from Min to 1<<30")
	case d.MaxWait < 0 || d.MaxWait > MaxWait:
		return d, invalid("Draw.MaxWait", d.MaxWait, "zero (do not wait) or positive, at most a year")
	case d.Keep < 0 || d.Keep > MaxUnits:
		return d, invalid("Draw.Keep", d.Keep, "zero or from 1 to 1<<30")
	case len(d.Meters) == 0 || len(d.Meters) > MaxMeters:
		return d, invalid("length of Draw.Meters", len(d.Meters), "from 1 to 16")
	}
	owned := false
	for i, m := range d.Meters {
		n, err := m.Normal()
		if err != nil {
			return d, err
		}
		for _, other := range d.Meters[:i] {
			if other.Key == m.Key {
				return d, invalid("Draw.Meters", m.Key, "one meter per key")
			}
		}
		// Min, Keep and Each are at most 1<<30 each: the product fits.
		if least := d.Min + d.Keep; least*n.Each > n.Burst {
			return d, fmt.Errorf("%w: %d units, Keep included, cost %d tokens of meter %q: its Burst is %d, so they never come",
				ErrRefused, least, least*n.Each, n.Key, n.Burst)
		}
		if n != m {
			if !owned {
				d.Meters, owned = slices.Clone(d.Meters), true
			}
			d.Meters[i] = n
		}
	}
	return d, nil
}

// Check reports in what an engine's answer to d, normal or not, cannot be true: a count
// that was not asked for, a time in the past or beyond what d waits. Such an answer says
// nothing about what was charged: the error matches [ErrUnsure].
func (d Draw) Check(g Grant) error {
	least := max(d.Min, 1)
	most := max(d.Max, least)
	lie := func(field string, value any, allowed string) error {
		return fmt.Errorf("%w: the engine answered Grant.%s %v: must be %s", ErrUnsure, field, value, allowed)
	}
	switch {
	case g.Units < 0 || g.Units > most || g.Units > 0 && g.Units < least:
		return lie("Units", g.Units, fmt.Sprintf("zero or from %d to %d", least, most))
	case g.After < 0 || g.After > d.MaxWait:
		return lie("After", g.After, fmt.Sprintf("from 0 to %v", d.MaxWait))
	case g.Units == 0 && (g.After != 0 || g.Every != 0):
		return lie("After and Every", g.After+g.Every, "zero without units")
	case g.Every < 0 || g.Units > least && g.Every > 0 && g.Every > (d.MaxWait-g.After)/time.Duration(g.Units-least):
		return lie("Every", g.Every, fmt.Sprintf("such that the last unit comes within %v", d.MaxWait))
	case g.Retry < 0:
		return lie("Retry", g.Retry, "zero or positive")
	}
	return nil
}

// Grant is the answer to a [Draw]. Units is zero if it was denied: that is an answer, not
// an error.
type Grant struct {
	Units int64
	// The first Min units can be used After the answer arrived, each further one Every
	// later than the one before. Both are zero for units that are there.
	After, Every time.Duration
	// Retry is how long after the answer more would come in if nobody else took any:
	// Min of them after a denial, else one more; zero if Max were granted.
	Retry time.Duration
}

// Correction says that a Take cost more or less than it was charged.
type Correction struct {
	Of    OpID  // the Draw.Op of the Take
	Meter Meter // one of its meters; Each does not count
	Delta int64 // tokens, actual minus estimate: below zero they are given back
}

// Quota hands out units at shared rates.
type Quota interface {
	// Take answers d at once: with as many units as are there, between Min and Max; or,
	// if Min are not, with a booking of as many as come in within MaxWait, at least Min;
	// or with a denial, which charges nothing.
	Take(ctx context.Context, d Draw) (Grant, error)

	// Settle makes the corrections of list, 1 to MaxMeters, all at one instant, or none and
	// returns an error. Each is relative to what its Take was granted on the meter and to
	// what earlier corrections said, in whatever order they come. A sum below zero counts
	// as zero. Afterwards the meter is as if the Take had been that much from its own
	// instant on, so what is given back late is only what time has not brought back
	// already. An increase may leave the meter in debt, up to what comes in within a day or
	// one refill of the burst, the longer of them; what it exceeds that by is never charged.
	//
	// If the Take had no name, is forgotten, or drew nothing from the meter, an increase is
	// charged now, and a decrease gives back nothing: nobody knows any more when that was
	// charged, and what time has brought back since would be spent twice. That is no error.
	//
	// op names the whole list, for its repetition.
	Settle(ctx context.Context, op OpID, list []Correction) error

	// Hold keeps everybody from m for d, as an upstream's throttle asks for: no unit can be
	// used before, and a Take books or is denied until then. Of several holds the one that
	// ends last counts, so that a repetition does no harm. What was granted before stays
	// granted. At the end at most one token is there; but a meter that takes longer than d,
	// and than a minute, to refill has what it has. A d of zero ends a hold and forgives what
	// is owed: the meter is empty then, or as full as it is.
	Hold(ctx context.Context, m Meter, d time.Duration) error
}

// checkList is list with its meters' zero fields filled in, or an error that names what is
// wrong.
func checkList(list []Correction) ([]Correction, error) {
	if len(list) == 0 || len(list) > MaxMeters {
		return nil, invalid("length of Settle's list", len(list), "from 1 to 16")
	}
	list = slices.Clone(list)
	for i := range list {
		m, err := list[i].Meter.Normal()
		if err != nil {
			return nil, err
		}
		if d := list[i].Delta; d < -1<<62 || d > 1<<62 {
			return nil, invalid("Correction.Delta", d, "from -1<<62 to 1<<62")
		}
		list[i].Meter = m
	}
	return list, nil
}

// checkHold is m with its zero fields filled in, or an error that names what is wrong.
func checkHold(m Meter, d time.Duration) (Meter, error) {
	if d < 0 || d > MaxWait {
		return m, invalid("d", d, "zero (end a hold) or positive, at most a year")
	}
	return m.Normal()
}
