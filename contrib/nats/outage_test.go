package sluicenats_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sluicenats "github.com/sluice-go/sluice/contrib/nats"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func bg(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func slow(burst int64) engine.Meter {
	return engine.Meter{Key: engine.NewOpID().String(), N: 1, Per: 24 * time.Hour, Burst: burst}
}

func left(t testing.TB, e *sluicenats.Engine, m engine.Meter) int64 {
	t.Helper()
	g, err := e.Quota().Take(bg(t), engine.Draw{Meters: []engine.Meter{m}, Max: 1000})
	require.NoError(t, err)
	return g.Units
}

// TestLostAnswer: whatever changes something, whose answer does not come in time, says that it is
// unsure, and takes effect once however often it is repeated in its name.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	s := start(t)
	near := open(t, s.addr(), sluicenats.Config{Memory: true})
	const way = 60 * time.Millisecond
	far := open(t, relay(t, s.addr(), way), sluicenats.Config{Memory: true})
	js := jetStream(t, connect(t, s.addr()))
	for _, one := range []struct {
		name  string
		trips int // ways until it takes effect
		op    func() (do func(context.Context) error, once func(t *testing.T))
	}{
		{"Take", 3, func() (func(context.Context) error, func(*testing.T)) {
			m, op := slow(10), engine.NewOpID()
			return func(ctx context.Context) error {
				g, err := far.Quota().Take(ctx, engine.Draw{Op: op, Meters: []engine.Meter{m}, Min: 3})
				if err == nil && g.Units != 3 {
					err = fmt.Errorf("%d units", g.Units)
				}
				return err
			}, func(t *testing.T) { require.Equal(t, int64(7), left(t, near, m)) }
		}},
		{"Settle", 3, func() (func(context.Context) error, func(*testing.T)) {
			m, op := slow(10), engine.NewOpID()
			return func(ctx context.Context) error {
				return far.Quota().Settle(ctx, op, []engine.Correction{{Meter: m, Delta: 4}})
			}, func(t *testing.T) { require.Equal(t, int64(6), left(t, near, m)) }
		}},
		{"Add", 3, func() (func(context.Context) error, func(*testing.T)) {
			key, op := engine.NewOpID().String(), engine.NewOpID()
			return func(ctx context.Context) error {
				_, _, err := far.Store().Add(ctx, op, key, 5, nil, 0)
				return err
			}, func(t *testing.T) { require.Equal(t, "5", value(t, near, key)) }
		}},
		{"Commit", 3, func() (func(context.Context) error, func(*testing.T)) {
			key, op := engine.NewOpID().String(), engine.NewOpID()
			rev, err := near.Store().Write(bg(t), key, 0, []byte("before"), 0)
			require.NoError(t, err)
			return func(ctx context.Context) error {
				_, err := far.Store().Commit(ctx, op, engine.Change{Key: key, Was: rev, Value: []byte("after")}, engine.Change{Key: key + "b", Value: []byte("x")})
				return err
			}, func(t *testing.T) { require.Equal(t, "after", value(t, near, key)) }
		}},
		{"Acquire", 3, func() (func(context.Context) error, func(*testing.T)) {
			c := engine.Claim{Key: engine.NewOpID().String(), Holder: "me", Limit: 1, TTL: time.Hour}
			return func(ctx context.Context) error {
					_, err := far.Slots().Acquire(ctx, c)
					return err
				}, func(t *testing.T) {
					c.Holder = "other"
					_, err := near.Slots().Acquire(bg(t), c)
					require.ErrorIs(t, err, engine.ErrBusy)
				}
		}},
		{"Publish", 1, func() (func(context.Context) error, func(*testing.T)) {
			id := engine.NewOpID().String()
			list := []engine.Event{{ID: id + ".1", CallID: id, Seq: 1}, {ID: id + ".2", CallID: id, Seq: 2}}
			return func(ctx context.Context) error {
					_, err := far.Events().Publish(ctx, list)
					return err
				}, func(t *testing.T) {
					var ids []string
					for _, v := range published(t, js, near.Stream()) {
						if v.CallID == id {
							ids = append(ids, v.ID)
						}
					}
					require.Equal(t, []string{id + ".1", id + ".2"}, ids)
				}
		}},
	} {
		t.Run(one.name, func(t *testing.T) {
			unsure := 0
			for range 20 { // a busy machine may be late
				_, _, err := far.Epoch(bg(t)) // it knows the server's time
				require.NoError(t, err)
				do, once := one.op()
				ctx, cancel := context.WithTimeout(bg(t), time.Duration(one.trips)*way+way/2)
				err = do(ctx)
				cancel()
				require.Error(t, err)
				if !errors.Is(err, engine.ErrRefused) {
					require.ErrorIs(t, err, engine.ErrUnsure)
					unsure++
				}
				require.NoError(t, do(bg(t)))
				require.NoError(t, do(bg(t)))
				once(t)
				if unsure == 2 {
					return
				}
			}
			require.Positive(t, unsure)
		})
	}
}

func value(t testing.TB, e *sluicenats.Engine, key string) string {
	t.Helper()
	rec, err := e.Store().Read(bg(t), key)
	require.NoError(t, err)
	return string(rec.Value)
}

// TestStalled: of a server that has stopped no call outlasts its context, and whatever it does
// when it goes on takes effect once.
func TestStalled(t *testing.T) {
	t.Parallel()
	s := start(t)
	near := open(t, s.addr(), sluicenats.Config{Memory: true})
	l := newLink(t, s.addr())
	e := open(t, l.addr(), sluicenats.Config{Memory: true})
	m := slow(100)
	require.Equal(t, int64(100), left(t, e, m)) // it knows the server's time
	m = slow(100)
	var draws []engine.Draw
	for range 10 {
		draws = append(draws, engine.Draw{Op: engine.NewOpID(), Meters: []engine.Meter{m}, Min: 2})
	}
	l.held.Store(true)
	begin := time.Now()
	var wg sync.WaitGroup
	for _, d := range draws {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			_, err := e.Quota().Take(ctx, d)
			assert.Error(t, err)
		})
	}
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := e.Slots().Acquire(ctx, engine.Claim{Key: "k", Holder: "h", Limit: 1, TTL: time.Minute, MaxWait: time.Hour})
		assert.Error(t, err)
	})
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		for _, err := range e.Store().Follow(ctx, "") {
			assert.Error(t, err)
		}
	})
	wg.Wait()
	assert.Less(t, time.Since(begin), 4*time.Second)
	l.held.Store(false)
	for _, d := range draws {
		g, err := e.Quota().Take(bg(t), d)
		require.NoError(t, err)
		require.Equal(t, int64(2), g.Units)
	}
	require.Equal(t, int64(80), left(t, near, m), "each took effect once")
	_, err := near.Slots().Acquire(bg(t), engine.Claim{Key: "k", Holder: "other", Limit: 1, TTL: time.Minute, MaxWait: 10 * time.Second})
	require.NoError(t, err, "who has left holds nothing")
}

// adds has eight clients add 1 under names until stop, each once, and returns what they were
// told.
func adds(t *testing.T, e *sluicenats.Engine, stop <-chan struct{}) (done, refused, unsure, late *atomic.Int64, wait func()) {
	done, refused, unsure, late = new(atomic.Int64), new(atomic.Int64), new(atomic.Int64), new(atomic.Int64)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
				begin := time.Now()
				_, _, err := e.Store().Add(ctx, engine.NewOpID(), "n", 1, nil, 0)
				cancel()
				if time.Since(begin) > 3*time.Second { // a busy machine
					late.Add(1)
				}
				switch {
				case err == nil:
					done.Add(1)
				case errors.Is(err, engine.ErrRefused):
					refused.Add(1)
					time.Sleep(time.Millisecond)
				default:
					unsure.Add(1)
				}
			}
		})
	}
	return done, refused, unsure, late, wg.Wait
}

// counted is what was added in the end.
func counted(t *testing.T, e *sluicenats.Engine) (total int64) {
	t.Helper()
	var rec engine.Record
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var err error
		rec, err = e.Store().Read(ctx, "n")
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
	_, err := fmt.Sscan(string(rec.Value), &total)
	require.NoError(t, err)
	return total
}

// TestRestarted: of a server that ends under load, and comes back with its data, nothing that was
// refused has taken effect, and nothing unsure twice; no call outlasts its context; the same
// engine goes on.
func TestRestarted(t *testing.T) {
	t.Parallel()
	s := start(t)
	e := open(t, s.addr(), sluicenats.Config{})
	stop := make(chan struct{})
	done, refused, unsure, late, wait := adds(t, e, stop)
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		s.kill()
		time.Sleep(100 * time.Millisecond)
		s.run()
	}
	was := done.Load()
	require.Eventually(t, func() bool { return done.Load() > was+10 }, 20*time.Second, 10*time.Millisecond, "it goes on")
	close(stop)
	wait()
	total := counted(t, e)
	t.Logf("%d took effect of %d done, %d unsure and %d refused", total, done.Load(), unsure.Load(), refused.Load())
	assert.GreaterOrEqual(t, total, done.Load())
	assert.LessOrEqual(t, total, done.Load()+unsure.Load())
	assert.Zero(t, late.Load())
	assert.Positive(t, refused.Load())
}

// TestSurvives: a server that begins anew with its files knows all that it had acknowledged.
func TestSurvives(t *testing.T) {
	t.Parallel()
	s := start(t)
	e := open(t, s.addr(), sluicenats.Config{})
	require.True(t, e.Promises().Has(engine.Survives))
	id, _, err := e.Epoch(bg(t))
	require.NoError(t, err)
	rev, err := e.Store().Write(bg(t), "key", 0, []byte("x"), 0)
	require.NoError(t, err)
	lease, err := e.Slots().Acquire(bg(t), engine.Claim{Key: "k", Holder: "h", Limit: 1, TTL: time.Hour})
	require.NoError(t, err)
	m := slow(10)
	d := engine.Draw{Op: engine.NewOpID(), Meters: []engine.Meter{m}, Min: 4}
	_, err = e.Quota().Take(bg(t), d)
	require.NoError(t, err)
	list := []engine.Event{{ID: "1", CallID: "c", Seq: 1}}
	_, err = e.Events().Publish(bg(t), list)
	require.NoError(t, err)
	s.kill()
	s.run()
	require.Eventually(t, func() bool {
		same, _, err := e.Epoch(bg(t))
		return err == nil && same == id
	}, 20*time.Second, 10*time.Millisecond)
	rec, err := e.Store().Read(bg(t), "key")
	require.NoError(t, err)
	require.Equal(t, rev, rec.Rev)
	renewed, err := e.Slots().Renew(bg(t), time.Hour, lease)
	require.NoError(t, err)
	require.Equal(t, 1, renewed[0].Units)
	_, err = e.Slots().Acquire(bg(t), engine.Claim{Key: "k", Holder: "other", Limit: 1, TTL: time.Hour})
	require.ErrorIs(t, err, engine.ErrBusy)
	g, err := e.Quota().Take(bg(t), d)
	require.NoError(t, err)
	require.Equal(t, int64(4), g.Units)
	require.Equal(t, int64(6), left(t, e, m))
	_, err = e.Events().Publish(bg(t), list)
	require.NoError(t, err)
	require.Len(t, published(t, jetStream(t, connect(t, s.addr())), e.Stream()), 1)
}

// TestPurged: somebody purges the bucket, or deletes it, while all are connected. The engine has
// another epoch, gives nothing that may still be held, and whoever follows learns what is gone.
func TestPurged(t *testing.T) {
	t.Parallel()
	s := start(t)
	e, js := open(t, s.addr(), sluicenats.Config{Memory: true}), jetStream(t, connect(t, s.addr()))
	for _, how := range []string{"purge", "delete"} {
		t.Run(how, func(t *testing.T) {
			id, _, err := e.Epoch(bg(t))
			require.NoError(t, err)
			cold := engine.Claim{Key: how, Holder: "h", Limit: 1, TTL: time.Minute, Cold: true}
			_, err = e.Slots().Acquire(bg(t), cold)
			require.ErrorIs(t, err, engine.ErrBusy)
			cold.TTL = 10 * time.Millisecond
			lease, err := e.Slots().Acquire(bg(t), engine.Claim{Key: how, Holder: "h", Limit: 1, TTL: time.Minute})
			require.NoError(t, err)
			rev, err := e.Store().Write(bg(t), "gone", engine.AnyRevision, nil, 0)
			require.NoError(t, err)
			told := follow(t, e, "")
			require.Eventually(t, func() bool { return told.has("gone") }, 10*time.Second, time.Millisecond)
			if how == "purge" {
				stream, err := js.Stream(bg(t), "KV_sluice")
				require.NoError(t, err)
				require.NoError(t, stream.Purge(bg(t)))
			} else {
				require.NoError(t, js.DeleteStream(bg(t), "KV_sluice"))
			}
			begin := time.Now()
			next, age, err := e.Epoch(bg(t))
			require.NoError(t, err)
			require.NotEqual(t, id, next)
			require.LessOrEqual(t, age, time.Since(begin))
			require.Eventually(t, func() bool { return !told.has("gone") }, 20*time.Second, 10*time.Millisecond)
			cold.TTL, cold.Holder = time.Minute, "other"
			_, err = e.Slots().Acquire(bg(t), cold)
			require.ErrorIs(t, err, engine.ErrBusy, "nobody knows who holds what")
			renewed, err := e.Slots().Renew(bg(t), time.Minute, lease)
			require.NoError(t, err)
			require.Equal(t, 1, renewed[0].Units, "the holder says so")
			again, err := e.Store().Write(bg(t), "gone", 0, nil, 0)
			require.NoError(t, err)
			require.Greater(t, again, rev)
			require.NoError(t, e.Store().Erase(bg(t), "gone", again))
			n, err := e.Events().Publish(bg(t), []engine.Event{{ID: how}})
			require.NoError(t, err)
			require.Equal(t, 1, n)
		})
	}
}

// told is what a Follow under way has told.
type told struct {
	mu     sync.Mutex
	seen   map[string]string
	caught int
}

func (f *told) has(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.seen[key]
	return ok
}

// follow keeps what is there under prefix, and fails if it hears of an older revision.
func follow(t *testing.T, e *sluicenats.Engine, prefix string) *told {
	t.Helper()
	f := &told{seen: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	followed := make(chan struct{})
	last := map[string]engine.Revision{}
	go func() {
		defer close(followed)
		for rec, err := range e.Store().Follow(ctx, prefix) {
			if err != nil {
				return
			}
			f.mu.Lock()
			switch {
			case rec.Caught:
				f.caught++
			case rec.Rev < last[rec.Key] || rec.Rev == last[rec.Key] && !rec.Gone:
				t.Errorf("revision %d of %s after %d", rec.Rev, rec.Key, last[rec.Key])
			case rec.Gone:
				last[rec.Key] = rec.Rev
				delete(f.seen, rec.Key)
			default:
				last[rec.Key], f.seen[rec.Key] = rec.Rev, string(rec.Value)
			}
			f.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-followed })
	return f
}

// TestFollowCut: whoever follows ends with what is there, however often it is cut off while
// others write, and never hears of an older revision.
func TestFollowCut(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s := start(t)
	near := open(t, s.addr(), sluicenats.Config{Memory: true})
	l := newLink(t, s.addr())
	f := follow(t, open(t, l.addr(), sluicenats.Config{Memory: true}), "cut/")
	want := map[string]string{}
	for i := range 300 {
		key, text := fmt.Sprint("cut/", rnd.IntN(17)), fmt.Sprint(i)
		if rnd.IntN(4) == 0 {
			err := near.Store().Erase(bg(t), key, engine.AnyRevision)
			require.True(t, err == nil || errors.Is(err, engine.ErrAbsent), "%v", err)
			delete(want, key)
		} else {
			_, err := near.Store().Write(bg(t), key, engine.AnyRevision, []byte(text), 0)
			require.NoError(t, err)
			want[key] = text
		}
		switch i % 50 {
		case 20:
			l.set(true)
		case 30:
			l.set(false)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(3 * time.Millisecond))))
	}
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return fmt.Sprint(f.seen) == fmt.Sprint(want)
	}, 20*time.Second, 5*time.Millisecond, "seed %d: want %v", seed, want)
	f.mu.Lock()
	defer f.mu.Unlock()
	assert.Greater(t, f.caught, 1, "it says again that it knows all, after it was cut off")
}

// TestAway: a server that is not there refuses at once, and who would wait for a slot of it waits
// no longer than it said.
func TestAway(t *testing.T) {
	t.Parallel()
	s := start(t)
	e := open(t, s.addr(), sluicenats.Config{})
	s.kill()
	begin := time.Now()
	_, err := e.Store().Write(bg(t), "k", 0, nil, 0)
	assert.ErrorIs(t, err, engine.ErrRefused)
	_, err = e.Quota().Take(bg(t), engine.Draw{Meters: []engine.Meter{slow(1)}})
	assert.ErrorIs(t, err, engine.ErrRefused)
	n, err := e.Events().Publish(bg(t), []engine.Event{{ID: "1"}, {ID: "2"}})
	assert.Zero(t, n)
	assert.ErrorIs(t, err, engine.ErrRefused)
	claim := engine.Claim{Key: "k", Holder: "h", Limit: 1, TTL: time.Minute, MaxWait: 100 * time.Millisecond}
	_, err = e.Slots().Acquire(bg(t), claim)
	assert.Error(t, err)
	assert.Less(t, time.Since(begin), 4*time.Second)
	s.run()
	require.Eventually(t, func() bool {
		claim.MaxWait = time.Second
		_, err := e.Slots().Acquire(bg(t), claim)
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
	_, err = e.Store().Read(bg(t), "k")
	assert.ErrorIs(t, err, engine.ErrAbsent, "what was refused never comes")
	require.NoError(t, e.Close())
	_, err = e.Store().Read(bg(t), "k")
	assert.ErrorIs(t, err, engine.ErrClosed)
}
