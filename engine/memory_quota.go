package engine

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/bucket"
)

// memoryQuota is the quota of a [Memory]: one exact bucket per meter (GCRA, ITU-T I.371).
type memoryQuota struct {
	conf  MemoryConfig
	clock clock

	mu     sync.Mutex
	closed bool
	meters map[string]*memoryMeter
	sweep  int   // how many meters there may be before the full ones are dropped
	fullAt int64 // after a sweep, when the first of the rest is full
	ops    opLog[OpID, quotaDone]
}

type memoryMeter struct {
	conf   Meter
	rate   bucket.Rate
	bucket bucket.Bucket
}

// quotaDone is the answer to a Take or a Settle, in points of time.
type quotaDone struct {
	what  string // the first meter's key, or that of Settle
	asked int64  // Max, or delta
	take  bool
	units int64
	at    int64
	retry int64
	every time.Duration
}

func (m Meter) rate() (bucket.Rate, error) {
	return bucket.NewRate(m.N, int64(m.Per), m.Burst)
}

func (q *memoryQuota) open(c MemoryConfig) {
	q.conf, q.clock = c, newClock()
	q.meters = map[string]*memoryMeter{}
	q.sweep = min(1024, c.MaxMeters)
	q.ops = newOpLog[OpID, quotaDone](c.OpMemory, c.MaxOps)
}

func (q *memoryQuota) Take(ctx context.Context, d Draw) (Grant, error) {
	d, err := d.Normal()
	if err != nil {
		return Grant{}, err
	}
	if ctx.Err() != nil {
		return Grant{}, ended(ctx)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return Grant{}, ErrClosed
	}
	now := q.clock.now()
	if !d.Op.IsZero() {
		if done, ok := q.ops.get(now, d.Op); ok {
			if !done.take || done.what != d.Meters[0].Key || done.asked != d.Max {
				return Grant{}, fmt.Errorf("%w: OpID %s was another operation", ErrRefused, d.Op)
			}
			return done.grant(now), nil
		}
	}
	if err := q.roomLocked(now, d.Meters...); err != nil {
		return Grant{}, err
	}
	var room [MaxMeters]*memoryMeter
	meters := room[:len(d.Meters)]
	for i, m := range d.Meters {
		if meters[i], err = q.meterLocked(now, m); err != nil {
			return Grant{}, err
		}
	}
	done := decide(now, d, meters)
	if !d.Op.IsZero() && done.units > 0 { // a denial has no effect that could come twice
		q.ops.put(now, d.Op, done)
	}
	return done.grant(now), nil
}

// decide answers d at now and charges what it grants.
func decide(now int64, d Draw, meters []*memoryMeter) quotaDone {
	done := quotaDone{what: d.Meters[0].Key, asked: d.Max, take: true, at: now}
	units, ready := d.Max, now
	var every time.Duration
	for i, m := range meters {
		each := d.Meters[i].Each
		if units >= d.Min && m.bucket.Ready(&m.rate, now, units*each) > now {
			// Whole units, before anything is charged: a fraction stays in the bucket.
			units = min(units, max(0, m.bucket.Tokens(&m.rate, now)/each))
		}
		ready = max(ready, m.bucket.Ready(&m.rate, now, d.Min*each))
		every = max(every, d.Meters[i].Every())
	}
	if units < d.Min {
		wait := time.Duration(ready - now)
		if wait > d.MaxWait {
			done.retry = ready
			return done
		}
		units = d.Min + min(d.Max-d.Min, int64((d.MaxWait-wait)/every))
		done.at, done.every = ready, every
	}
	done.units = units
	for i, m := range meters {
		m.bucket.Take(&m.rate, now, units*d.Meters[i].Each)
	}
	if units < d.Max {
		for i, m := range meters {
			done.retry = max(done.retry, m.bucket.Ready(&m.rate, now, d.Meters[i].Each))
		}
	}
	return done
}

// grant is the answer as seen at now.
func (t quotaDone) grant(now int64) Grant {
	g := Grant{Units: t.units, Every: t.every}
	if t.units > 0 {
		g.After = time.Duration(max(0, t.at-now))
	}
	if t.retry > 0 {
		g.Retry = time.Duration(max(0, t.retry-now))
	}
	return g
}

func (q *memoryQuota) Settle(ctx context.Context, op OpID, m Meter, delta int64) error {
	m, err := m.Normal()
	if err != nil {
		return err
	}
	if err := checkDelta(delta); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ended(ctx)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	now := q.clock.now()
	if !op.IsZero() {
		if done, ok := q.ops.get(now, op); ok {
			if done.take || done.what != m.Key || done.asked != delta {
				return fmt.Errorf("%w: OpID %s was another operation", ErrRefused, op)
			}
			return nil
		}
	}
	if err := q.roomLocked(now, m); err != nil {
		return err
	}
	mm, err := q.meterLocked(now, m)
	if err != nil {
		return err
	}
	if delta > 0 {
		mm.bucket.Take(&mm.rate, now, delta)
	} else {
		mm.bucket.Give(&mm.rate, -delta)
		if mm.bucket.Full(now) {
			mm.bucket = bucket.Bucket{}
		}
	}
	if !op.IsZero() {
		q.ops.put(now, op, quotaDone{what: m.Key, asked: delta})
	}
	return nil
}

// meterLocked is the meter of m's key, full if it is new. One whose rate has changed
// keeps its tokens, up to the new burst.
func (q *memoryQuota) meterLocked(now int64, m Meter) (*memoryMeter, error) {
	old := q.meters[m.Key]
	if old != nil && old.conf.N == m.N && old.conf.Per == m.Per && old.conf.Burst == m.Burst {
		return old, nil
	}
	rate, err := m.rate()
	if err != nil {
		return nil, fmt.Errorf("%w: Meter %q: %w", ErrRefused, m.Key, err)
	}
	if old != nil {
		if old.bucket.Full(now) {
			old.bucket = bucket.Bucket{}
		} else {
			old.bucket.Reconfigure(&old.rate, &rate, now)
		}
		old.conf, old.rate = m, rate
		return old, nil
	}
	m.Key = strings.Clone(m.Key)
	mm := &memoryMeter{conf: m, rate: rate}
	q.meters[m.Key] = mm
	return mm, nil
}

// roomLocked sees to it that all of list can be there.
func (q *memoryQuota) roomLocked(now int64, list ...Meter) error {
	for swept := false; ; swept = true {
		count := len(q.meters)
		for _, m := range list {
			if q.meters[m.Key] == nil {
				count++
			}
		}
		switch {
		case count == len(q.meters) || count <= q.sweep:
			return nil
		case !swept && now >= q.fullAt:
			q.sweepLocked(now)
		case count > q.conf.MaxMeters:
			return fmt.Errorf("%w: MaxMeters is %d", ErrFull, q.conf.MaxMeters)
		default:
			return nil
		}
	}
}

// sweepLocked drops the full meters: a new one is full, too.
func (q *memoryQuota) sweepLocked(now int64) {
	q.fullAt = bucket.Never
	for key, m := range q.meters {
		if m.bucket.Full(now) {
			delete(q.meters, key)
		} else {
			q.fullAt = min(q.fullAt, m.bucket.FullAt())
		}
	}
	q.sweep = min(max(1024, 2*len(q.meters)), q.conf.MaxMeters)
	if q.sweep < q.conf.MaxMeters {
		q.fullAt = 0 // the next sweep comes when there are as many, not before
	}
}

func (q *memoryQuota) close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.meters, q.ops = nil, opLog[OpID, quotaDone]{}
	return nil
}
