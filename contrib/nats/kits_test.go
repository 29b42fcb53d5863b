package sluicenats_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	sluicenats "github.com/sluice-go/sluice/contrib/nats"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// TestMain lets more tests be at once than there are processors: they wait, mostly.
func TestMain(m *testing.M) {
	flag.Parse()
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		_ = p.Value.Set("4")
	}
	os.Exit(m.Run())
}

// inTime says how late a server may be on a machine that has other things to do.
var inTime = sluicetest.Options{Tick: 200 * time.Millisecond, Slack: 120 * time.Millisecond}

// TestPublisher: what is stored is in a stream that others consume.
func TestPublisher(t *testing.T) {
	t.Parallel()
	js := jetStream(t, connect(t, start(t).addr()))
	e := open(t, "", sluicenats.Config{JetStream: js, Bucket: "kit"})
	sluicetest.Publisher(t, func() (engine.Publisher, func() []engine.Event) {
		return e.Events(), func() []engine.Event { return published(t, js, e.Stream()) }
	}, inTime)
}

// TestEngine: what an engine must do that is far away, that loses its data, as one in memory does
// when its server begins anew, and that is cut off.
func TestEngine(t *testing.T) {
	t.Parallel()
	s := start(t)
	l := newLink(t, s.addr())
	conn := connect(t, l.addr())
	e := open(t, "", sluicenats.Config{JetStream: jetStream(t, conn), Bucket: "kit", Memory: true})
	sluicetest.Engine(t, sluicetest.Setup{
		Open: func() engine.Engine { return e },
		Far: func(d time.Duration) engine.Engine {
			return open(t, relay(t, s.addr(), d), sluicenats.Config{Bucket: "kit", Memory: true})
		},
		Lose: func() {
			s.kill()
			s.run()
		},
		Cut: func() { cut(t, conn, l) },
	}, inTime)
}

// cut cuts the connection, and waits until it is back: what came meanwhile it was not told.
func cut(t *testing.T, conn *nats.Conn, l *link) {
	t.Helper()
	before := conn.Stats().Reconnects
	l.set(true)
	require.Eventually(t, func() bool { return !conn.IsConnected() }, 10*time.Second, time.Millisecond)
	l.set(false)
	require.Eventually(t, func() bool { return conn.Stats().Reconnects > before && conn.IsConnected() }, 10*time.Second, time.Millisecond)
}

// TestProcesses: four processes are as one.
func TestProcesses(t *testing.T) {
	t.Parallel()
	addr := os.Getenv(addrEnv)
	if addr == "" {
		addr = start(t).addr()
	}
	e := open(t, addr, sluicenats.Config{Bucket: "kit", Memory: true})
	sluicetest.Processes(t, e.Quota, []string{addrEnv + "=" + addr}, sluicetest.Options{})
}

// addrEnv tells a process where the server is.
const addrEnv = "SLUICE_NATS"
