// Demo replays the tool calls of an AI agent against a backend with limits, first as they
// come and then through Sluice, and shows the two runs side by side.
//
// The turns are in turns/*.json: several tool calls in each answer of a model, three
// priorities, four tenants of which one floods. Each tenant has another provider, and its
// file the bodies of that one's responses: package agent reads them, and renders what goes
// back to the model. The backend is an HTTP server on the loopback interface that enforces
// what hosted APIs enforce: a rate for each API key, a number of requests at once, and one
// endpoint that is broken for a while. Nothing leaves the machine.
//
//	go run ./examples/demo
//
// The exit code is 1 if the guarded run broke a promise. Read on in run.go for the guard,
// backend.go for the server, report.go for the figures.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if _, _, err := demo(ctx, detectTerminal(os.Stdout), loopback); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo tells the whole story on term and returns the two runs. Its error says which
// promises the guarded run broke.
func demo(ctx context.Context, term terminal, on network) (without, with column, err error) {
	turns, err := loadTurns(turnFiles)
	if err != nil {
		return without, with, err
	}
	fmt.Fprintf(term.w, `%d agent turns ask for %d tool calls, in the formats of four providers: three
priorities, four tenants, and hooli floods. The backend on 127.0.0.1 takes %d requests/s
for each of three API keys (burst %d) and %d at once; %s is broken for its
first %v.

`, len(turns), countCalls(turns), serverRate, serverBurst, serverSlots, brokenTool, brokenFor)

	fmt.Fprintln(term.w, term.paint(bold, "1. unguarded: each call runs as soon as the model asks for it"))
	without, err = on.run(ctx, term, turns, unguarded)
	if err != nil {
		return without, with, err
	}

	fmt.Fprintln(term.w, term.paint(bold, "\n2. guarded: the same calls through Sluice"))
	with, err = on.run(ctx, term, turns, guarded)
	if err != nil {
		return without, with, err
	}

	fmt.Fprintln(term.w)
	printTable(term, without, with)
	if broken := with.brokenPromises(); len(broken) > 0 {
		return without, with, fmt.Errorf("the guarded run broke a promise: %s", strings.Join(broken, "; "))
	}
	return without, with, nil
}

// network is where server and client meet.
type network struct {
	listen func() (net.Listener, error)
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
}

var loopback = network{
	listen: func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
	dial:   new(net.Dialer).DialContext,
}

// run replays turns against a new backend, by what build makes of its tools.
func (n network) run(ctx context.Context, term terminal, turns []turn, build builder) (column, error) {
	l, err := n.listen()
	if err != nil {
		return column{}, err
	}
	b := newBackend()
	defer b.start(l)()
	client := newClient(n.dial)
	defer client.CloseIdleConnections()

	live := newProgress(term, countCalls(turns), b)
	defer live.Close()
	tools := live.watch(agentTools(client, "http://"+l.Addr().String()))
	var retried atomic.Int64
	makeCalls, closeExecutor := build(tools, &retried)
	answers, took, err := replay(ctx, turns, tools, live, makeCalls)

	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = errors.Join(err, closeExecutor(closing), context.Cause(ctx))
	return column{answers: answers, counts: b.Counts(), took: took, retried: int(retried.Load())}, err
}
