// Sluicesim tries admission policies before production: it runs the traffic that a file
// describes through one policy, or the same traffic through two, on virtual time, and says
// who waited how long, how far each limit was used, and when calls were refused: as text,
// and as a picture.
//
//	go run github.com/sluice-go/sluice/sim/sluicesim@latest -example > mix.json
//	go run github.com/sluice-go/sluice/sim/sluicesim@latest -svg mix.svg mix.json
//
// Decisions are the library's own, see package sim; what tools and callers do is modelled.
// Equal files and seeds give equal texts and pictures. docs/sim.md describes the file.
package main

import (
	_ "embed"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sluice-go/sluice/sim"
)

// example is the file that the documentation speaks of.
//
//go:embed example.json
var example string

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

const usage = `usage: sluicesim [-svg FILE] [-seed N] MIX.json
       sluicesim -example > MIX.json

Runs the traffic of MIX.json through its one or two policies, and prints what came of it.

`

// run is the program; it answers the exit code: 1 if something is wrong with the file, 2 with the command line.
func run(args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("sluicesim", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, usage)
		f.PrintDefaults()
	}
	svg := f.String("svg", "", "write the picture to `FILE`")
	seed := f.Uint64("seed", 0, "draw by the seed `N` instead of the file's")
	show := f.Bool("example", false, "print a file to start from")
	if err := f.Parse(args); err != nil {
		if err == flag.ErrHelp {
			return 0
		}
		return 2
	}
	switch {
	case *show:
		fmt.Fprint(stdout, example)
		return 0
	case f.NArg() != 1:
		fmt.Fprintf(stderr, "sluicesim: %d files are named: must be one\n", f.NArg())
		f.Usage()
		return 2
	}
	m, err := read(f.Arg(0))
	if err == nil {
		f.Visit(func(x *flag.Flag) {
			if x.Name == "seed" {
				m.seed = *seed
			}
		})
		err = m.tell(f.Arg(0), *svg, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "sluicesim:", err)
		return 1
	}
	return 0
}

// tell runs m, prints the text, and writes the picture if it has a name.
func (m *mix) tell(file, svg string, stdout io.Writer) error {
	results, err := m.run()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if _, err := io.WriteString(stdout, summary(m, results)); err != nil || svg == "" {
		return err
	}
	return os.WriteFile(svg, []byte(picture(m, results)), 0o644)
}

// result is what came of one policy.
type result struct {
	policy  *policy
	report  sim.Report
	refused [intervals]int64 // calls, by when that was
}

// intervals are the parts of the time in which refusals are counted.
const intervals = 60

// run simulates each policy.
func (m *mix) run() ([]*result, error) {
	var out []*result
	for i := range m.policies {
		p := &m.policies[i]
		x := &result{policy: p}
		c := m.config(p)
		c.Each = func(c sim.Call) {
			if c.Outcome == sim.Refused {
				x.refused[min(int(float64(c.Ended)/float64(m.duration)*intervals), intervals-1)]++
			}
		}
		var err error
		if x.report, err = sim.Run(c); err != nil {
			return nil, fmt.Errorf("under policy %q: %s", p.name, strings.TrimPrefix(err.Error(), "sim: "))
		}
		out = append(out, x)
	}
	return out, nil
}
