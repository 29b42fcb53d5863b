package compare

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Adapter is what an adapter adds to its framework, as a benchmark of its own module has it: one that runs without
// Sluice beside one that differs in that alone.
type Adapter struct {
	Name, Work     string
	Module         string // under contrib
	Bench          string // its benchmark
	Alone, Guarded string // its parts
	Calls          int64  // tool calls in each operation
	Samples        [2][]Sample
	Err            error
}

// Adapters are those that there are.
func Adapters() []Adapter {
	guarded := func(name, work, module, bench string, calls int64) Adapter {
		return Adapter{Name: name, Work: work, Module: module, Bench: bench, Alone: "alone", Guarded: "guarded", Calls: calls}
	}
	return []Adapter{
		{Name: "contrib/mcp, Server", Work: "tools/call over streamable HTTP, by the SDK's client", Module: "mcp", Bench: "BenchmarkHTTP", Alone: "alone", Guarded: "Server", Calls: 1},
		{Name: "contrib/mcp, Client", Work: "the same", Module: "mcp", Bench: "BenchmarkHTTP", Alone: "alone", Guarded: "Client", Calls: 1},
		guarded("contrib/mcpgo", "tools/call over streamable HTTP, by mcp-go's client", "mcpgo", "BenchmarkHTTP", 1),
		guarded("contrib/mcpgo", "tools/call in process, from message to response", "mcpgo", "BenchmarkCall", 1),
		guarded("contrib/eino", "a tools node, a message with one call", "eino", "BenchmarkCall", 1),
		guarded("contrib/eino", "the same with four calls at once", "eino", "BenchmarkCalls", 4),
		{Name: "contrib/genkit", Work: "Generate with 8 calls of one message", Module: "genkit", Bench: "BenchmarkGenerate", Alone: "alone", Guarded: "Middleware", Calls: 8},
		guarded("contrib/anthropic", "a run of the tool runner, 8 calls at once", "anthropic", "BenchmarkRun", 8),
		guarded("contrib/openai", "a turn of 8 calls; alone they run one after the other", "openai", "BenchmarkTurn", 8),
	}
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark\S+\s+\d+\s+([\d.]+) ns/op\b.*?(\d+) B/op\s+(\d+) allocs/op`)

// MeasureAdapters builds the benchmarks of each of them in the folder contrib, and runs their two parts in turn.
func MeasureAdapters(contrib string, list []Adapter, o Options) []Adapter {
	bin, err := os.MkdirTemp("", "adapters")
	if err != nil {
		return failed(list, err)
	}
	defer os.RemoveAll(bin)
	for i := range list {
		a := &list[i]
		test := filepath.Join(bin, a.Module+".test")
		if _, err := os.Stat(test); err != nil {
			if a.Err = command(filepath.Join(contrib, a.Module), "go", "test", "-c", "-o", test, ".").Run(); a.Err != nil {
				continue
			}
		}
		time := "1x"
		if !o.Smoke {
			time = o.Time.String()
		}
		for range o.Rounds {
			for part, name := range []string{a.Alone, a.Guarded} {
				cmd := command(filepath.Join(contrib, a.Module), test, "-test.run", "^$", "-test.bench", fmt.Sprintf("^%s$/^%s$", a.Bench, name),
					"-test.cpu", "1", "-test.benchtime", time, "-test.benchmem")
				out := new(bytes.Buffer)
				cmd.Stdout = out
				if a.Err = cmd.Run(); a.Err != nil {
					break
				}
				m := benchLine.FindStringSubmatch(out.String())
				if m == nil {
					a.Err = fmt.Errorf("%s/%s has measured nothing", a.Bench, name)
					break
				}
				a.Samples[part] = append(a.Samples[part], Sample{parsed(m[1]), parsed(m[3]), parsed(m[2])})
			}
		}
	}
	return list
}

func failed(list []Adapter, err error) []Adapter {
	for i := range list {
		list[i].Err = err
	}
	return list
}

func command(dir, name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir, c.Stderr = dir, os.Stderr
	return c
}

func parsed(s string) float64 {
	x, _ := strconv.ParseFloat(s, 64)
	return x
}

// best is how many nanoseconds a call takes in the quietest round: half of what is measured here is the network of this
// machine, which others disturb.
func (a *Adapter) best(part int) float64 {
	least := math.Inf(1)
	for _, s := range a.Samples[part] {
		least = min(least, s.NS/float64(a.Calls))
	}
	return least
}

func (r Report) writeAdapters(p printer) {
	if len(r.Adapters) == 0 {
		return
	}
	p("\n## Adapters\n\nWhat a call of a tool that does nothing takes in a framework alone, and what the adapter and a limit that is never reached add to it: the benchmarks of the adapters' own modules, run by turns on one processor; the best of %d rounds. At most 5 %% or 2 µs is what they hold themselves to.\n", len(r.Adapters[0].Samples[0]))
	p("| adapter | work | alone, µs a call | adds, µs | adds | allocations added | |\n|---|---|--:|--:|--:|--:|---|")
	for i := range r.Adapters {
		a := &r.Adapters[i]
		if a.Err != nil {
			p("| %s | %s | %v | | | | |", a.Name, a.Work, strings.ReplaceAll(a.Err.Error(), "|", "/"))
			continue
		}
		alone, verdict := a.best(0), "holds"
		adds := a.best(1) - alone
		if adds > 0.05*alone && adds > 2000 {
			verdict = "**misses**"
		}
		allocs := (a.Samples[1][0].Allocs - a.Samples[0][0].Allocs) / float64(a.Calls)
		p("| %s | %s | %.1f | %.2f | %.1f %% | %.0f | %s |", a.Name, a.Work, alone/1e3, adds/1e3, 100*adds/alone, allocs, verdict)
	}
}
