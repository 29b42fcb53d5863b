package compare

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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
	Turns          bool   // its module measures the parts by turns in one process; else each is a process of its own
	Samples        [2][]Sample
	Err            error
}

// Adapters are those that there are.
func Adapters() []Adapter {
	guarded := func(name, work, module, bench string, calls int64) Adapter {
		return Adapter{Name: name, Work: work, Module: module, Bench: bench, Alone: "alone", Guarded: "guarded", Calls: calls}
	}
	return []Adapter{
		{Name: "contrib/mcp, Server", Work: "tools/call over streamable HTTP, by the SDK's client", Module: "mcp", Bench: "BenchmarkHTTP", Alone: "alone", Guarded: "Server", Calls: 1, Turns: true},
		{Name: "contrib/mcp, AddTool", Work: "the same", Module: "mcp", Bench: "BenchmarkHTTP", Alone: "alone", Guarded: "AddTool", Calls: 1, Turns: true},
		{Name: "contrib/mcp, Client", Work: "the same", Module: "mcp", Bench: "BenchmarkHTTP", Alone: "alone", Guarded: "Client", Calls: 1, Turns: true},
		{Name: "contrib/mcpgo", Work: "tools/call over streamable HTTP, by mcp-go's client", Module: "mcpgo", Bench: "BenchmarkHTTP", Alone: "alone", Guarded: "guarded", Calls: 1, Turns: true},
		{Name: "contrib/mcpgo", Work: "tools/call in process, from message to response", Module: "mcpgo", Bench: "BenchmarkCall", Alone: "alone", Guarded: "guarded", Calls: 1, Turns: true},
		guarded("contrib/eino", "a tools node, a message with one call", "eino", "BenchmarkCall", 1),
		guarded("contrib/eino", "the same with four calls at once", "eino", "BenchmarkCalls", 4),
		{Name: "contrib/genkit", Work: "Generate with 8 calls of one message", Module: "genkit", Bench: "BenchmarkGenerate", Alone: "alone", Guarded: "Middleware", Calls: 8},
		guarded("contrib/anthropic", "a run of the tool runner, 8 calls at once", "anthropic", "BenchmarkRun", 8),
		guarded("contrib/openai", "a turn of 8 calls; alone they run one after the other", "openai", "BenchmarkTurn", 8),
	}
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark[^\s/]+/([^\s#]+)\S*\s+\d+\s+([\d.]+) ns/op\b.*?(\d+) B/op\s+(\d+) allocs/op`)

// Where a module measures its parts by turns it is many short turns: those next to each other differ by less that has
// nothing to do with the adapter. Much shorter ones would have no share of what is collected as garbage.
const (
	adapterTurn  = "40ms"
	adapterTurns = 5 // for each round of the others
)

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
		run := func(parts, rounds string) {
			if a.Err != nil {
				return
			}
			cmd := command(filepath.Join(contrib, a.Module), test, "-test.run", "^$", "-test.bench", fmt.Sprintf("^%s$/^(%s)(#\\d+)?$", a.Bench, parts),
				"-test.cpu", "1", "-test.benchtime", time, "-test.benchmem")
			if a.Turns {
				cmd.Args = append(cmd.Args, "-rounds", rounds)
			}
			out := new(bytes.Buffer)
			cmd.Stdout = out
			if a.Err = cmd.Run(); a.Err == nil {
				a.Err = a.note(out.Bytes())
			}
		}
		if a.Turns {
			if !o.Smoke {
				time = adapterTurn
			}
			run(a.Alone+"|"+a.Guarded, strconv.Itoa(adapterTurns*o.Rounds))
			continue
		}
		for range o.Rounds {
			run(a.Alone, "")
			run(a.Guarded, "")
		}
	}
	return list
}

// note notes what benchmarks have printed.
func (a *Adapter) note(out []byte) error {
	found := benchLine.FindAllSubmatch(out, -1)
	if len(found) == 0 {
		return fmt.Errorf("%s has measured nothing", a.Bench)
	}
	for _, m := range found {
		part := 0
		if string(m[1]) == a.Guarded {
			part = 1
		}
		a.Samples[part] = append(a.Samples[part], Sample{parsed(string(m[2])), parsed(string(m[4])), parsed(string(m[3]))})
	}
	return nil
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

// figures are how many nanoseconds a call takes alone, and how many, and which part of that, the adapter adds. Of
// turns in one process they are medians, of what neighbours differ by, over that half of the neighbours which together
// took less: the machine had less else to do then. Else they are of the quietest rounds, since two processes have little
// in common.
func (a *Adapter) figures() (alone, adds, ratio float64) {
	var all [2][]float64
	for part, samples := range a.Samples {
		for _, s := range samples {
			all[part] = append(all[part], s.NS/float64(a.Calls))
		}
	}
	if !a.Turns {
		alone, adds = slices.Min(all[0]), slices.Min(all[1])-slices.Min(all[0])
		return alone, adds, adds / alone
	}
	pairs := make([][2]float64, min(len(all[0]), len(all[1])))
	for i := range pairs {
		pairs[i] = [2]float64{all[0][i], all[1][i]}
	}
	slices.SortFunc(pairs, func(x, y [2]float64) int { return cmp.Compare(x[0]+x[1], y[0]+y[1]) })
	var alones, more, ratios []float64
	for _, x := range pairs[:(len(pairs)+1)/2] {
		alones, more, ratios = append(alones, x[0]), append(more, x[1]-x[0]), append(ratios, x[1]/x[0]-1)
	}
	return median(alones), median(more), median(ratios)
}

func (r Report) writeAdapters(p printer) {
	if len(r.Adapters) == 0 {
		return
	}
	p("\n## Adapters\n\nWhat a call of a tool that does nothing takes in a framework alone, and what the adapter and a limit that is never reached add to it: the benchmarks of the adapters' own modules, run by turns on one processor. Of those of MCP both run in one process, %d turns of %s, each with a new server, and the figures are medians of what neighbours differ by, over the quieter half of them; of others it is the best of %d rounds. At most 5 %% or 2 µs is what they hold themselves to.\n", adapterTurns*r.Options.Rounds, adapterTurn, r.Options.Rounds)
	p("| adapter | work | alone, µs a call | adds, µs | adds | allocations added | |\n|---|---|--:|--:|--:|--:|---|")
	for i := range r.Adapters {
		a := &r.Adapters[i]
		if a.Err != nil {
			p("| %s | %s | %v | | | | |", a.Name, a.Work, strings.ReplaceAll(a.Err.Error(), "|", "/"))
			continue
		}
		verdict := "holds"
		alone, adds, ratio := a.figures()
		if ratio > 0.05 && adds > 2000 {
			verdict = "**misses**"
		}
		allocs := (a.Samples[1][0].Allocs - a.Samples[0][0].Allocs) / float64(a.Calls)
		p("| %s | %s | %.1f | %.2f | %.1f %% | %.0f | %s |", a.Name, a.Work, alone/1e3, adds/1e3, 100*ratio, allocs, verdict)
	}
}
