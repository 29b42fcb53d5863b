package engine

import (
	"context"
	"fmt"
	"math"
	"slices"
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
	held   int64 // nothing can be used before
	open   int   // charges of named Takes
	gone   bool  // dropped by a sweep
}

// idleAt is when m is as a new one would be.
func (m *memoryMeter) idleAt() int64 { return max(m.held, m.bucket.FullAt()) }

// openCharge is what a named Take was charged on one meter. It can be corrected until the
// Take is forgotten.
type openCharge struct {
	meter  *memoryMeter
	charge *bucket.Charge
	said   int64 // tokens, by the grant and all Settles so far; may be below zero
}

// maxDebt is how far below empty a correction may leave a meter, unless one refill takes
// longer.
const maxDebt = int64(24 * time.Hour)

// quotaDone is the answer to a Take or a Settle, in points of time.
type quotaDone struct {
	list  []Correction // of a Settle
	take  bool
	what  string // the first meter's key
	asked int64  // Max
	units int64
	at    int64
	retry int64
	every time.Duration
	open  []openCharge
}

func (m Meter) rate() (bucket.Rate, error) {
	return bucket.NewRate(m.N, int64(m.Per), m.Burst)
}

// open begins with the clock's first instant, at which a cold meter is empty.
func (q *memoryQuota) open(c MemoryConfig, k clock) {
	q.conf, q.clock = c, k
	q.meters = map[string]*memoryMeter{}
	q.sweep = min(1024, c.MaxMeters)
	q.ops = newOpLog[OpID, quotaDone](c.OpMemory, c.MaxOps)
	q.ops.gone = q.closeLocked
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
	done := q.decideLocked(now, d, meters)
	if !d.Op.IsZero() && done.units > 0 { // a denial has no effect that could come twice
		q.ops.put(now, d.Op, done)
	}
	return done.grant(now), nil
}

// decideLocked answers d at now and charges what it grants.
func (q *memoryQuota) decideLocked(now int64, d Draw, meters []*memoryMeter) quotaDone {
	done := quotaDone{what: d.Meters[0].Key, asked: d.Max, take: true, at: now}
	units, ready := d.Max, now
	var every time.Duration
	for i, m := range meters {
		each := d.Meters[i].Each
		if m.held > now {
			units, ready = 0, max(ready, m.held)
		}
		if units >= d.Min && m.bucket.Ready(&m.rate, now, (units+d.Keep)*each) > now {
			// Whole units, before anything is charged: a fraction stays in the bucket.
			units = min(units, max(0, m.bucket.Tokens(&m.rate, now)/each-d.Keep))
		}
		ready = max(ready, m.bucket.Ready(&m.rate, now, (d.Min+d.Keep)*each))
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
		k := units * d.Meters[i].Each
		if d.Op.IsZero() {
			m.bucket.Take(&m.rate, now, k)
			continue
		}
		if done.open == nil {
			done.open = make([]openCharge, 0, len(meters))
		}
		c := openCharge{m, new(bucket.Charge), k}
		m.bucket.Open(c.charge, &m.rate, now, k)
		done.open = append(done.open, c)
		m.open++
	}
	if units < d.Max {
		for i, m := range meters {
			done.retry = max(done.retry, m.held, m.bucket.Ready(&m.rate, now, (1+d.Keep)*d.Meters[i].Each))
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

func (q *memoryQuota) Settle(ctx context.Context, op OpID, list []Correction) error {
	list, err := checkList(list)
	if err != nil {
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
			if done.take || !slices.Equal(done.list, list) {
				return fmt.Errorf("%w: OpID %s was another operation", ErrRefused, op)
			}
			return nil
		}
	}
	var room [MaxMeters]Meter
	more := room[:0]
	for _, c := range list {
		if c.Delta > 0 {
			more = append(more, c.Meter)
		}
	}
	if err := q.roomLocked(now, more...); err != nil {
		return err
	}
	for _, c := range list {
		if err := q.correctLocked(now, c); err != nil {
			return err // not after the first: a list that checkList accepts has room now
		}
	}
	if !op.IsZero() {
		q.ops.put(now, op, quotaDone{list: list})
	}
	return nil
}

func (q *memoryQuota) correctLocked(now int64, c Correction) error {
	open := q.openLocked(now, c.Of, c.Meter.Key)
	if open == nil && c.Delta <= 0 {
		return nil
	}
	m, err := q.meterLocked(now, c.Meter)
	if err != nil {
		return err
	}
	if open != nil {
		open.correct(now, c.Delta)
	} else {
		one := new(bucket.Charge)
		m.bucket.Open(one, &m.rate, now, 0)
		m.bucket.Correct(&m.rate, now, one, c.Delta, maxDebt)
		m.bucket.Close(one)
	}
	q.fullAt = min(q.fullAt, m.idleAt())
	return nil
}

// quickRefill is how long a burst may take to refill for its meter to have one token at
// most at the end of a hold that is no longer: such a rate is what an upstream throttles
// by, and what came in meanwhile would all be used at once.
const quickRefill = time.Minute

func (q *memoryQuota) Hold(ctx context.Context, m Meter, d time.Duration) error {
	m, err := checkHold(m, d)
	if err != nil {
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
	if d == 0 && q.meters[m.Key] == nil {
		return nil // there is none, and it owes nothing
	}
	if err := q.roomLocked(now, m); err != nil {
		return err
	}
	mm, err := q.meterLocked(now, m)
	if err != nil {
		return err
	}
	switch at := end(now, d); {
	case d == 0:
		mm.held = 0
		mm.bucket.Forgive(&mm.rate, now)
	case at > mm.held:
		mm.held = at
		if mm.rate.Refill() <= int64(max(d, quickRefill)) {
			mm.bucket.Cap(&mm.rate, at)
		}
	}
	q.fullAt = min(q.fullAt, mm.idleAt())
	return nil
}

// openLocked is the charge of the Take named of on the meter of key, nil if there is none
// that can be corrected: the Take has no name or is forgotten, or its meter has been full
// since and was dropped, so that nothing of it can be given back.
func (q *memoryQuota) openLocked(now int64, of OpID, key string) *openCharge {
	done, _ := q.ops.get(now, of)
	for i := range done.open {
		if c := &done.open[i]; c.meter.conf.Key == key && !c.meter.gone {
			return c
		}
	}
	return nil
}

// correct changes what the Take counts by delta. What a bound on debt cuts off an increase
// is not charged later either.
func (c *openCharge) correct(now, delta int64) {
	c.said = sum(c.said, delta)
	most := sum(c.charge.Tokens(), max(0, delta))
	c.meter.bucket.Correct(&c.meter.rate, now, c.charge, max(0, min(c.said, most)), maxDebt)
}

// sum is a + b, as near as an int64 comes.
func sum(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}

// closeLocked makes the charges of a Take that is forgotten final.
func (q *memoryQuota) closeLocked(done quotaDone) {
	for _, c := range done.open {
		c.meter.bucket.Close(c.charge)
		c.meter.open--
	}
}

// took reports whether something that the Take named of was charged on the meter of key
// can be corrected.
func (q *memoryQuota) took(of OpID, key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.closed && q.openLocked(q.clock.now(), of, key) != nil
}

// meterLocked is the meter of m's key, full if it is new, or as full as it has come to be
// since the engine began if it is cold. One whose rate has changed keeps its tokens, up to the new burst, and what may still be corrected.
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
		q.ops.forget(now)
		if old.open == 0 && old.bucket.Full(now) {
			old.bucket = bucket.Bucket{}
		} else {
			old.bucket.Reconfigure(&old.rate, &rate, now)
		}
		m.Key = old.conf.Key
		old.conf, old.rate = m, rate
		q.fullAt = min(q.fullAt, old.idleAt())
		return old, nil
	}
	m.Key = strings.Clone(m.Key)
	mm := &memoryMeter{conf: m, rate: rate}
	if m.Cold {
		mm.bucket.Take(&mm.rate, 0, m.Burst)
		q.fullAt = min(q.fullAt, mm.idleAt())
	}
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
			q.sweepLocked(now, len(list))
		case count > q.conf.MaxMeters:
			return fmt.Errorf("%w: MaxMeters is %d", ErrFull, q.conf.MaxMeters)
		default:
			return nil
		}
	}
}

// sweepLocked drops the full meters: a new one is full, too. Those of which a charge may
// still be corrected go only if there is no room for more otherwise: nothing could be given
// back to them, but an increase would count from its Take on.
func (q *memoryQuota) sweepLocked(now int64, more int) {
	q.ops.forget(now)
	q.dropLocked(now, false)
	if len(q.meters)+more > q.conf.MaxMeters {
		q.dropLocked(now, true)
	}
	q.sweep = min(max(1024, 2*len(q.meters)), q.conf.MaxMeters)
	if q.sweep < q.conf.MaxMeters {
		q.fullAt = 0 // the next sweep comes when there are as many, not before
	}
}

func (q *memoryQuota) dropLocked(now int64, open bool) {
	q.fullAt = bucket.Never
	for key, m := range q.meters {
		if m.bucket.Full(now) && m.held <= now && (open || m.open == 0) {
			m.gone = true
			delete(q.meters, key)
		} else {
			q.fullAt = min(q.fullAt, m.idleAt())
		}
	}
}

func (q *memoryQuota) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

func (q *memoryQuota) close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.meters, q.ops = nil, opLog[OpID, quotaDone]{}
	return nil
}
