// Demo replays the tool calls of an AI agent against a backend with limits, first as they
// come and then through Sluice, and shows the two runs side by side.
//
// The turns are in turns/*.json, in the form of the OpenAI chat-completions API: several
// tool calls in one assistant message, three priorities, four tenants of which one floods.
// The backend is an HTTP server on the loopback interface that enforces what hosted APIs
// enforce: a rate for each API key, a number of requests at once, and one endpoint that is
// broken for a while. Nothing leaves the machine.
//
//	go run ./examples/demo
//
// The exit code is 1 if the guarded run broke a promise. Read on in run.go for the guard,
// backend.go for the server, report.go for the figures.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
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
	fmt.Fprintf(term.w, `%d agent turns ask for %d tool calls: three priorities, four tenants, and hooli floods.
The backend on 127.0.0.1 takes %d requests/s for each of three API keys (burst %d) and %d at
once; %s is broken for its first %v.

`, len(turns), countCalls(turns), serverRate, serverBurst, serverSlots, brokenTool, brokenFor)

	fmt.Fprintln(term.w, term.paint(bold, "1. unguarded: each call runs as soon as the model asks for it"))
	without, err = on.run(ctx, term, turns, func(tools map[string]agentTool) (caller, closer, error) {
		return unguarded(tools), noCloser, nil
	})
	if err != nil {
		return without, with, err
	}

	fmt.Fprintln(term.w, term.paint(bold, "\n2. guarded: the same calls through Sluice"))
	var retried atomic.Int64
	with, err = on.run(ctx, term, turns, func(tools map[string]agentTool) (caller, closer, error) {
		exec, err := newGuard(tools, sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.ToolRetrying {
				retried.Add(1)
			}
			return nil
		}))
		if err != nil {
			return nil, nil, err
		}
		return guarded(exec), exec.Close, nil
	})
	with.retried = int(retried.Load())
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

type closer func(ctx context.Context) error

func noCloser(context.Context) error { return nil }

// run replays turns against a new backend, with the caller that build makes of its tools.
func (n network) run(ctx context.Context, term terminal, turns []turn, build func(tools map[string]agentTool) (caller, closer, error)) (column, error) {
	l, err := n.listen()
	if err != nil {
		return column{}, err
	}
	b := newBackend()
	defer b.start(l)()
	client := newClient(n.dial)
	defer client.CloseIdleConnections()

	tools := agentTools(client, "http://"+l.Addr().String())
	call, closeCaller, err := build(tools)
	if err != nil {
		return column{}, err
	}
	live := newProgress(term, countCalls(turns), b)
	answers, took := replay(ctx, turns, tools, live, call)
	live.Close()

	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := closeCaller(closing); err != nil {
		return column{}, err
	}
	return column{answers: answers, counts: b.Counts(), took: took}, context.Cause(ctx)
}
