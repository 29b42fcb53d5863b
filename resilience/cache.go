package resilience

import (
	"cmp"
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// Cache answers calls of tools that only read with what such a call was answered before. It is an
// interceptor that stands before the gates: an answer from it takes no slot and no token.
//
// It keeps results as JSON, so that what one caller changes no other sees; what cannot be encoded is not
// kept, nor a stream, nor what is not of an attempt of the tool, as the answer of a [Fallback] further in. Of errors it keeps none unless ErrorTTL is set, and never one of the caller's own leaving, a
// refusal, or one of an attempt that still runs. Make it with [NewCache]; it is safe for concurrent use,
// and nothing of it waits.
type Cache struct {
	conf CacheConfig

	mu    sync.Mutex
	list  list.List // of *cached, the last used first
	at    map[string]*list.Element
	bytes int
}

// CacheConfig configures a [Cache].
type CacheConfig struct {
	Name  string                      // empty means "cache"
	Tools func(tool sluice.Spec) bool // nil means those hinted ReadOnly

	// Key tells what calls ask for; ok is false for one that is not kept. Whatever answers depend on must
	// be in it. nil means tool, tenant and arguments. It must not wait; a panic ends the call.
	Key func(c sluice.Call) (key string, ok bool)

	TTL        time.Duration // of results, from their end on; zero means 1 min
	ErrorTTL   time.Duration // of tools' own errors; zero keeps none
	StaleTTL   time.Duration // for so long after TTL a result answers if the call fails; zero means it does not
	MaxEntries int           // the least used go first; zero means 1,000
	MaxBytes   int           // of keys and JSON; zero means 16 MiB
	_          struct{}
}

// maxBound bounds MaxEntries and MaxBytes.
const maxBound = 1 << 30

// NewCache returns an empty cache, or an error that names the wrong field.
func NewCache(c CacheConfig) (*Cache, error) {
	c.Name, c.TTL = cmp.Or(c.Name, "cache"), cmp.Or(c.TTL, time.Minute)
	c.MaxEntries, c.MaxBytes = cmp.Or(c.MaxEntries, 1000), cmp.Or(c.MaxBytes, 16<<20)
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"TTL", c.TTL}, {"ErrorTTL", c.ErrorTTL}, {"StaleTTL", c.StaleTTL}} {
		if d.v < 0 {
			return nil, fmt.Errorf("resilience: CacheConfig.%s is %v: must not be negative", d.name, d.v)
		}
	}
	for _, n := range []struct {
		name string
		v    int
	}{{"MaxEntries", c.MaxEntries}, {"MaxBytes", c.MaxBytes}} {
		if n.v < 0 || n.v > maxBound {
			return nil, fmt.Errorf("resilience: CacheConfig.%s is %d: must be zero or up to %d", n.name, n.v, maxBound)
		}
	}
	if c.Tools == nil {
		c.Tools = readOnly
	}
	if c.Key == nil {
		c.Key = callKey
	}
	return &Cache{conf: c, at: make(map[string]*list.Element)}, nil
}

// String is the name.
func (x *Cache) String() string { return x.conf.Name }

// Inspect is how much of the cache is used, for snapshots.
func (x *Cache) Inspect() []sluice.GateState {
	x.mu.Lock()
	defer x.mu.Unlock()
	return []sluice.GateState{
		{Name: x.conf.Name + " entries", Limit: int64(x.conf.MaxEntries), Used: int64(len(x.at))},
		{Name: x.conf.Name + " bytes", Limit: int64(x.conf.MaxBytes), Used: int64(x.bytes)},
	}
}

// Clear forgets all answers.
func (x *Cache) Clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.list.Init()
	clear(x.at)
	x.bytes = 0
}

// asked is a call that the cache could not answer.
type asked struct {
	key string
	had *cached // an answer of old, or nil
}

// Steps makes x an interceptor in steps.
func (x *Cache) Steps(tool sluice.Spec) sluice.Steps {
	if !x.conf.Tools(tool) {
		return sluice.Steps{}
	}
	return sluice.Steps{
		Before: func(_ context.Context, s *sluice.Step) {
			key, ok := x.conf.Key(s.Call())
			if !ok {
				return
			}
			had, fresh := x.get(key, time.Now())
			if fresh {
				if res, err, ok := had.answer(tool); ok {
					s.Answer(res, err)
					return
				}
			}
			s.State = &asked{key, had}
		},
		After: func(ctx context.Context, s *sluice.Step) {
			if y, ok := s.State.(*asked); ok {
				x.learn(ctx, tool, s, y)
			}
		},
	}
}

// Wrap makes x an interceptor.
func (x *Cache) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return x.Steps(tool).Wrap(next)
}

// learn keeps the outcome of a call, or answers it by what there was before.
func (x *Cache) learn(ctx context.Context, tool sluice.Spec, s *sluice.Step, y *asked) {
	switch a := s.Attempt(); {
	case s.Err == nil:
		x.keep(y.key, a, s.Result)
		return
	case ctx.Err() != nil:
		return
	case y.had != nil && y.had.err == nil:
		if res, _, ok := y.had.answer(tool); ok {
			s.Answer(res, nil)
			return
		}
	}
	if a := s.Attempt(); x.conf.ErrorTTL > 0 && a.Ran && !a.Running && a.Outcome == sluice.OutcomeFailure {
		x.put(&cached{key: y.key, err: s.Err}, errorBytes, x.conf.ErrorTTL, 0)
	}
}

// keep keeps a result, if it is the tool's, a success, and has a JSON.
func (x *Cache) keep(key string, a sluice.Attempt, res sluice.Result) {
	if a.N == 0 || a.Held || a.Outcome != sluice.OutcomeSuccess {
		return
	}
	if raw, err := res.JSON(); err == nil {
		x.put(&cached{key: key, raw: raw}, len(raw), x.conf.TTL, x.conf.StaleTTL)
	}
}

// cached is one answer. It never changes once it is kept.
type cached struct {
	key         string
	raw         json.RawMessage
	err         error // instead
	bytes       int
	until, last time.Time // fresh before the first, of use before the second
}

// What an answer is taken to need beside its key and JSON, and an error.
const (
	overhead   = 256
	errorBytes = 1024
)

// answer is what a call of the tool gets, if it can be decoded.
func (y *cached) answer(tool sluice.Spec) (res sluice.Result, err error, ok bool) {
	if y.err != nil {
		return res, sluice.Elsewhere(y.err), true
	}
	v, err := tool.Decode(y.raw)
	return sluice.Result{Value: v}, nil, err == nil
}

// get is what there is for key at the instant now, and whether it is fresh; nil if it is of no use.
func (x *Cache) get(key string, now time.Time) (y *cached, fresh bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.at[key]
	if e == nil {
		return nil, false
	}
	if y = e.Value.(*cached); !now.Before(y.last) {
		x.removeLocked(e)
		return nil, false
	}
	x.list.MoveToFront(e)
	return y, now.Before(y.until)
}

// put keeps y, of so many bytes, for so long, in place of what there is.
func (x *Cache) put(y *cached, bytes int, ttl, stale time.Duration) {
	y.bytes = bytes + len(y.key) + overhead
	y.until = time.Now().Add(ttl)
	y.last = y.until.Add(stale)
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.at[y.key]; e != nil {
		x.removeLocked(e)
	}
	if y.bytes > x.conf.MaxBytes {
		return
	}
	for len(x.at) >= x.conf.MaxEntries || x.bytes+y.bytes > x.conf.MaxBytes {
		x.removeLocked(x.list.Back())
	}
	x.at[y.key] = x.list.PushFront(y)
	x.bytes += y.bytes
}

func (x *Cache) removeLocked(e *list.Element) {
	y := x.list.Remove(e).(*cached)
	delete(x.at, y.key)
	x.bytes -= y.bytes
}
