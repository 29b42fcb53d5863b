package sluicenats

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-go/sluice/engine"
)

type quota struct{ e *Engine }

var _ engine.Quota = quota{}

// checkRate refuses what cannot be counted.
func checkRate(m engine.Meter) error {
	if m.Burst > mostTokens {
		return refuse("Burst of meter %q is %d: must be at most 1<<50", m.Key, m.Burst)
	}
	if mulDiv(day, m.N, int64(m.Per), true) > mostTokens {
		return refuse("N of meter %q is %d per %v: must be at most 1<<50 a day", m.Key, m.N, m.Per)
	}
	return nil
}

// whole adds to puts what cold meters rest on besides.
func (v *view) whole(puts []put, list []engine.Meter) []put {
	if slices.ContainsFunc(list, func(m engine.Meter) bool { return m.Cold }) {
		return v.sameBirth(puts)
	}
	return puts
}

// meters loads them from the first cells of v. The last cell has the birth, if any is cold.
func (q quota) meters(v *view, list []engine.Meter) (loaded []*meter, puts []put, err error) {
	var born int64
	if slices.ContainsFunc(list, func(m engine.Meter) bool { return m.Cold }) {
		var b birth
		if b, puts, err = v.birth(&v.cells[len(v.cells)-1]); err != nil {
			return nil, nil, err
		}
		born = b.At
	}
	loaded = make([]*meter, len(list))
	for range 2 { // the second time all are of the latest instant
		was := v.hi
		for i, m := range list {
			from := int64(0)
			if m.Cold {
				from = born
			}
			if loaded[i], err = loadMeter(v, &v.cells[i], m, q.e.conf.OpMemory, from); err != nil {
				return nil, nil, err
			}
		}
		if v.hi == was {
			break
		}
	}
	return loaded, puts, nil
}

// subjects are the cells of meters, of a named operation if op has a name, and of the birth if
// any meter is cold.
func (q quota) subjects(list []engine.Meter, op engine.OpID) []string {
	var subjects []string
	cold := false
	for _, m := range list {
		subjects, cold = append(subjects, q.e.at("q", m.Key)), cold || m.Cold
	}
	if !op.IsZero() {
		subjects = append(subjects, q.e.named(op))
	}
	if cold {
		subjects = append(subjects, q.e.at("b", ""))
	}
	return subjects
}

// granted is the answer to a Take, in points of time.
type granted struct {
	Units     int64
	At, Retry int64
	Every     int64
}

func (g granted) seen(now int64) engine.Grant {
	out := engine.Grant{Units: g.Units, Every: time.Duration(g.Every)}
	if g.Units > 0 {
		out.After = time.Duration(max(0, g.At-now))
	}
	if g.Retry > 0 {
		out.Retry = time.Duration(max(0, g.Retry-now))
	}
	return out
}

func (q quota) Take(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	d, err := d.Normal()
	if err != nil {
		return engine.Grant{}, err
	}
	if err := q.e.enter(ctx); err != nil {
		return engine.Grant{}, err
	}
	asked, every, largest := d.Max, time.Duration(0), int64(1)
	for _, m := range d.Meters {
		if err := checkRate(m); err != nil {
			return engine.Grant{}, err
		}
		every, largest = max(every, m.Every()), max(largest, m.Each)
	}
	d.Max = max(d.Min, min(d.Max, mostTokens/largest)) // of a Max that costs more, less is granted
	what, named := digest(d.Meters[0].Key, asked), !d.Op.IsZero()
	var grant engine.Grant
	_, err = q.e.decide(ctx, q.subjects(d.Meters, d.Op), true, func(v *view) ([]put, error) {
		if named {
			old, err := remembered(&v.cells[len(d.Meters)], "take", what)
			if err != nil {
				return nil, err
			}
			if old != nil {
				grant = old.Grant.seen(v.hi)
				return nil, nil
			}
		}
		meters, puts, err := q.meters(v, d.Meters)
		if err != nil {
			return nil, err
		}
		now := v.hi
		g := grantOf(now, d, every, meters)
		if grant = g.seen(now); g.Units == 0 {
			return puts, nil // a denial has no effect that could come twice
		}
		name := ""
		if named {
			name = d.Op.String()
		}
		charge(now, d, &g, meters, name)
		grant = g.seen(now)
		for i, m := range meters {
			puts = append(puts, m.save(v, &v.cells[i], q.e.conf.OpMemory)...)
		}
		if named {
			puts = append(puts, q.e.remember(v.cells[len(meters)].subject, done{What: "take", Digest: what, Grant: &g}))
		}
		return v.whole(puts, d.Meters), nil
	})
	if err != nil {
		return engine.Grant{}, err
	}
	return grant, nil
}

// grantOf is what d gets at now.
func grantOf(now int64, d engine.Draw, every time.Duration, meters []*meter) granted {
	g := granted{Units: d.Max, At: now}
	ready := now
	for i, m := range meters {
		each := d.Meters[i].Each
		if g.Units = min(g.Units, floor(m.tokens(now), each)-d.Keep); m.Held > now {
			g.Units = 0
		}
		ready = max(ready, m.ready(now, (d.Min+d.Keep)*each))
	}
	if g.Units >= d.Min {
		return g
	}
	wait := time.Duration(ready - now)
	if wait > d.MaxWait {
		return granted{Retry: ready}
	}
	return granted{Units: d.Min + min(d.Max-d.Min, int64((d.MaxWait-wait)/every)), At: ready, Every: int64(every)}
}

// charge has meters charged what g grants of d, and says in g when more can be had.
func charge(now int64, d engine.Draw, g *granted, meters []*meter, name string) {
	for i, m := range meters {
		m.charge(now, g.Units*d.Meters[i].Each, name)
	}
	if g.Units < d.Max {
		for i, m := range meters {
			g.Retry = max(g.Retry, m.ready(now, (1+d.Keep)*d.Meters[i].Each))
		}
	}
}

// floor is a/b, rounded down.
func floor(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (q quota) Settle(ctx context.Context, op engine.OpID, list []engine.Correction) error {
	if len(list) == 0 || len(list) > engine.MaxMeters {
		return refuse("length of Settle's list is %d: must be from 1 to %d", len(list), engine.MaxMeters)
	}
	var meters []engine.Meter // each once
	var parts []any
	at := make([]int, len(list))
	for i, c := range list {
		m, err := c.Meter.Normal()
		if err == nil {
			err = checkRate(m)
		}
		if err != nil {
			return err
		}
		if c.Delta < -1<<62 || c.Delta > 1<<62 {
			return refuse("Correction.Delta is %d: must be from -1<<62 to 1<<62", c.Delta)
		}
		parts = append(parts, c.Of, c.Delta, m.Key, m.N, m.Per, m.Burst)
		at[i] = slices.IndexFunc(meters, func(o engine.Meter) bool { return o.Key == m.Key })
		if at[i] < 0 {
			at[i] = len(meters)
			meters = append(meters, m)
		}
	}
	if err := q.e.enter(ctx); err != nil {
		return err
	}
	what := digest(parts...)
	_, err := q.e.decide(ctx, q.subjects(meters, op), true, func(v *view) ([]put, error) {
		if !op.IsZero() {
			if old, err := remembered(&v.cells[len(meters)], "settle", what); err != nil || old != nil {
				return nil, err
			}
		}
		loaded, puts, err := q.meters(v, meters)
		if err != nil {
			return nil, err
		}
		for i, c := range list {
			loaded[at[i]].correct(v.hi, c.Of.String(), c.Delta)
		}
		for i, m := range loaded {
			puts = append(puts, m.save(v, &v.cells[i], q.e.conf.OpMemory)...)
		}
		if !op.IsZero() {
			puts = append(puts, q.e.remember(v.cells[len(meters)].subject, done{What: "settle", Digest: what}))
		}
		return v.whole(puts, meters), nil
	})
	return err
}

func (q quota) Hold(ctx context.Context, m engine.Meter, d time.Duration) error {
	m, err := m.Normal()
	if err == nil {
		err = checkRate(m)
	}
	if err != nil {
		return err
	}
	if d < 0 || d > engine.MaxWait {
		return fmt.Errorf("%w: d is %v: must be zero (end a hold) or positive, at most a year", engine.ErrRefused, d)
	}
	if err := q.e.enter(ctx); err != nil {
		return err
	}
	list := []engine.Meter{m}
	_, err = q.e.decide(ctx, q.subjects(list, engine.OpID{}), true, func(v *view) ([]put, error) {
		if c := v.cells[0]; d == 0 && (c.seq == 0 || c.marker) {
			return nil, nil // there is none, and it owes nothing
		}
		loaded, puts, err := q.meters(v, list)
		if err != nil {
			return nil, err
		}
		loaded[0].hold(v.hi, int64(d))
		return v.whole(append(puts, loaded[0].save(v, &v.cells[0], q.e.conf.OpMemory)...), list), nil
	})
	return err
}
