package compare

import (
	"fmt"
	"runtime"
	"sync"
	"time"
)

// Sample is one measurement, per operation.
type Sample struct {
	NS, Allocs, Bytes float64
}

// Run does n operations of body, shared among the goroutines of l, and measures them. Where
// there are several goroutines, each does one more before the clock starts.
func Run(body Body, l Load, n int) (Sample, error) {
	n = max(n, l.Goroutines)
	if l.Goroutines == 1 {
		m := startMeter()
		err := body(0, n)
		return m.stop(n), err
	}
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	errs := make([]error, l.Goroutines)
	for w := range l.Goroutines {
		ready.Add(1)
		share := n / l.Goroutines
		if w < n%l.Goroutines {
			share++
		}
		done.Go(func() {
			errs[w] = body(w, 1) // grows the stack
			ready.Done()
			<-start
			if errs[w] == nil {
				errs[w] = body(w, share)
			}
		})
	}
	ready.Wait()
	m := startMeter()
	close(start)
	done.Wait()
	s := m.stop(n)
	for _, err := range errs {
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

type meter struct {
	mem   runtime.MemStats
	start time.Time
}

func startMeter() *meter {
	m := new(meter)
	runtime.ReadMemStats(&m.mem)
	m.start = time.Now()
	return m
}

func (m *meter) stop(n int) Sample {
	d := time.Since(m.start)
	mallocs, bytes := m.mem.Mallocs, m.mem.TotalAlloc
	runtime.ReadMemStats(&m.mem)
	return Sample{
		NS:     float64(d.Nanoseconds()) / float64(n),
		Allocs: float64(m.mem.Mallocs-mallocs) / float64(n),
		Bytes:  float64(m.mem.TotalAlloc-bytes) / float64(n),
	}
}

// Options say how long to measure.
type Options struct {
	Rounds int
	Time   time.Duration     // per measurement
	Keep   func(string) bool // of "row/contestant"; nil keeps all
	Smoke  bool              // do each operation a few times, once
}

// Result is what the contestants of one row needed under one load.
type Result struct {
	Row   *Row
	Load  Load
	Lines []Line
}

// Line is one contestant's samples, one per round.
type Line struct {
	Name    string
	Role    Role
	Samples []Sample
	Err     error // it could not take part, or came to a wrong outcome
}

// Measure runs the rounds of one row under one load.
func Measure(row *Row, l Load, o Options) Result {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(l.Cores))
	r := Result{Row: row, Load: l}
	var bodies []Body
	var counts []int
	for _, c := range row.Contestants {
		if o.Keep != nil && !o.Keep(row.Name+"/"+c.Name) {
			continue
		}
		line := Line{Name: c.Name, Role: c.Role}
		body, done, err := build(c, l.Goroutines)
		if done != nil {
			defer done()
		}
		n := 2 * l.Goroutines
		if err == nil && !o.Smoke {
			n, err = calibrate(body, l, o.Time)
		}
		line.Err = err
		r.Lines = append(r.Lines, line)
		bodies = append(bodies, body)
		counts = append(counts, n)
	}
	for round := range max(o.Rounds, 1) {
		runtime.GC() // once a round: with a million keys it takes longer than a measurement
		for i := range r.Lines {
			i = (i + round) % len(r.Lines)
			line := &r.Lines[i]
			if line.Err != nil {
				continue
			}
			s, err := Run(bodies[i], l, counts[i])
			if err != nil {
				line.Err = err
				continue
			}
			line.Samples = append(line.Samples, s)
		}
	}
	return r
}

// build is c.Make, with a panic as an error, so that one contestant's trouble does not
// end the run of the others.
func build(c Contestant, workers int) (body Body, done func(), err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return c.Make(workers)
}

// calibrate finds how many operations take about d. It is the warm-up too.
func calibrate(body Body, l Load, d time.Duration) (int, error) {
	n := l.Goroutines
	for {
		s, err := Run(body, l, n)
		if err != nil {
			return 0, err
		}
		took := time.Duration(s.NS * float64(n))
		if took >= d/4 || n > 1<<30 {
			return max(l.Goroutines, int(float64(n)*float64(d)/float64(max(took, 1)))), nil
		}
		if took < d/400 {
			n *= 10
			continue
		}
		n = int(float64(n) * float64(d/3) / float64(took))
	}
}
