package sluiceredis_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// record is a T that keeps what a kit complains about.
type record struct {
	mu     sync.Mutex
	errors []string
}

func (r *record) Helper()             {}
func (r *record) Logf(string, ...any) {}
func (r *record) Errorf(f string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(f, args...))
}

func (r *record) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.errors
}

// TestKilled: of a server that is killed under load, and comes back with its data, nothing
// that was refused has taken effect, and nothing unsure twice; no call outlasts its context;
// the same engine goes on.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := start(t, "--appendonly", "yes", "--appendfsync", "always")
	e := open(t, sluiceredis.Config{Client: client(t, s.addr)})
	var done, refused, unsure, late atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				begin := time.Now()
				_, _, err := e.Store().Add(ctx, engine.NewOpID(), "n", 1, nil, 0)
				cancel()
				if time.Since(begin) > 3*time.Second { // a busy machine, but not the time that a connection may take
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
	for range 3 {
		time.Sleep(150 * time.Millisecond)
		s.kill()
		time.Sleep(150 * time.Millisecond)
		s.run()
	}
	time.Sleep(300 * time.Millisecond)
	close(stop)
	wg.Wait()
	var rec engine.Record
	require.Eventually(t, func() bool {
		var err error
		rec, err = e.Store().Read(t.Context(), "n")
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	var total int64
	_, err := fmt.Sscan(string(rec.Value), &total)
	require.NoError(t, err)
	t.Logf("%d took effect of %d done, %d unsure and %d refused", total, done.Load(), unsure.Load(), refused.Load())
	assert.GreaterOrEqual(t, total, done.Load())
	assert.LessOrEqual(t, total, done.Load()+unsure.Load())
	assert.Zero(t, late.Load())
	assert.Positive(t, refused.Load())
	assert.Positive(t, done.Load())
}

// cut ends every subscription of the server.
func cut(t *testing.T, c rueidis.Client) {
	t.Helper()
	require.NoError(t, c.Do(context.Background(), c.B().Arbitrary("CLIENT", "KILL", "TYPE", "pubsub").Build()).Error())
}

// TestFollowCut: whoever follows ends with what is there, however often it is cut off, and
// never hears of an older revision.
func TestFollowCut(t *testing.T) {
	t.Parallel()
	addr := server(t)
	c := client(t, addr)
	e := open(t, sluiceredis.Config{Client: c})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	seen, last, caught := map[string]string{}, map[string]engine.Revision{}, 0
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		for rec, err := range e.Store().Follow(ctx, "cut/") {
			if err != nil {
				return
			}
			mu.Lock()
			if rec.Caught {
				caught++
				mu.Unlock()
				continue
			}
			if rec.Rev < last[rec.Key] {
				t.Errorf("revision %d of %s after %d", rec.Rev, rec.Key, last[rec.Key])
			}
			last[rec.Key] = rec.Rev
			if seen[rec.Key] = string(rec.Value); rec.Gone {
				delete(seen, rec.Key)
			}
			mu.Unlock()
		}
	}()
	want := map[string]string{}
	for i := range 300 {
		key, value := fmt.Sprint("cut/", i%17), fmt.Sprint(i)
		if i%5 == 4 {
			err := e.Store().Erase(ctx, key, engine.AnyRevision)
			require.True(t, err == nil || errors.Is(err, engine.ErrAbsent), "%v", err)
			delete(want, key)
		} else {
			_, err := e.Store().Write(ctx, key, engine.AnyRevision, []byte(value), 0)
			require.NoError(t, err)
			want[key] = value
		}
		if i%60 == 30 {
			cut(t, c)
		}
		time.Sleep(time.Millisecond)
	}
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(seen) == fmt.Sprint(want)
	}, 10*time.Second, 5*time.Millisecond)
	cancel()
	<-followed
	assert.Greater(t, caught, 1, "it says again that it knows all, after it was cut off")
}

// TestIndexForgets: what has ended leaves the index, though nobody asks for it.
func TestIndexForgets(t *testing.T) {
	t.Parallel()
	c := client(t, server(t))
	e := open(t, sluiceredis.Config{Client: c, Prefix: "index-" + engine.NewOpID().String()})
	for i := range 300 {
		_, err := e.Store().Write(t.Context(), fmt.Sprint("brief/", i), 0, nil, 5*time.Millisecond)
		require.NoError(t, err)
	}
	time.Sleep(20 * time.Millisecond)
	for range 60 {
		_, err := e.Store().Write(t.Context(), "lasts", engine.AnyRevision, nil, 0)
		require.NoError(t, err)
	}
	index := "{" + e.Stream()[1:len(e.Stream())-1] + "i"
	n, err := c.Do(t.Context(), c.B().Zcard().Key(index).Build()).AsInt64()
	require.NoError(t, err)
	assert.Equal(t, int64(1), n, "keys in %s", index)
}

// TestAwayAcquire: who would wait for a slot of a server that is not there waits no longer
// than it said.
func TestAwayAcquire(t *testing.T) {
	t.Parallel()
	s := start(t)
	e := open(t, sluiceredis.Config{Client: client(t, s.addr)})
	s.kill()
	begin := time.Now()
	_, err := e.Slots().Acquire(t.Context(), engine.Claim{Key: "k", Holder: "h", Limit: 1, TTL: time.Minute, MaxWait: 100 * time.Millisecond})
	assert.ErrorIs(t, err, engine.ErrBusy)
	assert.Less(t, time.Since(begin), 5*time.Second)
	s.run()
	require.Eventually(t, func() bool {
		_, err := e.Slots().Acquire(t.Context(), engine.Claim{Key: "k", Holder: "h", Limit: 1, TTL: time.Minute, MaxWait: time.Second})
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
}

// TestSlotCut: a slot that is handed to a claim whose subscription was cut is found by it.
func TestSlotCut(t *testing.T) {
	t.Parallel()
	addr := server(t)
	c := client(t, addr)
	e := open(t, sluiceredis.Config{Client: c})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range 5 {
		key := fmt.Sprint("k", i)
		l, err := e.Slots().Acquire(ctx, engine.Claim{Key: key, Holder: "first", Limit: 1, TTL: time.Minute})
		require.NoError(t, err)
		got := make(chan error, 1)
		go func() {
			_, err := e.Slots().Acquire(ctx, engine.Claim{Key: key, Holder: "second", Limit: 1, TTL: time.Minute, MaxWait: 30 * time.Second})
			got <- err
		}()
		time.Sleep(30 * time.Millisecond)
		cut(t, c)
		require.NoError(t, e.Slots().Release(ctx, l))
		select {
		case err := <-got:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			t.Fatal("the slot was handed to nobody")
		}
	}
}

// TestCluster: three nodes. All keys of a prefix are on one of them, and different prefixes
// on different ones.
func TestCluster(t *testing.T) {
	t.Parallel()
	var addrs []string
	var nodes []rueidis.Client
	for i := range 3 {
		s := start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-config-file", fmt.Sprintf("nodes-%d.conf", i))
		addrs = append(addrs, s.addr)
		nodes = append(nodes, client(t, s.addr))
	}
	for i, n := range nodes {
		from, to := fmt.Sprint(i*5461+min(i, 1)), fmt.Sprint((i+1)*5461)
		if i == 2 {
			to = "16383"
		}
		require.NoError(t, n.Do(t.Context(), n.B().Arbitrary("CLUSTER", "ADDSLOTSRANGE", from, to).Build()).Error())
		host, port, _ := strings.Cut(addrs[0], ":")
		require.NoError(t, n.Do(t.Context(), n.B().Arbitrary("CLUSTER", "MEET", host, port).Build()).Error())
	}
	require.Eventually(t, func() bool {
		for _, n := range nodes {
			text, err := n.Do(t.Context(), n.B().ClusterInfo().Build()).ToString()
			if err != nil || !strings.Contains(text, "cluster_state:ok") || !strings.Contains(text, "cluster_known_nodes:3") {
				return false
			}
		}
		return true
	}, 30*time.Second, 50*time.Millisecond)
	var c rueidis.Client
	require.Eventually(t, func() bool {
		var err error
		c, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: addrs, DisableCache: true})
		return err == nil
	}, 10*time.Second, 100*time.Millisecond)
	defer c.Close()
	e := open(t, sluiceredis.Config{Client: c})
	t.Run("quota", func(t *testing.T) { sluicetest.Quota(t, e.Quota, inTime) })
	t.Run("store", func(t *testing.T) { sluicetest.Store(t, e.Store, inTime) })
	on := 0
	for i := range 20 {
		other := open(t, sluiceredis.Config{Client: c, Prefix: fmt.Sprint("prefix-", i)})
		_, err := other.Store().Write(t.Context(), "k", engine.AnyRevision, []byte("x"), 0)
		require.NoError(t, err)
		var held []engine.Lease
		for _, key := range []string{"s", "t"} {
			l, err := other.Slots().Acquire(t.Context(), engine.Claim{Key: key, Holder: "h", Limit: 1, TTL: time.Minute, MaxWait: time.Second})
			require.NoError(t, err)
			held = append(held, l)
		}
		held, err = other.Slots().Renew(t.Context(), time.Minute, held...)
		require.NoError(t, err)
		require.Equal(t, [2]int{1, 1}, [2]int{held[0].Units, held[1].Units})
		require.NoError(t, other.Slots().Release(t.Context(), held...))
		_, err = other.Store().Commit(t.Context(), engine.NewOpID(), engine.Change{Key: "a", Value: []byte("x")}, engine.Change{Key: "b", Value: []byte("x")})
		require.NoError(t, err)
		list, err := other.Store().Fetch(t.Context(), "a", "b", "k")
		require.NoError(t, err)
		require.Equal(t, "xxx", string(list[0].Value)+string(list[1].Value)+string(list[2].Value))
	}
	for _, n := range nodes {
		keys, err := n.Do(t.Context(), n.B().Dbsize().Build()).AsInt64()
		require.NoError(t, err)
		if keys > 0 {
			on++
		}
	}
	assert.Equal(t, 3, on, "nodes that have keys")

	require.NoError(t, nodes[1].Do(t.Context(), nodes[1].B().ConfigSet().ParameterValue().ParameterValue("maxmemory-policy", "volatile-lru").Build()).Error())
	_, err := sluiceredis.New(t.Context(), sluiceredis.Config{Client: c})
	assert.ErrorContains(t, err, `"volatile-lru": must be "noeviction"`, "every node is asked")
}

// TestSentinel: when the primary dies another server takes over, the engine goes on with it,
// and fences grow.
func TestSentinel(t *testing.T) {
	t.Parallel()
	primary := start(t)
	host, primaryPort, _ := strings.Cut(primary.addr, ":")
	replica := start(t, "--replicaof", host+" "+primaryPort)
	p := fmt.Sprint(port(t))
	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, `port %s
bind 127.0.0.1
dir %s
sentinel monitor fleet %s %s 1
sentinel down-after-milliseconds fleet 500
sentinel failover-timeout fleet 5000
`, p, dir, host, primaryPort), 0o600))
	watch := &child{t: t, path: program(t), addr: "127.0.0.1:" + p, args: []string{conf, "--sentinel"}}
	watch.run()
	t.Cleanup(watch.kill)
	sentinel := client(t, watch.addr)
	require.Eventually(t, func() bool { // it knows the replica, which has all that there is
		list, err := sentinel.Do(t.Context(), sentinel.B().Arbitrary("SENTINEL", "REPLICAS", "fleet").Build()).ToArray()
		return err == nil && len(list) == 1 && info(t, client(t, replica.addr), "replication", "master_link_status") == "up"
	}, 30*time.Second, 100*time.Millisecond)

	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{watch.addr}, Sentinel: rueidis.SentinelOption{MasterSet: "fleet"}, DisableCache: true})
	require.NoError(t, err)
	defer c.Close()
	e := open(t, sluiceredis.Config{Client: c})
	claim := engine.Claim{Key: "k", Holder: "a", Limit: 1, TTL: time.Millisecond}
	before, err := e.Slots().Acquire(t.Context(), claim)
	require.NoError(t, err)
	id, _, err := e.Epoch(t.Context())
	require.NoError(t, err)
	time.Sleep(300 * time.Millisecond) // what was written has come to the replica
	primary.kill()
	killed := time.Now()
	claim.Holder = "b"
	var after engine.Lease
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		after, err = e.Slots().Acquire(ctx, claim)
		return err == nil
	}, 60*time.Second, 50*time.Millisecond)
	t.Logf("another server had taken over after %v", time.Since(killed).Round(10*time.Millisecond))
	assert.Greater(t, after.Fence, before.Fence)
	same, _, err := e.Epoch(t.Context())
	require.NoError(t, err)
	assert.Equal(t, id, same, "nothing was lost")
}
