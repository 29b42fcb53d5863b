// Package office is what the demo runs: an office agent with seven tools, its turns, the backend, the guard and
// the figures. Package main around it only starts it.
package office

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
)

// Demo tells the whole story on f, and draws it into the file svg, if that has a name. Its error says which promises
// the guarded run broke.
func Demo(ctx context.Context, f *os.File, svg string) error {
	without, with, err := demo(ctx, detectTerminal(f), loopback)
	if err != nil || svg == "" {
		return err
	}
	return os.WriteFile(svg, []byte(picture(without, with)), 0o644)
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

// Observer sees a guarded run. Each may be nil.
type Observer struct {
	Interceptor sluice.Interceptor // is listed first: it sees calls as they come
	Inner       sluice.Interceptor // is listed last: it sees calls that have been admitted
	Sink        sluice.EventSink
	Watch       func(*sluice.Executor) // is called before the first call

	listed []sluice.Interceptor // set before Watch is called
}

// Observed makes the guarded run alone, in memory and without a word, for tests: in a synctest bubble
// its seconds pass in no time. It returns how many calls were made and how many of them failed.
func Observed(ctx context.Context, o Observer) (calls, failed int, err error) {
	turns, err := loadTurns(turnFiles)
	if err != nil {
		return 0, 0, err
	}
	with, err := pipes().run(ctx, terminal{w: io.Discard}, turns, guardedSeenBy(&o))
	return len(with.answers), len(with.answers) - with.succeeded(), err
}

// run replays turns against a new backend, by what build makes of its tools.
func (n network) run(ctx context.Context, term terminal, turns []turn, build builder) (column, error) {
	return n.rounds(ctx, term, turns, build, 1)
}

// rounds is run with many replays, one after the other, or until ctx ends. It returns the column of the last.
func (n network) rounds(ctx context.Context, term terminal, turns []turn, build builder, many int) (column, error) {
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
	for round := 1; round < many && err == nil && ctx.Err() == nil; round++ {
		b.breaks()
		answers, took, err = replay(ctx, turns, tools, live, makeCalls)
	}

	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = errors.Join(err, closeExecutor(closing), context.Cause(ctx))
	return column{answers: answers, counts: b.Counts(), took: took, retried: int(retried.Load())}, err
}
