package sluiceredis_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// What the tests of real servers need: SLUICE_REDIS=host:port is a server that is there
// already, SLUICE_REDIS_BIN another program than redis-server, and SLUICE_ENGINES=1 demands
// the program instead of skipping what needs it.
const (
	addrEnv   = "SLUICE_REDIS"
	binEnv    = "SLUICE_REDIS_BIN"
	demandEnv = "SLUICE_ENGINES"
)

// program is the server's, or the test is skipped.
func program(t testing.TB) string {
	t.Helper()
	bin := os.Getenv(binEnv)
	if bin == "" {
		bin = "redis-server"
	}
	path, err := exec.LookPath(bin)
	switch {
	case err == nil:
	case os.Getenv(demandEnv) != "":
		t.Fatalf("%s demands a server: %v", demandEnv, err)
	default:
		t.Skipf("there is no %s: install one (apt-get install redis-server), or name another by %s or %s", bin, binEnv, addrEnv)
	}
	return path
}

// child is a server that a test has started, on a port of its own, and ends.
type child struct {
	t    testing.TB
	path string
	args []string
	addr string
	cmd  *exec.Cmd
}

// lastPort is the last that port gave. It begins at random, as other tests may run on this machine.
var lastPort atomic.Uint32

func init() { lastPort.Store(rand.Uint32N(10000)) }

// port is a free one that no other server of this test has had, below those that the system gives to connections: a server
// that was killed finds its port free again. A cluster's node needs the port 10,000 above, too.
func port(t testing.TB) int {
	t.Helper()
	for range 1000 {
		p := 12000 + int(lastPort.Add(1)%10000)
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", p)); err == nil {
			require.NoError(t, l.Close())
			return p
		}
	}
	t.Fatal("no free port")
	return 0
}

func start(t testing.TB, args ...string) *child {
	t.Helper()
	p := fmt.Sprint(port(t))
	c := &child{t: t, path: program(t), addr: "127.0.0.1:" + p}
	dir := t.TempDir()
	c.args = append([]string{"--port", p, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir, "--logfile", filepath.Join(dir, "log")}, args...)
	c.run()
	t.Cleanup(func() { c.kill() })
	return c
}

func (c *child) run() {
	c.t.Helper()
	c.cmd = exec.Command(c.path, c.args...)
	require.NoError(c.t, c.cmd.Start())
	for range 500 {
		conn, err := net.Dial("tcp", c.addr)
		if err == nil {
			_ = conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatalf("the server on %s did not come up", c.addr)
}

// kill ends the server at once, by its process.
func (c *child) kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.cmd = nil
	}
}

// server is the address of a server.
func server(t testing.TB) string {
	t.Helper()
	if addr := os.Getenv(addrEnv); addr != "" {
		return addr
	}
	return start(t).addr
}

func client(t testing.TB, addr ...string) rueidis.Client {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: addr, DisableCache: true, ForceSingleClient: len(addr) == 1})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// open is an engine, of its own keys if c names none.
func open(t testing.TB, c sluiceredis.Config) *sluiceredis.Engine {
	t.Helper()
	if c.Prefix == "" {
		c.Prefix = "test-" + engine.NewOpID().String()
	}
	e, err := sluiceredis.New(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// mini is a server inside the test. Nothing in it expires.
func mini(t testing.TB) (*miniredis.Miniredis, rueidis.Client) {
	t.Helper()
	m := miniredis.RunT(t)
	return m, client(t, m.Addr())
}

// aging is one in which what lives for a time ends: there it does so when it is told that
// time has passed. What was written in between ends that much too early.
func aging(t testing.TB) (*miniredis.Miniredis, rueidis.Client) {
	t.Helper()
	m, c := mini(t)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		last := time.Now()
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			select {
			case <-tick.C:
				step := min(time.Since(last), 20*time.Millisecond) // the rest a little later
				m.FastForward(step)
				last = last.Add(step)
			case <-quit:
				tick.Stop()
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(quit)
		<-done
	})
	return m, c
}

// miniAddr is that of a server inside the test, or inside the one that started this process.
func miniAddr(t testing.TB) string {
	t.Helper()
	if addr := os.Getenv("SLUICE_MINI"); addr != "" {
		return addr
	}
	m, _ := mini(t)
	return m.Addr()
}

// published reads the stream.
func published(t testing.TB, c rueidis.Client, key string) []engine.Event {
	t.Helper()
	out, err := c.Do(context.Background(), c.B().Xrange().Key(key).Start("-").End("+").Build()).AsXRange()
	require.NoError(t, err)
	var list []engine.Event
	for _, x := range out {
		f := x.FieldValues
		v := engine.Event{ID: f["id"], CallID: f["call"], Type: f["type"], Payload: []byte(f["payload"])}
		_, err := fmt.Sscan(f["seq"], &v.Seq)
		require.NoError(t, err)
		v.At, err = time.Parse(time.RFC3339Nano, f["at"])
		require.NoError(t, err)
		list = append(list, v)
	}
	return list
}

// info is a line of what the server says of itself.
func info(t testing.TB, c rueidis.Client, section, name string) string {
	t.Helper()
	text, err := c.Do(context.Background(), c.B().Info().Section(section).Build()).ToString()
	require.NoError(t, err)
	for line := range strings.SplitSeq(text, "\r\n") {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return v
		}
	}
	return ""
}
