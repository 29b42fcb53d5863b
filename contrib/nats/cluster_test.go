package sluicenats_test

import (
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	sluicenats "github.com/sluice-go/sluice/contrib/nats"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cluster is three servers.
func cluster(t *testing.T) []*child {
	t.Helper()
	var ports []int
	var routes []*url.URL
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		require.NoError(t, l.Close())
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
	}
	var list []*child
	for i := range ports {
		c := &child{t: t, opts: server.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "fleet", Host: "127.0.0.1", Port: ports[i]}, Routes: routes,
		}}
		s, err := server.NewServer(&c.opts)
		require.NoError(t, err)
		s.Start()
		c.s = s
		list = append(list, c)
		t.Cleanup(c.kill)
	}
	for _, c := range list {
		require.True(t, c.s.ReadyForConnections(20*time.Second))
		c.opts.Port = c.s.Addr().(*net.TCPAddr).Port
	}
	require.Eventually(t, func() bool {
		for _, c := range list {
			if c.s.JetStreamIsLeader() {
				return len(c.s.JetStreamClusterPeers()) == 3
			}
		}
		return false
	}, 30*time.Second, 20*time.Millisecond)
	return list
}

// TestLeader: the bucket's leader steps down, and then is killed, under load. Nothing that was
// acknowledged is lost, nothing that was refused takes effect, leases and fences go on, and
// whoever follows ends with what is there.
func TestLeader(t *testing.T) {
	t.Parallel()
	servers := cluster(t)
	var all []string
	for _, c := range servers {
		all = append(all, "nats://"+c.addr())
	}
	conn := connect(t, servers[0].addr(), func(o *nats.Options) error { o.Servers = all; return nil })
	js := jetStream(t, conn)
	e := open(t, "", sluicenats.Config{JetStream: js, Replicas: 3})
	before, err := e.Slots().Acquire(bg(t), engine.Claim{Key: "k", Holder: "h", Limit: 2, TTL: time.Hour})
	require.NoError(t, err)
	id, _, err := e.Epoch(bg(t))
	require.NoError(t, err)
	f := follow(t, e, "")
	stop := make(chan struct{})
	done, refused, unsure, _, wait := adds(t, e, stop)
	goesOn := func() {
		was := done.Load()
		require.Eventually(t, func() bool { return done.Load() > was+20 }, 30*time.Second, 10*time.Millisecond, "it goes on")
	}
	goesOn()
	_, err = conn.Request("$JS.API.STREAM.LEADER.STEPDOWN.KV_sluice", nil, 5*time.Second)
	require.NoError(t, err)
	goesOn()
	stream, err := js.Stream(bg(t), "KV_sluice")
	require.NoError(t, err)
	killed := 0
	for _, c := range servers {
		if c.opts.ServerName == stream.CachedInfo().Cluster.Leader {
			c.kill()
			killed++
		}
	}
	require.Equal(t, 1, killed)
	goesOn()
	close(stop)
	wait()
	total := counted(t, e)
	t.Logf("%d took effect of %d done, %d unsure and %d refused", total, done.Load(), unsure.Load(), refused.Load())
	assert.GreaterOrEqual(t, total, done.Load())
	assert.LessOrEqual(t, total, done.Load()+unsure.Load())
	after, err := e.Slots().Acquire(bg(t), engine.Claim{Key: "k", Holder: "other", Limit: 2, TTL: time.Hour, MaxWait: 10 * time.Second})
	require.NoError(t, err)
	assert.Greater(t, after.Fence, before.Fence)
	_, err = e.Slots().Acquire(bg(t), engine.Claim{Key: "k", Holder: "third", Limit: 2, TTL: time.Hour})
	assert.ErrorIs(t, err, engine.ErrBusy)
	same, _, err := e.Epoch(bg(t))
	require.NoError(t, err)
	assert.Equal(t, id, same, "nothing was lost")
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.seen["n"] == fmt.Sprint(total)
	}, 30*time.Second, 10*time.Millisecond)
}
