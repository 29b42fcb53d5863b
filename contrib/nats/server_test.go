package sluicenats_test

import (
	"context"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sluicenats "github.com/sluice-go/sluice/contrib/nats"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// child is a server in this process, on a port of its own, that ends and begins anew as a test
// wants.
type child struct {
	t    testing.TB
	opts server.Options
	s    *server.Server
}

func start(t testing.TB) *child {
	t.Helper()
	c := &child{t: t, opts: server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true}}
	c.run()
	t.Cleanup(c.kill)
	return c
}

func (c *child) run() {
	c.t.Helper()
	opts := c.opts
	s, err := server.NewServer(&opts)
	require.NoError(c.t, err)
	s.Start()
	require.True(c.t, s.ReadyForConnections(20*time.Second), "the server does not start")
	c.s, c.opts.Port = s, s.Addr().(*net.TCPAddr).Port
}

func (c *child) kill() {
	c.s.Shutdown()
	c.s.WaitForShutdown()
}

func (c *child) addr() string { return "127.0.0.1:" + strconv.Itoa(c.opts.Port) }

// connect is a connection that finds back soon.
func connect(t testing.TB, addr string, more ...nats.Option) *nats.Conn {
	t.Helper()
	u := url.URL{Scheme: "nats", Host: addr}
	options := append([]nats.Option{nats.ReconnectBufSize(-1), nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0), nats.MaxReconnects(-1), nats.IgnoreDiscoveredServers(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}, more...)
	conn, err := nats.Connect(u.String(), options...)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return conn
}

func jetStream(t testing.TB, conn *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	return js
}

// open is an engine on the server at addr.
func open(t testing.TB, addr string, c sluicenats.Config) *sluicenats.Engine {
	t.Helper()
	if c.JetStream == nil {
		c.JetStream = jetStream(t, connect(t, addr))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e, err := sluicenats.New(ctx, c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// published are the events that are stored, oldest first.
func published(t testing.TB, js jetstream.JetStream, stream string) []engine.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	info, err := c.Info(ctx)
	require.NoError(t, err)
	var list []engine.Event
	for left := int(info.NumPending); left > 0; {
		batch, err := c.Fetch(left, jetstream.FetchMaxWait(5*time.Second))
		require.NoError(t, err)
		for m := range batch.Messages() {
			left--
			list = append(list, event(t, m))
		}
	}
	return list
}

func event(t testing.TB, m jetstream.Msg) engine.Event {
	t.Helper()
	header := func(name string) string {
		s, err := url.PathUnescape(m.Headers().Get(name))
		require.NoError(t, err)
		return s
	}
	seq, err := strconv.ParseUint(header("Sluice-Seq"), 10, 32)
	require.NoError(t, err)
	at, err := time.Parse(time.RFC3339Nano, header("Sluice-At"))
	require.NoError(t, err)
	return engine.Event{ID: header("Nats-Msg-Id"), CallID: header("Sluice-Call"), Seq: uint32(seq), Type: header("Sluice-Type"), At: at, Payload: m.Data()}
}
