package resilience

import (
	"cmp"
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
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
	conf settings[CacheConfig]

	mu    sync.Mutex // held while the configuration changes, too
	list  list.List  // of *cached, the last used first
	at    map[string]*list.Element
	bytes int
}

// CacheConfig configures a [Cache].
type CacheConfig struct {
	Name  string                      // empty means "cache"
	Tools func(tool sluice.Spec) bool // asked for each call, must not wait; nil means those hinted ReadOnly

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

// complete fills in the defaults, but Key.
func (c CacheConfig) complete() (CacheConfig, error) {
	c.Name, c.TTL = cmp.Or(c.Name, "cache"), cmp.Or(c.TTL, time.Minute)
	c.MaxEntries, c.MaxBytes = cmp.Or(c.MaxEntries, 1000), cmp.Or(c.MaxBytes, 16<<20)
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"TTL", c.TTL}, {"ErrorTTL", c.ErrorTTL}, {"StaleTTL", c.StaleTTL}} {
		if d.v < 0 {
			return c, fmt.Errorf("resilience: CacheConfig.%s is %v: must not be negative", d.name, d.v)
		}
		if err := unit("CacheConfig."+d.name, d.v); err != nil {
			return c, err
		}
	}
	for _, n := range []struct {
		name string
		v    int
	}{{"MaxEntries", c.MaxEntries}, {"MaxBytes", c.MaxBytes}} {
		if n.v < 0 || n.v > maxBound {
			return c, fmt.Errorf("resilience: CacheConfig.%s is %d: must be zero or up to %d", n.name, n.v, maxBound)
		}
	}
	if c.Tools == nil {
		c.Tools = readOnly
	}
	return c, nil
}

func (c CacheConfig) title() (kind, name string) { return "CacheConfig", c.Name }

func (c CacheConfig) keeps(was *CacheConfig) (CacheConfig, error) {
	c.Name = was.Name
	return c, nil
}

// keyOf is Key, or what that is if it is nil.
func (c *CacheConfig) keyOf(call sluice.Call) (key string, ok bool) {
	if c.Key != nil {
		return c.Key(call)
	}
	return callKey(call)
}

// NewCache returns an empty cache, or an error that names the wrong field.
func NewCache(c CacheConfig) (*Cache, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	x := &Cache{at: make(map[string]*list.Element)}
	x.conf.Store(&c)
	return x, nil
}

// String is the name.
func (x *Cache) String() string { return x.conf.Load().Name }

// Config returns a copy, defaults filled in but for Key, which is as it was given.
func (x *Cache) Config() CacheConfig { return *x.conf.Load() }

// Change changes all but the name, by [sluice.Reconfigure], for calls that come and answers that are kept from
// then on. What there is stays for the time that it was given, as far as there is room for it; but if there is a
// Key, or was, all is forgotten, since nobody can know whether keys mean the same.
func (x *Cache) Change(c CacheConfig) sluice.Change {
	return x.conf.change(x, c, func(c *CacheConfig) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if was := x.conf.Swap(c); was.Key != nil || c.Key != nil {
			x.clearLocked()
		}
		x.fitLocked(0, 0)
	})
}

// Inspect is how much of the cache is used, for snapshots.
func (x *Cache) Inspect() []sluice.GateState {
	x.mu.Lock()
	defer x.mu.Unlock()
	c := x.conf.Load()
	return []sluice.GateState{
		{Name: c.Name + " entries", Limit: int64(c.MaxEntries), Used: int64(len(x.at))},
		{Name: c.Name + " bytes", Limit: int64(c.MaxBytes), Used: int64(x.bytes)},
	}
}

// Clear forgets all answers.
func (x *Cache) Clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.clearLocked()
}

func (x *Cache) clearLocked() {
	x.list.Init()
	clear(x.at)
	x.bytes = 0
}

// asked is a call that the cache could not answer.
type asked struct {
	conf *CacheConfig // that the key is by
	key  string
	had  *cached // an answer of old, or nil
}

// Steps makes x an interceptor in steps.
func (x *Cache) Steps(tool sluice.Spec) sluice.Steps {
	return sluice.Steps{
		Before: func(ctx context.Context, s *sluice.Step) {
			c := x.conf.Load()
			if !c.Tools(tool) {
				return
			}
			key, ok := c.keyOf(s.Call())
			if !ok {
				return
			}
			had, fresh := x.get(c, key, time.Now())
			if fresh {
				if res, err, ok := had.answer(x.String(), tool); ok {
					s.Emit(ctx, cacheHit, slog.Bool("stale", false))
					s.Answer(res, err)
					return
				}
			}
			s.State = &asked{c, key, had}
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
		x.keep(y, a, s.Result)
		return
	case ctx.Err() != nil:
		return
	case y.had != nil && y.had.err == nil:
		if res, _, ok := y.had.answer(x.String(), tool); ok {
			s.Emit(ctx, cacheHit, slog.Bool("stale", true))
			s.Answer(res, nil)
			return
		}
	}
	c := x.conf.Load()
	if a := s.Attempt(); c.ErrorTTL > 0 && a.Ran && !a.Running && a.Outcome == sluice.OutcomeFailure && !fellBack(s.Err) {
		x.put(y.conf, &cached{key: y.key, err: s.Err}, errorBytes, c.ErrorTTL, 0)
	}
}

// keep keeps a result, if it is the tool's, a success, and has a JSON.
func (x *Cache) keep(y *asked, a sluice.Attempt, res sluice.Result) {
	if a.N == 0 || a.Held || a.Outcome != sluice.OutcomeSuccess {
		return
	}
	if raw, err := res.JSON(); err == nil {
		c := x.conf.Load()
		x.put(y.conf, &cached{key: y.key, raw: raw}, len(raw), c.TTL, c.StaleTTL)
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
func (y *cached) answer(name string, tool sluice.Spec) (res sluice.Result, err error, ok bool) {
	if y.err != nil {
		return res, sluice.Elsewhere(y.err), true
	}
	v, err := tool.Decode(y.raw)
	return sluice.Result{Value: v}.By(name), nil, err == nil
}

// knowsLocked reports whether what is kept has keys as by.
func (x *Cache) knowsLocked(by *CacheConfig) bool {
	c := x.conf.Load()
	return c == by || c.Key == nil && by.Key == nil
}

// get is what there is at the instant now for key, which is by that configuration, and whether it is fresh; nil if it
// is of no use.
func (x *Cache) get(by *CacheConfig, key string, now time.Time) (y *cached, fresh bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.at[key]
	if e == nil || !x.knowsLocked(by) {
		return nil, false
	}
	if y = e.Value.(*cached); !now.Before(y.last) {
		x.removeLocked(e)
		return nil, false
	}
	x.list.MoveToFront(e)
	return y, now.Before(y.until)
}

// put keeps y, whose key is by that configuration, of so many bytes, for so long, in place of what there is.
func (x *Cache) put(by *CacheConfig, y *cached, bytes int, ttl, stale time.Duration) {
	y.bytes = bytes + len(y.key) + overhead
	y.until = time.Now().Add(ttl)
	y.last = y.until.Add(stale)
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.knowsLocked(by) {
		return
	}
	if e := x.at[y.key]; e != nil {
		x.removeLocked(e)
	}
	if y.bytes > x.conf.Load().MaxBytes {
		return
	}
	x.fitLocked(1, y.bytes)
	x.at[y.key] = x.list.PushFront(y)
	x.bytes += y.bytes
}

// fitLocked makes room for so many more entries and bytes.
func (x *Cache) fitLocked(entries, bytes int) {
	c := x.conf.Load()
	for len(x.at) > 0 && (len(x.at)+entries > c.MaxEntries || x.bytes+bytes > c.MaxBytes) {
		x.removeLocked(x.list.Back())
	}
}

func (x *Cache) removeLocked(e *list.Element) {
	y := x.list.Remove(e).(*cached)
	delete(x.at, y.key)
	x.bytes -= y.bytes
}
