package sluicenats_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sluicenats "github.com/sluice-go/sluice/contrib/nats"
	"github.com/sluice-go/sluice/engine"
)

// Two processes share a record and a meter; here they are two engines, and the server is inside
// the program.
func Example() {
	dir, err := os.MkdirTemp("", "sluice")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		panic(err)
	}
	s.Start()
	defer s.Shutdown()
	if !s.ReadyForConnections(20 * time.Second) {
		panic("the server does not start")
	}
	ctx := context.Background()
	process := func() (*sluicenats.Engine, func()) {
		conn, err := nats.Connect(s.ClientURL(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
		if err != nil {
			panic(err)
		}
		js, err := jetstream.New(conn)
		if err != nil {
			panic(err)
		}
		e, err := sluicenats.New(ctx, sluicenats.Config{JetStream: js, Bucket: "agents"})
		if err != nil {
			panic(err)
		}
		return e, func() { _ = e.Close(); conn.Close() }
	}
	one, closeOne := process()
	defer closeOne()
	two, closeTwo := process()
	defer closeTwo()

	rev, err := one.Store().Write(ctx, "mode", 0, []byte("dry run"), 0)
	fmt.Println(rev > 0, err)
	for rec, err := range two.Store().Follow(ctx, "") {
		fmt.Println(rec.Key, string(rec.Value), err)
		break
	}
	_, err = two.Store().Write(ctx, "mode", 0, []byte("real"), 0)
	fmt.Println(err)

	meter := engine.Meter{Key: "openai", N: 60, Per: time.Hour, Burst: 10}
	g, err := one.Quota().Take(ctx, engine.Draw{Meters: []engine.Meter{meter}, Min: 1, Max: 7})
	fmt.Println(g.Units, err)
	g, err = two.Quota().Take(ctx, engine.Draw{Meters: []engine.Meter{meter}, Min: 1, Max: 7})
	fmt.Println(g.Units, err)
	// Output:
	// true <nil>
	// mode dry run <nil>
	// engine: refused: the revision is not the current one: of "mode"
	// 7 <nil>
	// 3 <nil>
}
