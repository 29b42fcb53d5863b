// Command report runs the comparison and writes its tables as Markdown.
//
//	go run ./cmd/report -o ../../BENCHMARKS.md
//	go run ./cmd/report -smoke
//	go run ./cmd/report -run 'whole call/' -rounds 3 -benchtime 50ms
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/sluice-go/sluice/internal/compare"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		out     = flag.String("o", "", "write the Markdown to this file instead of standard output")
		rounds  = flag.Int("rounds", 7, "how often each contestant is measured, interleaved with the others of its row")
		dur     = flag.Duration("benchtime", 120*time.Millisecond, "how long one measurement takes")
		only    = flag.String("run", "", "only contestants whose row/name matches this regular expression; \"memory\", \"a long queue\" and \"adapters\" are rows, too")
		smoke   = flag.Bool("smoke", false, "run every body a few times, to see that it works")
		memory  = flag.Bool("memory", true, "weigh what takes memory, and measure long queues")
		contrib = flag.String("contrib", "../../contrib", "the folder of the adapters' modules")
		quiet   = flag.Bool("q", false, "no progress on standard error")
	)
	flag.Parse()
	if *rounds < 1 || *dur <= 0 {
		return fmt.Errorf("-rounds is %d and -benchtime %v: must be positive", *rounds, *dur)
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	r := compare.Report{
		Options: compare.Options{Rounds: *rounds, Time: *dur, Smoke: *smoke, Keep: match.MatchString},
		Size:    compare.Full,
		Started: time.Now(),
	}
	if *smoke {
		r.Size, r.Options.Rounds = compare.Smoke, 1
	}
	progress := io.Writer(os.Stderr)
	if *quiet {
		progress = io.Discard
	}
	failed := 0
	rows := compare.Rows(r.Size)
	for i := range rows {
		for _, l := range rows[i].Loads {
			start := time.Now()
			res := compare.Measure(&rows[i], l, r.Options)
			if len(res.Lines) == 0 {
				continue
			}
			r.Results = append(r.Results, res)
			fmt.Fprintf(progress, "%6.1fs  %s, %s\n", time.Since(start).Seconds(), rows[i].Name, l)
			for _, line := range res.Lines {
				if line.Err != nil {
					failed++
					fmt.Fprintf(progress, "         %s: %v\n", line.Name, line.Err)
				}
			}
		}
	}
	if *memory && match.MatchString("memory") {
		start := time.Now()
		r.Weights = compare.Weigh(r.Size)
		fmt.Fprintf(progress, "%6.1fs  memory\n", time.Since(start).Seconds())
		for _, w := range r.Weights {
			if w.Err != nil {
				failed++
				fmt.Fprintf(progress, "         memory of %s: %v\n", w.Name, w.Err)
			}
		}
	}
	if *memory && match.MatchString("a long queue") {
		start := time.Now()
		r.Waiting = compare.MeasureWaiting(r.Size, r.Options)
		fmt.Fprintf(progress, "%6.1fs  a long queue\n", time.Since(start).Seconds())
		for _, w := range r.Waiting {
			if w.Err != nil {
				failed++
				fmt.Fprintf(progress, "         %d waiting: %v\n", w.Calls, w.Err)
			}
		}
	}
	if match.MatchString("adapters") {
		start := time.Now()
		r.Adapters = compare.MeasureAdapters(*contrib, compare.Adapters(), r.Options)
		fmt.Fprintf(progress, "%6.1fs  adapters\n", time.Since(start).Seconds())
		for _, a := range r.Adapters {
			if a.Err != nil {
				failed++
				fmt.Fprintf(progress, "         %s, %s: %v\n", a.Name, a.Work, a.Err)
			}
		}
	}
	r.Took = time.Since(r.Started)
	if err := write(r, *out); err != nil {
		return err
	}
	if *out != "" && !*smoke {
		if err := r.WriteSummary(os.Stdout); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d contestants came to a wrong outcome", failed)
	}
	return nil
}

func write(r compare.Report, path string) error {
	if path == "" {
		return r.WriteMarkdown(os.Stdout)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := r.WriteMarkdown(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
