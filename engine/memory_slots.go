package engine

import (
	"container/heap"
	"container/list"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// memorySlots are the slots of a [Memory]. Tenants of one priority share by start-time
// fair queuing (Goyal, Vin and Cheng, 1996), charged when a lease is given, so that a
// claim that left costs its tenant nothing.
type memorySlots struct {
	conf  MemoryConfig
	clock clock // since the engine's data began

	mu     sync.Mutex
	closed bool
	keys   map[string]*slotKey
	count  int    // live leases and waiting claims
	fence  uint64 // the last one given
	seq    uint64 // of waiting claims
	ends   agenda[*slotLease]
}

// slotKey is what claims of one key compete for. It is there while anybody has a lease or
// waits.
type slotKey struct {
	name   string
	used   int // units
	wanted int // units that wait
	leases map[string]*slotLease
	levels []*slotLevel // priorities with waiters, highest first
	queued map[string]*slotWaiter
}

type slotLease struct {
	key   *slotKey
	lease Lease
	end   due[*slotLease]
	cold  int64 // when one that was learned of may grow
}

// slotLevel is one priority.
type slotLevel struct {
	priority int
	now      float64 // virtual time: the start tag of the last lease
	tenants  map[string]*slotTenant
	active   tenantHeap // those with waiters
}

type slotTenant struct {
	name    string
	start   float64   // the tag of its first waiter
	finish  float64   // the tag after its last lease
	waiters list.List // of *slotWaiter
	index   int       // in active
}

type slotWaiter struct {
	claim  Claim
	seq    uint64 // zero if it had a lease already
	place  *list.Element
	lease  Lease
	err    error
	done   bool
	answer chan struct{} // closed when done
}

// tenantHeap has the tenant that is next first: smallest start tag, then first arrived.
type tenantHeap []*slotTenant

func (t *slotTenant) first() *slotWaiter { return t.waiters.Front().Value.(*slotWaiter) }

func (h tenantHeap) Len() int { return len(h) }
func (h tenantHeap) Less(i, j int) bool {
	if h[i].start != h[j].start {
		return h[i].start < h[j].start
	}
	return h[i].first().seq < h[j].first().seq
}
func (h tenantHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *tenantHeap) Push(x any) {
	t := x.(*slotTenant)
	t.index = len(*h)
	*h = append(*h, t)
}
func (h *tenantHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.index = -1
	return t
}

func (s *memorySlots) open(c MemoryConfig, clock clock) {
	s.conf, s.clock = c, clock
	s.keys = map[string]*slotKey{}
	s.ends = agenda[*slotLease]{clock: s.clock, ring: s.ring}
}

func (s *memorySlots) Acquire(ctx context.Context, c Claim) (Lease, error) {
	c, err := c.Normal()
	if err != nil {
		return Lease{}, err
	}
	w, err := s.ask(ctx, c)
	if err != nil {
		return Lease{}, err
	}
	if c.MaxWait > 0 {
		s.wait(ctx, w)
	}
	return s.settle(ctx, w)
}

// wait ends with w's answer, or with its wait.
func (s *memorySlots) wait(ctx context.Context, w *slotWaiter) {
	timer := time.NewTimer(w.claim.MaxWait)
	defer timer.Stop()
	var warm <-chan time.Time
	if cold := int64(w.claim.TTL) - s.clock.now(); w.claim.Cold && cold > 0 {
		timer := time.NewTimer(time.Duration(cold))
		defer timer.Stop()
		warm = timer.C
	}
	for {
		select {
		case <-w.answer:
		case <-timer.C:
		case <-ctx.Done():
		case <-warm:
			warm = nil
			s.serve(w.claim.Key)
			continue
		}
		return
	}
}

// serve looks who is next at key.
func (s *memorySlots) serve(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.now()
	s.expireLocked(now)
	if k := s.keys[key]; k != nil && !s.closed {
		s.serveLocked(now, k)
	}
}

// ask queues c and serves who is next.
func (s *memorySlots) ask(ctx context.Context, c Claim) (*slotWaiter, error) {
	now, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	w := &slotWaiter{claim: c, answer: make(chan struct{})}
	k := s.keys[c.Key]
	if k != nil {
		if l := k.leases[c.Holder]; l != nil {
			if l.lease.Units != c.Units {
				return nil, fmt.Errorf("%w: %q holds %d units of %q already", ErrRefused, c.Holder, l.lease.Units, c.Key)
			}
			w.finish(s.extendLocked(now, l, c.TTL), nil)
			return w, nil
		}
		if old := k.queued[c.Holder]; old != nil {
			if !c.same(old.claim) {
				return nil, fmt.Errorf("%w: %q waits for %q already, with another claim", ErrRefused, c.Holder, c.Key)
			}
			w.seq, w.place = old.seq, old.place
			w.place.Value, k.queued[c.Holder] = w, w
			old.finish(Lease{}, fmt.Errorf("%w: another Acquire of %q waits in its place", ErrLost, c.Holder))
			s.serveLocked(now, k)
			return w, nil
		}
	}
	if s.count >= s.conf.MaxSlots {
		return nil, fmt.Errorf("%w: MaxSlots is %d", ErrFull, s.conf.MaxSlots)
	}
	if k == nil {
		k = newSlotKey(c.Key)
		s.keys[k.name] = k
	}
	s.count++
	s.seq++
	w.seq = s.seq
	k.queued[c.Holder] = w
	k.wanted += c.Units
	k.level(c.Priority).push(w)
	s.serveLocked(now, k)
	return w, nil
}

// settle is the end of w's wait: its answer, or its leaving.
func (s *memorySlots) settle(ctx context.Context, w *slotWaiter) (Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.now()
	if !w.done {
		s.expireLocked(now)
	}
	if !w.done {
		s.serveLocked(now, s.keys[w.claim.Key]) // the engine may just be warm
	}
	if !w.done {
		k := s.keys[w.claim.Key] // there: Close answers all who wait
		s.count--
		delete(k.queued, w.claim.Holder)
		k.wanted -= w.claim.Units
		k.level(w.claim.Priority).remove(w)
		s.serveLocked(now, k) // whoever it stood before
		w.finish(Lease{}, ErrBusy)
	}
	if ctx.Err() == nil {
		if k := s.keys[w.claim.Key]; k != nil && w.err == nil {
			w.lease.Wanted = k.wanted
		}
		return w.lease, w.err
	}
	if w.err == nil && w.seq != 0 { // given just now, to somebody who has left
		if k := s.keys[w.claim.Key]; k != nil {
			if l := k.leases[w.claim.Holder]; l != nil && l.lease.Fence == w.lease.Fence {
				s.endLocked(l)
				s.serveLocked(now, k)
			}
		}
	}
	return Lease{}, ended(ctx)
}

func (s *memorySlots) Renew(ctx context.Context, ttl time.Duration, leases ...Lease) ([]Lease, error) {
	if err := checkRenew(ttl, leases); err != nil || len(leases) == 0 {
		return nil, err
	}
	now, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	out := make([]Lease, len(leases))
	for i, l := range leases {
		out[i] = Lease{Key: l.Key, Holder: l.Holder, Fence: l.Fence}
		if live := s.findLocked(now, l); live != nil {
			live.cold = int64(ttl)
			out[i] = s.extendLocked(now, live, ttl)
		}
	}
	return out, nil
}

func (s *memorySlots) Resize(ctx context.Context, l Lease, units, limit int) (Lease, error) {
	if err := checkResize(units, limit); err != nil {
		return Lease{}, err
	}
	now, err := s.enter(ctx)
	if err != nil {
		return Lease{}, err
	}
	defer s.mu.Unlock()
	live := s.findLocked(now, l)
	if live == nil {
		return Lease{}, ErrLost
	}
	k, more := live.key, units-live.lease.Units
	if more > 0 && (l.Fence < s.born() && now < live.cold || k.wanted > 0 || k.used+more > limit) {
		return Lease{}, ErrBusy
	}
	k.used += more
	live.lease.Units = units
	if more < 0 {
		s.serveLocked(now, k)
	}
	live.lease.Wanted = k.wanted
	return live.lease, nil
}

func (s *memorySlots) Release(ctx context.Context, leases ...Lease) error {
	if err := checkBatch("leases", len(leases)); err != nil || len(leases) == 0 {
		return err
	}
	now, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	for _, l := range leases {
		if live := s.find(l); live != nil {
			s.endLocked(live)
			s.serveLocked(now, live.key)
		}
	}
	return nil
}

// enter checks what every call does and takes the lock if it returns no error.
func (s *memorySlots) enter(ctx context.Context) (now int64, err error) {
	if ctx.Err() != nil {
		return 0, ended(ctx)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, ErrClosed
	}
	now = s.clock.now()
	s.expireLocked(now)
	return now, nil
}

// find is the live lease that l is, if it is one.
func (s *memorySlots) find(l Lease) *slotLease {
	if k := s.keys[l.Key]; k != nil {
		if live := k.leases[l.Holder]; live != nil && live.lease.Fence == l.Fence {
			return live
		}
	}
	return nil
}

// findLocked is find, or makes l live that another engine has given, of whose data this one
// has nothing: it is from before these began, it has time left, and nothing else was given in
// its place. It does not grow before all such leases have ended: who renews it says how long
// they are.
func (s *memorySlots) findLocked(now int64, l Lease) *slotLease {
	if live := s.find(l); live != nil {
		return live
	}
	left := min(l.Left(time.Now()), MaxWait)
	if l.Fence == 0 || l.Fence >= s.born() || left <= 0 || l.Units < 1 || l.Units > maxSlots ||
		checkKey("", l.Key) != nil || checkKey("", l.Holder) != nil || s.count >= s.conf.MaxSlots {
		return nil
	}
	k := s.keys[l.Key]
	if k != nil {
		if k.leases[l.Holder] != nil || k.queued[l.Holder] != nil {
			return nil
		}
		for _, other := range k.leases {
			if other.lease.Fence >= s.born() {
				return nil
			}
		}
	} else {
		k = newSlotKey(l.Key)
		s.keys[k.name] = k
	}
	s.count++
	s.fence = max(s.fence, l.Fence)
	live := s.leaseLocked(k, l.Holder, l.Fence, l.Units)
	live.cold = never
	s.extendLocked(now, live, left)
	return live
}

// born is the least fence that is given.
func (s *memorySlots) born() uint64 { return uint64(max(0, s.clock.time(0).UnixMicro())) }

func newSlotKey(name string) *slotKey {
	return &slotKey{name: strings.Clone(name), leases: map[string]*slotLease{}, queued: map[string]*slotWaiter{}}
}

// leaseLocked makes a lease of k, which has yet to be given an end.
func (s *memorySlots) leaseLocked(k *slotKey, holder string, fence uint64, units int) *slotLease {
	l := &slotLease{key: k}
	l.lease = Lease{Key: k.name, Holder: strings.Clone(holder), Fence: fence, Units: units}
	l.end = due[*slotLease]{index: -1, what: l}
	k.leases[l.lease.Holder] = l
	k.used += units
	return l
}

// serveLocked gives leases to whoever is next at k for as long as they fit.
func (s *memorySlots) serveLocked(now int64, k *slotKey) {
	for len(k.levels) > 0 {
		level := k.levels[0]
		if len(level.active) == 0 {
			k.levels = slices.Delete(k.levels, 0, 1)
			continue
		}
		w := level.active[0].first()
		if k.used+w.claim.Units > w.claim.Limit || w.claim.Cold && now < int64(w.claim.TTL) {
			return
		}
		level.pop()
		delete(k.queued, w.claim.Holder)
		k.wanted -= w.claim.Units
		s.fence = max(s.fence+1, uint64(max(0, s.clock.time(now).UnixMicro())))
		l := s.leaseLocked(k, w.claim.Holder, s.fence, w.claim.Units)
		w.finish(s.extendLocked(now, l, w.claim.TTL), nil)
	}
	if len(k.leases) == 0 {
		delete(s.keys, k.name)
	}
}

func (s *memorySlots) extendLocked(now int64, l *slotLease, ttl time.Duration) Lease {
	at := end(now, ttl)
	l.lease.Until, l.lease.Wanted = s.clock.time(at), l.key.wanted
	s.ends.set(&l.end, at)
	return l.lease
}

func (s *memorySlots) endLocked(l *slotLease) {
	delete(l.key.leases, l.lease.Holder)
	l.key.used -= l.lease.Units
	s.count--
	s.ends.drop(&l.end)
}

func (s *memorySlots) expireLocked(now int64) {
	for {
		d, ok := s.ends.next(now)
		if !ok {
			return
		}
		s.endLocked(d.what)
		s.serveLocked(now, d.what.key)
	}
}

// ring is called by the timer.
func (s *memorySlots) ring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.expireLocked(s.clock.now())
		s.ends.rang()
	}
}

func (s *memorySlots) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.ends.stop()
	for _, k := range s.keys {
		for _, w := range k.queued {
			w.finish(Lease{}, ErrClosed)
		}
	}
	s.keys = nil
	return nil
}

func (w *slotWaiter) finish(l Lease, err error) {
	w.lease, w.err, w.done = l, err, true
	close(w.answer)
}

// same reports whether c can wait where other does.
func (c Claim) same(other Claim) bool {
	c.Limit, c.TTL, c.MaxWait, c.Cold = other.Limit, other.TTL, other.MaxWait, other.Cold
	return c == other
}

// level is k's level of a priority, made if there is none.
func (k *slotKey) level(priority int) *slotLevel {
	i, ok := slices.BinarySearchFunc(k.levels, priority, func(l *slotLevel, p int) int { return p - l.priority })
	if !ok {
		k.levels = slices.Insert(k.levels, i, &slotLevel{priority: priority, tenants: map[string]*slotTenant{}})
	}
	return k.levels[i]
}

func (l *slotLevel) push(w *slotWaiter) {
	t := l.tenants[w.claim.Tenant]
	if t == nil {
		l.prune()
		t = &slotTenant{name: w.claim.Tenant, index: -1}
		l.tenants[t.name] = t
	}
	w.place = t.waiters.PushBack(w)
	if t.index < 0 {
		t.start = max(l.now, t.finish)
		heap.Push(&l.active, t)
	}
}

// pop takes out the waiter that is next and charges its tenant.
func (l *slotLevel) pop() {
	t := l.active[0]
	w := t.first()
	l.now = t.start
	t.finish = t.start + float64(w.claim.Units)/float64(w.claim.Weight)
	if t.waiters.Len() == 1 {
		heap.Pop(&l.active) // while its first is still there to compare
		t.waiters.Remove(w.place)
		return
	}
	t.waiters.Remove(w.place)
	t.start = t.finish
	heap.Fix(&l.active, 0)
}

func (l *slotLevel) remove(w *slotWaiter) {
	t := l.tenants[w.claim.Tenant]
	if t.waiters.Len() == 1 {
		heap.Remove(&l.active, t.index) // while its first is still there to compare
		t.waiters.Remove(w.place)
		return
	}
	t.waiters.Remove(w.place)
	heap.Fix(&l.active, t.index)
}

// prune forgets tenants that do not wait and owe nothing, when there are many.
func (l *slotLevel) prune() {
	if len(l.tenants) < 2*len(l.active)+64 {
		return
	}
	for name, t := range l.tenants {
		if t.index < 0 && t.finish <= l.now {
			delete(l.tenants, name)
		}
	}
}
