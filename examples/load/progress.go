package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// isTerminal reports whether a line of f can be written over.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// progress writes how far something is over one line, ten times a second, until it is
// closed. Where lines cannot be written over it writes nothing.
type progress struct {
	w       io.Writer
	total   int
	done    func() int64
	stop    chan struct{}
	stopped chan struct{}
}

func newProgress(w io.Writer, live bool, total int, done func() int64) *progress {
	p := &progress{w: w, total: total, done: done, stop: make(chan struct{}), stopped: make(chan struct{})}
	if !live {
		close(p.stopped)
		return p
	}
	go p.loop()
	return p
}

// Close ends the display and takes its line away.
func (p *progress) Close() {
	close(p.stop)
	<-p.stopped
}

const barWidth = 40

func (p *progress) loop() {
	defer close(p.stopped)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n := min(int(p.done()), p.total)
			full := n * barWidth / p.total
			fmt.Fprintf(p.w, "\r  [%s%s] %s of %s", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), count(n), count(p.total))
		case <-p.stop:
			fmt.Fprintf(p.w, "\r%*s\r", barWidth+40, "")
			return
		}
	}
}
