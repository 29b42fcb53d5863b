package office

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// terminal says how w can be written to.
type terminal struct {
	w     io.Writer
	live  bool // a line can be written over
	color bool
}

// detectTerminal looks at f and the environment: see https://no-color.org.
func detectTerminal(f *os.File) terminal {
	info, err := f.Stat()
	live := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return terminal{w: f, live: live, color: live && os.Getenv("NO_COLOR") == ""}
}

func (t terminal) paint(code, text string) string {
	if !t.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

const (
	bold  = "1"
	red   = "31"
	green = "32"
)

// progress shows one replay while it runs: a line that is written over ten times a second
// on a terminal, and a plain line a second elsewhere.
type progress struct {
	term    terminal
	total   int
	backend *backend
	start   time.Time
	stop    chan struct{}
	stopped chan struct{}

	unstarted, running, done, succeeded atomic.Int64
}

func newProgress(term terminal, total int, b *backend) *progress {
	p := &progress{
		term: term, total: total, backend: b, start: time.Now(),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go p.loop()
	return p
}

func (p *progress) arrived(n int) { p.unstarted.Add(int64(n)) }
func (p *progress) began()        { p.unstarted.Add(-1); p.running.Add(1) }

func (p *progress) ended(ran bool, err error) {
	if ran {
		p.running.Add(-1)
	} else {
		p.unstarted.Add(-1)
	}
	if err == nil {
		p.succeeded.Add(1)
	}
	p.done.Add(1)
}

// watch returns tools whose code tells p when it begins and ends.
func (p *progress) watch(tools map[string]agentTool) map[string]agentTool {
	watched := make(map[string]agentTool, len(tools))
	for name, t := range tools {
		watched[name] = agentTool{t.spec, func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
			p.began()
			out, err := t.run(ctx, args)
			p.ended(true, err)
			return out, err
		}}
	}
	return watched
}

// Close shows the last state and ends the display.
func (p *progress) Close() {
	close(p.stop)
	<-p.stopped
}

func (p *progress) loop() {
	defer close(p.stopped)
	every := time.Second
	if p.term.live {
		every = 100 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.show(false)
		case <-p.stop:
			p.show(true)
			return
		}
	}
}

func (p *progress) show(last bool) {
	c := p.backend.Counts()
	line := fmt.Sprintf("%5.1f s  %3d/%d ended, %3d ok, %3d wait, %2d run   429: %d  503: %d  500: %d",
		time.Since(p.start).Seconds(), p.done.Load(), p.total, p.succeeded.Load(),
		p.unstarted.Load(), p.running.Load(), c.TooMany, c.TooBusy, c.Wasted)
	switch {
	case !p.term.live:
		fmt.Fprintln(p.term.w, line)
	case last:
		fmt.Fprintf(p.term.w, "\r%-79s\n", line)
	default:
		fmt.Fprintf(p.term.w, "\r%-79s", line)
	}
}
