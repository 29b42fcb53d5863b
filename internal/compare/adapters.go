package compare

import (
	"bytes"
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
			run(a.Alone+"|"+a.Guarded, strconv.Itoa(o.Rounds))
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
// rounds in one process they are medians, of the differences and ratios within the rounds; else of the quietest rounds,
// since two processes have little in common.
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
	var more, ratios []float64
	for i := range min(len(all[0]), len(all[1])) {
		more, ratios = append(more, all[1][i]-all[0][i]), append(ratios, all[1][i]/all[0][i]-1)
	}
	return median(all[0]), median(more), median(ratios)
}

func (r Report) writeAdapters(p printer) {
	if len(r.Adapters) == 0 {
		return
	}
	p("\n## Adapters\n\nWhat a call of a tool that does nothing takes in a framework alone, and what the adapter and a limit that is never reached add to it: the benchmarks of the adapters' own modules, run by turns on one processor in %d rounds. Of those of MCP both run in one process, each time with a new server, and the figures are medians of what rounds differ by; of others it is the best round. At most 5 %% or 2 µs is what they hold themselves to.\n", len(r.Adapters[0].Samples[0]))
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
