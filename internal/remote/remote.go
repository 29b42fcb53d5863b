package remote

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/fleet"
	"github.com/sluice-go/sluice/internal/kv"
	"github.com/sluice-go/sluice/internal/value"
)

// Config is what a Remote needs. Errors name its fields as the root does.
type Config struct {
	Name      string
	Marshal   func(v any) ([]byte, error)
	Unmarshal func(data []byte, v any) error
}

// Remote is a [kv.Far] at the engine of a Fleet. Make one with [New]. It is safe for concurrent use.
type Remote struct {
	link  fleet.Link
	codec *value.Codec // nil is encoding/json
	ctx   context.Context
	stop  context.CancelFunc
	left  atomic.Int32 // trips that nobody waits for any more
}

var _ kv.Far = (*Remote)(nil)

// New returns a view of the state of that name, or an error that begins with the field of c that is wrong.
func New(f *fleet.Fleet, c Config) (kv.View, error) {
	if err := check.NameOr(".Name", &c.Name, "state"); err != nil {
		return kv.View{}, err
	}
	if (c.Marshal == nil) != (c.Unmarshal == nil) {
		return kv.View{}, errors.New(".Marshal and Unmarshal: one is nil, and one is not: must both be set, or both nil (encoding/json)")
	}
	link, err := f.Link(c.Name)
	if err != nil {
		return kv.View{}, fmt.Errorf(".Fleet: %w", err)
	}
	if most := engine.MaxKey / 2; len(link.Prefix) > most {
		return kv.View{}, fmt.Errorf(".Name and that of the Fleet make %d bytes of each key: must be at most %d", len(link.Prefix), most)
	}
	r := &Remote{link: link}
	if c.Marshal != nil {
		r.codec = &value.Codec{Marshal: c.Marshal, Unmarshal: c.Unmarshal}
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return value.NewFar(r), nil
}

// Close ends watches.
func (r *Remote) Close() { r.stop() }

// name is what the engine calls a key.
func (r *Remote) name(key string) (string, error) {
	if len(r.link.Prefix)+len(key) <= engine.MaxKey {
		return r.link.Prefix + key, nil
	}
	return "", failed(kv.Full, fmt.Errorf("%w: the key has %d bytes: must have at most %d in this Fleet", engine.ErrRefused,
		len(key), engine.MaxKey-len(r.link.Prefix)))
}

// entry is a record as kv knows it, with a lifetime that began to run off at that instant, at the latest.
func (r *Remote) entry(rec engine.Record, at time.Time) kv.Entry {
	e := kv.Entry{Key: rec.Key[len(r.link.Prefix):], Version: uint64(rec.Rev), Left: rec.Left}
	if rec.Rev != 0 && !rec.Gone {
		e.Value = value.Far(rec.Value, r.codec, rec.Left, at)
	}
	return e
}

// Get implements kv.Far.
func (r *Remote) Get(key string) (kv.Value, uint64, error) {
	name, err := r.name(key)
	if err != nil {
		return kv.Value{}, 0, nil // it cannot be there
	}
	at := time.Now()
	rec, err := read(r, func(ctx context.Context) (engine.Record, error) {
		rec, err := r.link.Store.Read(ctx, name)
		if err == nil && (rec.Key != name || rec.Rev == 0 || rec.Gone || rec.Caught) {
			err = lied("Read with what it was not asked for")
		}
		return rec, err
	})
	switch {
	case errors.Is(err, engine.ErrAbsent):
		return kv.Value{}, 0, nil
	case err != nil:
		return kv.Value{}, 0, unread(err)
	}
	e := r.entry(rec, at)
	return e.Value, e.Version, nil
}

// was is what a change asks of the revision.
func was(cond kv.Cond) engine.Revision {
	if !cond.Must {
		return engine.AnyRevision
	}
	return engine.Revision(cond.Was)
}

// life is a lifetime as the engine counts it: zero is for ever, as what is longer than the engine counts.
func (r *Remote) life(life kv.Life) time.Duration {
	if life <= 0 || time.Duration(life) > engine.MaxWait {
		return 0
	}
	return max(time.Duration(life), r.link.Limits.MinTTL)
}

// Put implements kv.Far.
func (r *Remote) Put(key string, cond kv.Cond, v kv.Value, life kv.Life) (uint64, error) {
	if life == kv.Keep && cond.Must && cond.Was != 0 {
		stored, version, err := r.Get(key)
		switch {
		case err != nil:
			return 0, err
		case version != cond.Was:
			return 0, kv.Conflict
		}
		life = value.Kept(stored, life)
	}
	name, err := r.name(key)
	if err != nil {
		return 0, err
	}
	data, err := r.data(key, v)
	if err != nil {
		return 0, err
	}
	revs, err := r.commit([]engine.Change{{Key: name, Was: was(cond), Value: data, TTL: r.life(life)}})
	if err != nil {
		return 0, err
	}
	return uint64(revs[0]), nil
}

// data is v as the engine keeps it.
func (r *Remote) data(key string, v kv.Value) ([]byte, error) {
	data, err := value.Data(key, v, r.codec)
	if err == nil && len(data) > r.link.Limits.MaxValue {
		return nil, failed(kv.Full, fmt.Errorf("%w: the value has %d bytes: must have at most %d at this engine", engine.ErrRefused,
			len(data), r.link.Limits.MaxValue))
	}
	return data, err
}

// Delete implements kv.Far.
func (r *Remote) Delete(key string, cond kv.Cond) error {
	name, err := r.name(key)
	switch {
	case err == nil:
		_, err = r.commit([]engine.Change{{Key: name, Was: was(cond), Erase: true}})
		return err
	case cond.Must && cond.Was != 0:
		return kv.Conflict
	}
	return nil // it cannot be there
}

// commit makes changes, of which there are some. A conflict about a revision that was there is for good, as none comes
// again; a key that was to be absent may be so again.
func (r *Remote) commit(changes []engine.Change) ([]engine.Revision, error) {
	final := true
	for _, c := range changes {
		final = final && c.Was != 0
	}
	revs, err := change(r, func(ctx context.Context, op engine.OpID) ([]engine.Revision, error) {
		revs, err := r.link.Store.Commit(ctx, op, changes...)
		if err == nil && !plausible(changes, revs) {
			err = lied("Commit with revisions that cannot be")
		}
		return revs, err
	}, func(err error) bool { return final && errors.Is(err, engine.ErrConflict) })
	return revs, ended(err)
}

// plausible reports whether changes may have led to revs.
func plausible(changes []engine.Change, revs []engine.Revision) bool {
	if len(revs) != len(changes) {
		return false
	}
	for i, c := range changes {
		switch rev := revs[i]; {
		case c.Check && rev != c.Was, c.Erase && rev != 0:
			return false
		case !c.Check && !c.Erase && (rev == 0 || rev == engine.AnyRevision || c.Was != engine.AnyRevision && rev <= c.Was):
			return false
		}
	}
	return true
}

// Add implements kv.Far.
func (r *Remote) Add(key string, delta kv.Value, life kv.Life) (sum, version uint64, err error) {
	if life != kv.Keep || !value.Countable(delta) {
		return 0, 0, kv.Swap
	}
	name, err := r.name(key)
	if err != nil {
		return 0, 0, err
	}
	d := int64(delta.Bits)
	if d == 0 { // the engine would change nothing
		return 0, 0, kv.Swap
	}
	total, err := change(r, func(ctx context.Context, op engine.OpID) (int64, error) {
		total, applied, err := r.link.Store.Add(ctx, op, name, d, nil, 0)
		if err == nil && applied != d {
			err = lied("Add with another sum")
		}
		return total, err
	}, func(error) bool { return false })
	switch {
	case err == nil:
		return uint64(total), 0, nil
	case errors.Is(err, engine.ErrRefused) && !errors.Is(err, engine.ErrFull) && !errors.Is(err, engine.ErrClosed):
		return 0, 0, kv.Swap // it is no number, or the sum is none: reading it says which
	}
	return 0, 0, ended(err)
}
