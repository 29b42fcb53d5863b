// Command instructions prints how many instructions whole calls take, as valgrind counts them. They
// hardly differ from run to run, however busy the machine is, but from one release of Go to the next.
//
//	go run ./cmd/instructions [directory of the library]
//
// Each of the library's benchmarks runs twice under callgrind, with different numbers of operations:
// the difference, by that of the operations, leaves out what building everything takes.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A call is a kind of call, the benchmark that makes it, and how many instructions it may take; zero
// means that there is no bound.
type call struct {
	name, benchmark string
	most            float64
}

var calls = []call{
	{"whole call, no sink", "^BenchmarkInvoke$/^four_gates$", 1750},
	{"whole call, sink", "^BenchmarkInvoke$/^four_gates,_sink$", 0},
	{"refused", "^BenchmarkRefused$", 1350},
	{"with a timeout", "^BenchmarkInvoke$/^four_gates,_timeout$", 5500},
}

const few, many = 2000, 12_000 // operations

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "instructions:", err)
		os.Exit(1)
	}
}

func run() error {
	flag.Parse()
	dir := "../.."
	if flag.NArg() > 0 {
		dir = flag.Arg(0)
	}
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		return errors.New("valgrind is not installed: it counts the instructions")
	}
	temp, err := os.MkdirTemp("", "instructions")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	program := filepath.Join(temp, "library.test")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "instructions of a call\t\tat most\t")
	for _, c := range calls {
		n, err := c.count(valgrind, program, temp)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		most, verdict := "", ""
		if c.most > 0 {
			most, verdict = fmt.Sprintf("%.0f", c.most), "met"
			if n > c.most {
				verdict = "missed"
			}
		}
		fmt.Fprintf(w, "%s\t%.0f\t%s\t%s\n", c.name, n, most, verdict)
	}
	return w.Flush()
}

// count is the instructions of one operation of the benchmark.
func (c call) count(valgrind, program, temp string) (float64, error) {
	var totals [2]float64
	for i, n := range []int{few, many} {
		out := filepath.Join(temp, "callgrind")
		cmd := exec.Command(valgrind, "--tool=callgrind", "--callgrind-out-file="+out, program,
			"-test.run=^$", "-test.bench="+c.benchmark, "-test.benchtime="+strconv.Itoa(n)+"x", "-test.cpu=1")
		cmd.Dir = temp
		// Nothing of the runtime's own may run in between: no collector and no preemption by signals.
		cmd.Env = append(os.Environ(), "GOGC=off", "GODEBUG=asyncpreemptoff=1")
		said, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%w\n%s", err, said)
		}
		if !strings.Contains(string(said), "ns/op") {
			return 0, fmt.Errorf("there is no benchmark %s", c.benchmark)
		}
		if totals[i], err = total(out); err != nil {
			return 0, err
		}
	}
	return (totals[1] - totals[0]) / (many - few), nil
}

// total is the sum that callgrind writes at the end of its file.
func total(path string) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if sum, ok := strings.CutPrefix(lines.Text(), "totals:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(sum), 64)
		}
	}
	return 0, errors.Join(lines.Err(), errors.New("callgrind wrote no total"))
}
