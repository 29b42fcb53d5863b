package resilience

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice"
)

// onceVersion is that of the entries. Whoever changes what they mean counts it up.
const onceVersion = 1

// onceEntry is what the state has of a key. Other processes read it, see docs/once.md.
type onceEntry struct {
	V      int             `json:"v"`
	State  string          `json:"state"`
	Args   string          `json:"args"`         // SHA-256 of the arguments, in hexadecimal
	By     string          `json:"by,omitempty"` // which execution it is, until its end is known
	Since  time.Time       `json:"since"`        // the state is that
	Lease  time.Time       `json:"lease,omitzero"`
	Result json.RawMessage `json:"result,omitempty"`
	Code   string          `json:"code,omitempty"`
	Text   string          `json:"text,omitempty"`
}

// What is known of a key.
const (
	onceRunning = "running" // a call is under way, until Lease
	onceDoubt   = "doubt"   // its caller has left, and not its code
	onceDone    = "done"    // Result
	onceFailed  = "failed"  // Code, Text
)

const (
	onceNotStored = "once_not_stored" // a Code
	maxErrorText  = 1024
)

// inDoubt is since when e is, if it is at the instant now.
func (e *onceEntry) inDoubt(now time.Time) (since time.Time, ok bool) {
	switch {
	case e.State == onceDoubt:
		return e.Since, true
	case e.State == onceRunning && !now.Before(e.Lease):
		return e.Lease, true
	}
	return since, false
}

// ending is what e means for a call of k that asks for args, at the instant now; nil if it is to wait.
func (e *onceEntry) ending(k OnceKey, args string, now time.Time) *onceEnding {
	if e.Args != args {
		return &onceEnding{err: &OnceMismatchError{k}}
	}
	if since, ok := e.inDoubt(now); ok {
		return &onceEnding{err: sluice.Elsewhere(&OnceInDoubtError{k, since})}
	}
	switch e.State {
	case onceDone:
		return &onceEnding{raw: e.Result}
	case onceFailed:
		text := e.Text
		if e.Code == onceNotStored {
			text = "the call has ended, but what with could not be kept"
		}
		return &onceEnding{err: sluice.Elsewhere(&OnceFailedError{e.Code, text, e.Since})}
	}
	return nil
}

// check returns an error if e is none that this version understands.
func (e *onceEntry) check() error {
	if e.V != onceVersion {
		return fmt.Errorf("its entry is of version %d: must be %d", e.V, onceVersion)
	}
	switch e.State {
	case onceRunning, onceDoubt, onceDone, onceFailed:
		return nil
	}
	return fmt.Errorf("its entry's state is %.40q: must be running, doubt, done or failed", e.State)
}

// check returns an error if k is no key.
func (k *OnceKey) check() error {
	if n := len(k.Key); n == 0 || n > maxKey {
		return fmt.Errorf("resilience: the key has %d bytes: must have 1 to %d", n, maxKey)
	}
	if !utf8.ValidString(k.Key) {
		return errors.New("resilience: the key is not UTF-8: must be")
	}
	return nil
}

// name is what the state calls k. None is the beginning of another.
func (k *OnceKey) name() string {
	return "once/" + url.PathEscape(k.Tenant) + "/" + url.PathEscape(k.Tool) + "/" + url.PathEscape(k.Key) + "/"
}

// onceRecord is what a state has of one key.
type onceRecord struct {
	ctx   context.Context // of the state; it does not end
	state *sluice.SharedState
	key   sluice.Key[onceEntry]
}

func recordOf(id onceID) *onceRecord {
	return &onceRecord{sluice.WithState(context.Background(), id.state), id.state, sluice.Key[onceEntry](id.name())}
}

// Why a record was not changed.
var (
	errOnceTaken = errors.New("there is an entry")
	errOnceLost  = errors.New("the entry is another's")
)

// look is the entry that there is, if there is one.
func (r *onceRecord) look() (e onceEntry, there bool, err error) {
	switch e, _, err = r.key.Get(r.ctx); {
	case err == nil:
		return e, true, e.check()
	case errors.Is(err, sluice.ErrAbsent):
		return e, false, nil
	}
	return e, false, err
}

// add makes e the entry if there is none; else it answers that.
func (r *onceRecord) add(e onceEntry, ttl time.Duration) (had onceEntry, taken bool, err error) {
	_, err = r.key.Update(r.ctx, func(old onceEntry, ok bool) (onceEntry, error) {
		if ok {
			had = old
			return old, errOnceTaken
		}
		return e, nil
	}, sluice.TTL(ttl))
	if err == errOnceTaken {
		return had, true, had.check()
	}
	return had, false, err
}

// change makes of the entry what f says, if it is that of the execution by. If there is none, f is asked
// only if it may be made anew.
func (r *onceRecord) change(by string, anew bool, ttl time.Duration, f func(e *onceEntry) error) error {
	_, err := r.key.Update(r.ctx, func(e onceEntry, ok bool) (onceEntry, error) {
		if ok && e.By != by || !ok && !anew {
			return e, errOnceLost
		}
		return e, f(&e)
	}, sluice.TTL(ttl))
	return err
}

// remove deletes the entry, if may says so.
func (r *onceRecord) remove(may func(e *onceEntry) error) error {
	for {
		e, version, err := r.key.Get(r.ctx)
		if err != nil {
			return err
		}
		if err = may(&e); err != nil {
			return err
		}
		if err = r.key.CompareAndDelete(r.ctx, version); !errors.Is(err, sluice.ErrConflict) {
			return err
		}
	}
}

// onceLook is how long a call waits for news of another process before it looks itself: the entry may have
// gone just before it began to watch.
const onceLook = time.Second

// await waits until the entry is not as seen, or it is time to look again, or ctx ends, and answers why that
// has.
func (r *onceRecord) await(ctx context.Context, seen *onceEntry) error {
	until := time.Now().Add(onceLook)
	if seen.Lease.Before(until) {
		until = seen.Lease
	}
	w, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for e := range r.state.Watch(w, string(r.key)) {
		x, ok := e.Value.(onceEntry)
		if raw, restored := e.Value.(json.RawMessage); restored {
			ok = json.Unmarshal(raw, &x) == nil
		}
		if !ok || x.By != seen.By || x.State != seen.State {
			break
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// forget is [Once.Forget].
func (r *onceRecord) forget() error {
	return r.remove(func(e *onceEntry) error {
		if _, doubt := e.inDoubt(time.Now()); e.State == onceRunning && !doubt {
			return errors.New("resilience: Once.Forget: a call with the key is under way")
		}
		return nil
	})
}

// resolve is [Once.Resolve].
func (r *onceRecord) resolve(raw json.RawMessage, ttl time.Duration) error {
	_, err := r.key.Update(r.ctx, func(e onceEntry, ok bool) (onceEntry, error) {
		now := time.Now()
		if _, doubt := e.inDoubt(now); !ok || !doubt {
			return e, errors.New("resilience: Once.Resolve: the key is not in doubt")
		}
		e.become(onceDone, now)
		e.Result = raw
		return e, nil
	}, sluice.TTL(ttl))
	return err
}

// become makes e an entry of that state since now.
func (e *onceEntry) become(state string, now time.Time) {
	*e = onceEntry{V: onceVersion, State: state, Args: e.Args, Since: wall(now)}
}

// wall is t as other processes read it.
func wall(t time.Time) time.Time { return t.UTC().Round(0) }
