package sluicenats

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// places is all that concerns the slots of one key: the leases, the claims that wait, and what
// tenants have had.
//
// A slot that comes free goes to the claim that is next as a short lease, an offer, and its
// waiter is told; it asks again, which makes the lease as long as it is to be. So a waiter that
// died costs the length of an offer, and one that was not told finds its lease when it next asks.
type places struct {
	Time   int64              // of the last decision; instants are nanoseconds since 1970, by the server's clock
	Fence  uint64             // the last one given
	Leases []*place           `json:",omitempty"`
	Queue  []*queued          `json:",omitempty"`
	Now    map[string]float64 `json:",omitempty"` // by priority, virtual time
	Finish map[string]float64 `json:",omitempty"` // by priority and tenant, the tag after its last lease

	told []string // tokens of the waiters to whom something has happened
}

type place struct {
	Holder string
	Token  string // of the Acquire that it was given to
	Fence  uint64
	Units  int
	End    int64
	TTL    int64 `json:",omitempty"` // if it was learned of, of its renewals: for so long it does not grow
}

type queued struct {
	Holder, Token string
	Units, Limit  int
	TTL           int64
	Until         int64 // the end of its wait
	Priority      int
	Tenant        string
	Weight        int
	Arrival       int64
	Cold          bool `json:",omitempty"`
}

// offer is how long a slot that was handed to a waiter waits for it.
const offer = time.Second

// loadPlaces is what c holds, as of the time that v has from then on.
func loadPlaces(v *view, c *cell) (*places, error) {
	s := &places{}
	if c.seq == 0 || c.marker {
		return s, nil
	}
	if err := json.Unmarshal(c.data, s); err != nil {
		return nil, refuse("what is kept of slots is %q", c.data)
	}
	if back := v.reach(s.Time); back > 0 {
		for _, l := range s.Leases {
			l.End -= back
		}
		for _, w := range s.Queue {
			w.Until -= back
		}
		s.Time = v.hi
	}
	return s, nil
}

// save is what keeps s as long as it matters, none if nothing has changed.
func (s *places) save(v *view, c *cell) []put {
	data, _ := json.Marshal(s)
	if string(data) == string(c.data) || c.seq == 0 && s.Fence == 0 && len(s.Leases)+len(s.Queue) == 0 {
		return nil
	}
	s.Time = v.hi
	data, _ = json.Marshal(s)
	last := v.hi
	for _, l := range s.Leases {
		last = max(last, l.End)
	}
	for _, w := range s.Queue {
		last = max(last, w.Until)
	}
	return []put{{subject: c.subject, was: c.seq, data: data, ttl: time.Duration(last-v.lo) + marked}}
}

func (s *places) lease(holder string) *place {
	for _, l := range s.Leases {
		if l.Holder == holder {
			return l
		}
	}
	return nil
}

func (s *places) waits(holder string) *queued {
	for _, w := range s.Queue {
		if w.Holder == holder {
			return w
		}
	}
	return nil
}

// end takes l away.
func (s *places) end(l *place) {
	keep := s.Leases[:0]
	for _, other := range s.Leases {
		if other != l {
			keep = append(keep, other)
		}
	}
	s.Leases = keep
}

// leave takes w away.
func (s *places) leave(w *queued) {
	keep := s.Queue[:0]
	for _, other := range s.Queue {
		if other != w {
			keep = append(keep, other)
		}
	}
	s.Queue = keep
}

func (s *places) used() (n int) {
	for _, l := range s.Leases {
		n += l.Units
	}
	return n
}

// wanted is how many units are waited for.
func (s *places) wanted() (n int) {
	for _, w := range s.Queue {
		n += w.Units
	}
	return n
}

// begin takes away what has ended and serves who is next. asks is the token of who asks, if that
// is a claim.
func (s *places) begin(now int64, born birth, asks string) {
	for _, l := range append([]*place(nil), s.Leases...) {
		if l.End <= now {
			s.end(l)
		}
	}
	for _, w := range append([]*queued(nil), s.Queue...) {
		if w.Until <= now && w.Token != asks {
			s.leave(w)
		}
	}
	s.serve(now, born, asks)
}

// next is the claim that is next: of the highest priority, then of the tenant with the lowest tag
// (start-time fair queuing), then the one that came first.
func (s *places) next() (best *queued, tag float64) {
	for _, w := range s.Queue {
		mine := max(s.Now[strconv.Itoa(w.Priority)], s.Finish[w.tenant()])
		if best == nil || w.Priority > best.Priority ||
			w.Priority == best.Priority && (mine < tag || mine == tag && w.Arrival < best.Arrival) {
			best, tag = w, mine
		}
	}
	return best, tag
}

func (w *queued) tenant() string { return strconv.Itoa(w.Priority) + "|" + w.Tenant }

// serve gives leases to whoever is next, for as long as they fit.
func (s *places) serve(now int64, born birth, asks string) {
	for len(s.Queue) > 0 {
		w, tag := s.next()
		if s.used()+w.Units > w.Limit || w.Cold && now < born.At+w.TTL {
			return
		}
		s.leave(w)
		if s.Now == nil {
			s.Now, s.Finish = map[string]float64{}, map[string]float64{}
		}
		s.Now[strconv.Itoa(w.Priority)] = tag
		s.Finish[w.tenant()] = tag + float64(w.Units)/float64(w.Weight)
		ttl := w.TTL
		if w.Token != asks {
			ttl = min(ttl, int64(offer))
			s.told = append(s.told, w.Token)
		}
		s.Fence = max(s.Fence+1, uint64(now/1000))
		s.Leases = append(s.Leases, &place{Holder: w.Holder, Token: w.Token, Fence: s.Fence, Units: w.Units, End: now + ttl})
	}
	s.Now, s.Finish = nil, nil
}

// idle is for how long nothing happens by itself.
func (s *places) idle(now int64, born birth) time.Duration {
	next := now + int64(time.Hour)
	for _, l := range s.Leases {
		next = min(next, l.End)
	}
	for _, w := range s.Queue {
		if w.Cold && now < born.At+w.TTL {
			next = min(next, born.At+w.TTL)
		}
	}
	return time.Duration(max(0, next-now))
}

// find is the live lease that l is, nil if there is none. If learn, one is made that this bucket
// does not know: it is from before its data began, it has time left, and nothing else was given
// in its place. It does not grow before all such leases have ended: who renews it says how long
// they are.
func (s *places) find(v *view, born birth, l engine.Lease, learn bool) *place {
	if live := s.lease(l.Holder); live != nil {
		if live.Fence == l.Fence {
			return live
		}
		return nil
	}
	left, first := min(l.Left(v.sent), engine.MaxWait), born.fence()
	if !learn || l.Fence == 0 || l.Fence >= first || left <= 0 || l.Units < 1 || l.Units > 1<<30 ||
		checkKey(l.Holder) != nil || s.waits(l.Holder) != nil {
		return nil
	}
	for _, other := range s.Leases {
		if other.Fence >= first {
			return nil
		}
	}
	s.Fence = max(s.Fence, l.Fence)
	live := &place{Holder: l.Holder, Fence: l.Fence, Units: l.Units, End: v.hi + int64(left), TTL: int64(engine.MaxWait)}
	s.Leases = append(s.Leases, live)
	return live
}

// fence is the least that is given.
func (b birth) fence() uint64 { return uint64(b.At / 1000) }
