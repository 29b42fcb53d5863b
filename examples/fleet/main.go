// Fleet has four processes share the quota of one API key on a Redis server: 100 calls a second, 20 at once. It kills one
// of them, and the server for three seconds, and shows that the quota held and that nobody had to be started again.
//
//	cd examples/fleet && go run .
//
// What a process of a fleet needs is in worker.go. This file plays the part of the world: it starts the server, on a port of
// its own, and the processes, which are this program once more, counts what they start, and judges.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"time"
)

const workers = 4

// What happens when, in seconds from when all are there.
const (
	killAt    = 3
	serverEnd = 6
	serverAt  = 9
	end       = 14
)

func main() {
	if addr := os.Getenv(addrEnv); addr != "" {
		if err := work(context.Background(), addr, os.Stdin, os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		stop()
		log.Fatal(err)
	}
}

// run tells the story, and returns an error if the quota did not hold.
func run(ctx context.Context, out io.Writer) error {
	redis, err := newServer()
	if err != nil {
		return err
	}
	defer redis.remove()
	if err := redis.start(ctx); err != nil {
		return err
	}
	w := &world{}
	defer w.kill()
	for i := range workers {
		if err := w.add(i, redis.addr); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "%d processes share %d calls a second, %d at once; %d callers each\n\n", workers, rate.N, rate.Burst, callers)
	fmt.Fprint(out, "  second")
	for i := range workers {
		fmt.Fprintf(out, "  process %d", i+1)
	}
	fmt.Fprintln(out, "    all")
	begun := time.Now()
	for s := 0; s < end; s++ {
		event := ""
		switch s {
		case killAt:
			event = fmt.Sprintf("process %d is killed", workers)
			err = w.procs[workers-1].Process.Kill()
		case serverEnd:
			event = "the server is killed"
			redis.kill()
		case serverAt:
			event = "the server is back, without its data"
			err = redis.start(ctx)
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Until(begun.Add(time.Duration(s+1) * time.Second))):
		case <-ctx.Done():
			return ctx.Err()
		}
		fmt.Fprintf(out, "  %6d", s+1)
		all := 0
		for _, n := range w.between(begun, s) {
			fmt.Fprintf(out, "  %9d", n)
			all += n
		}
		fmt.Fprintf(out, "  %5d", all)
		if event != "" {
			fmt.Fprintf(out, "   %s", event)
		}
		fmt.Fprintln(out)
	}
	last := 0
	for _, n := range w.between(begun, end-1) {
		last += n
	}
	if err := w.stop(); err != nil {
		return err
	}
	return w.judge(out, last)
}

// world is the processes, and when their calls started.
type world struct {
	procs  []*exec.Cmd
	stdins []io.Closer
	group  sync.WaitGroup // of those who read what the processes say

	mu     sync.Mutex
	starts [workers][]time.Time
}

// add starts a process.
func (w *world) add(i int, addr string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p := exec.Command(self)
	p.Env, p.Stderr = append(os.Environ(), addrEnv+"="+addr), os.Stderr
	in, err := p.StdinPipe()
	if err != nil {
		return err
	}
	out, err := p.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	w.procs, w.stdins = append(w.procs, p), append(w.stdins, in)
	w.group.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); { // each is the instant of a start
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				w.mu.Lock()
				w.starts[i] = append(w.starts[i], time.Unix(0, n))
				w.mu.Unlock()
			}
		}
	})
	return nil
}

// between is how many calls each process has started in a second.
func (w *world) between(begun time.Time, second int) (n [workers]int) {
	from := begun.Add(time.Duration(second) * time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, list := range w.starts {
		for _, at := range list {
			if !at.Before(from) && at.Before(from.Add(time.Second)) {
				n[i]++
			}
		}
	}
	return n
}

// stop has the processes end by themselves, as their input does.
func (w *world) stop() error {
	var errs []error
	for i, p := range w.procs {
		_ = w.stdins[i].Close()
		if i == workers-1 {
			_ = p.Wait() // which was killed
		} else if err := p.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("process %d: %w", i+1, err))
		}
	}
	w.group.Wait()
	return errors.Join(errs...)
}

// kill ends what is left of an error.
func (w *world) kill() {
	for _, p := range w.procs {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	}
}

// judge says whether the quota held: in no window may more calls start than it allows, and what the processes have at hand
// when the window begins, which is at most the stock of each.
func (w *world) judge(out io.Writer, last int) error {
	all := slices.SortedFunc(func(yield func(time.Time) bool) {
		for _, list := range w.starts {
			for _, at := range list {
				if !yield(at) {
					return
				}
			}
		}
	}, time.Time.Compare)
	worst := 0.0
	for i, from := range all {
		for j := i; j < len(all); j++ {
			allowed := float64(rate.Burst) + float64(rate.N)*all[j].Sub(from).Seconds()
			worst = max(worst, float64(j-i+1)-allowed)
		}
	}
	fmt.Fprintf(out, "\n%d calls; beyond the quota in any window: %.1f, where %d are at hand at most\n", len(all), worst, 2*workers*stock)
	if worst > 2*workers*stock { // once more for the server that has lost what it knew
		return fmt.Errorf("the quota did not hold: %.1f calls too many", worst)
	}
	if last < int(rate.N)*8/10 {
		return fmt.Errorf("after all that %d calls start in a second: must be %d or nearly so", last, rate.N)
	}
	fmt.Fprintln(out, "the quota held, and the three that were left went on by themselves")
	return nil
}
