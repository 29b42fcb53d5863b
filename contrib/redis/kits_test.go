package sluiceredis_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// inTime says how late a server may be on a machine that has other things to do.
var inTime = sluicetest.Options{Tick: 200 * time.Millisecond, Slack: 120 * time.Millisecond}

// kits runs all that one engine must do, but what needs processes or records that end.
func kits(t *testing.T, c rueidis.Client, e *sluiceredis.Engine) {
	t.Run("kits", func(t *testing.T) {
		t.Run("quota", func(t *testing.T) {
			t.Parallel()
			sluicetest.Quota(t, e.Quota, inTime)
		})
		t.Run("slots", func(t *testing.T) {
			t.Parallel()
			sluicetest.Slots(t, e.Slots, inTime)
		})
		t.Run("publisher", func(t *testing.T) {
			t.Parallel()
			sluicetest.Publisher(t, func() (engine.Publisher, func() []engine.Event) {
				return e.Events(), func() []engine.Event { return published(t, c, e.Stream()) }
			}, inTime)
		})
	})
}

// agingKits are those in which records end, and the engine loses its data.
func agingKits(t *testing.T, e *sluiceredis.Engine, s sluicetest.Setup) {
	t.Run("store", func(t *testing.T) { sluicetest.Store(t, e.Store, inTime) })
	s.Open = func() engine.Engine { return e }
	t.Run("engine", func(t *testing.T) { sluicetest.Engine(t, s, inTime) })
}

// TestMini: with Go alone.
func TestMini(t *testing.T) {
	t.Parallel()
	_, c := mini(t)
	kits(t, c, open(t, sluiceredis.Config{Client: c, NoEviction: true}))
	m, c := aging(t)
	agingKits(t, open(t, sluiceredis.Config{Client: c, NoEviction: true, Prefix: "kit"}), sluicetest.Setup{
		Far: func(d time.Duration) engine.Engine {
			return open(t, sluiceredis.Config{Client: client(t, relay(t, m.Addr(), d)), NoEviction: true, Prefix: "kit"})
		},
		Lose: func() { m.FlushAll() },
	})
}

// TestServer: against a server, which loses what it knows by a restart.
func TestServer(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := client(t, s.addr)
	t.Logf("redis_version %s valkey_version %s", info(t, c, "server", "redis_version"), info(t, c, "server", "valkey_version"))
	e := open(t, sluiceredis.Config{Client: c, Prefix: "kit"})
	kits(t, c, e)
	agingKits(t, e, sluicetest.Setup{
		Far: func(d time.Duration) engine.Engine {
			return open(t, sluiceredis.Config{Client: client(t, relay(t, s.addr, d)), Prefix: "kit"})
		},
		Lose: func() {
			s.kill()
			s.run()
		},
		Cut: func() { cut(t, c) },
	})
}

// TestServerProcesses: four processes are as one.
func TestServerProcesses(t *testing.T) {
	addr := server(t)
	e := open(t, sluiceredis.Config{Client: client(t, addr), Prefix: "kit"})
	sluicetest.Processes(t, e.Quota, []string{addrEnv + "=" + addr}, sluicetest.Options{})
}

// TestMiniProcesses is TestServerProcesses with Go alone.
func TestMiniProcesses(t *testing.T) {
	addr := miniAddr(t)
	e, err := sluiceredis.New(context.Background(), sluiceredis.Config{Client: client(t, addr), NoEviction: true, Prefix: "kit"})
	require.NoError(t, err)
	defer e.Close()
	sluicetest.Processes(t, e.Quota, []string{"SLUICE_MINI=" + addr}, sluicetest.Options{})
}
