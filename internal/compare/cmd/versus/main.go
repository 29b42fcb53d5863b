// Command versus measures two states of the library against each other:
//
//	go run ./cmd/versus a0d3f86 main
//	go run ./cmd/versus -rounds 25 -rows 'whole call,typed' main ../..
//
// A state is a git revision or a directory with a checkout. One program (package bench) is
// built for each; then they run in turn, a slice of time for each row, over and over, so that
// a slow minute of the machine touches both. For each row stand the best wall time of an
// operation in both states, the ratio of these, the median of the ratios within the rounds, the
// same median for processor time, which other processes disturb least, and allocations and bytes.
package main

import (
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/compare/cmd/internal/state"
)

//go:embed bench/*.go
var bench embed.FS

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "versus:", err)
		os.Exit(1)
	}
}

func run() error {
	rounds := flag.Int("rounds", 15, "how often each row is measured in each state")
	slice := flag.Duration("slice", 120*time.Millisecond, "how long one measurement takes")
	only := flag.String("rows", "", "only these rows, separated by commas")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: versus [flags] <revision or directory> <revision or directory>")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 || *rounds < 1 || *slice < time.Millisecond {
		flag.Usage()
		return errors.New("two states, a round and a millisecond at least, are needed")
	}
	temp, err := os.MkdirTemp("", "versus")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	var programs [2]string
	for i, name := range flag.Args() {
		if programs[i], err = build(filepath.Join(temp, fmt.Sprint(i)), name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	out, err := state.Command("", nil, programs[0])
	if err != nil {
		return err
	}
	names := strings.Split(strings.TrimSpace(out), "\n")
	if *only != "" {
		asked := strings.Split(*only, ",")
		for _, a := range asked {
			if !slices.Contains(names, a) {
				return fmt.Errorf("there is no row %q; there are %s", a, strings.Join(names, ", "))
			}
		}
		names = asked
	}
	results := make([]result, len(names))
	for round := range *rounds {
		for r, name := range names {
			for i := range 2 {
				side := (i + round) % 2 // who is first changes from round to round
				m, err := measure(programs[side], name, *slice)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", flag.Arg(side), name, err)
				}
				results[r][side] = append(results[r][side], m)
			}
		}
	}
	report(os.Stdout, names, results)
	return nil
}

// build makes the program for the state called name, and answers where it is.
func build(temp, name string) (program string, err error) {
	if err := os.Mkdir(temp, 0o755); err != nil {
		return "", err
	}
	dir, err := state.Dir(name, temp)
	if err != nil {
		return "", err
	}
	return state.Build(dir, temp, bench)
}

// measurement is what one operation took in one slice.
type measurement struct{ wall, cpu, allocs, bytes float64 }

func measure(program, row string, slice time.Duration) (m measurement, err error) {
	out, err := state.Command("", nil, program, row, slice.String())
	if err != nil {
		return m, err
	}
	_, err = fmt.Sscan(out, &m.wall, &m.cpu, &m.allocs, &m.bytes)
	return m, err
}

// result is a row's measurements in both states, by round.
type result [2][]measurement

func wall(m measurement) float64   { return m.wall }
func cpu(m measurement) float64    { return m.cpu }
func allocs(m measurement) float64 { return m.allocs }
func bytes(m measurement) float64  { return m.bytes }

// values are what of measures, of one state.
func (r result) values(side int, what func(measurement) float64) (vs []float64) {
	for _, m := range r[side] {
		vs = append(vs, what(m))
	}
	return vs
}

// ratio is the median of the second state's values divided by the first's, round by round.
func (r result) ratio(what func(measurement) float64) float64 {
	vs := r.values(1, what)
	for i, v := range r.values(0, what) {
		vs[i] /= v
	}
	return median(vs)
}

func median(vs []float64) float64 {
	slices.Sort(vs)
	return (vs[(len(vs)-1)/2] + vs[len(vs)/2]) / 2
}

func report(w io.Writer, names []string, results []result) {
	fmt.Fprintf(w, "%-12s %9s %9s %7s %7s %7s   %-15s %-15s\n",
		"row", "best ns", "best ns", "ratio", "median", "cpu", "allocs", "bytes")
	for i, r := range results {
		best := [2]float64{slices.Min(r.values(0, wall)), slices.Min(r.values(1, wall))}
		pair := func(what func(measurement) float64) string {
			return fmt.Sprintf("%.1f → %.1f", median(r.values(0, what)), median(r.values(1, what)))
		}
		fmt.Fprintf(w, "%-12s %9.1f %9.1f %7.3f %7.3f %7.3f   %-15s %-15s\n",
			names[i], best[0], best[1], best[1]/best[0], r.ratio(wall), r.ratio(cpu), pair(allocs), pair(bytes))
	}
}
