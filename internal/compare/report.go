package compare

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is everything that a run measured.
type Report struct {
	Options Options
	Size    Size
	Started time.Time
	Took    time.Duration
	Results []Result
	Weights []Weight
	Waiting []Waiting
}

// WriteMarkdown writes the report.
func (r Report) WriteMarkdown(w io.Writer) error {
	var b bytes.Buffer
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	p("# Benchmarks\n")
	p("Written by `cd internal/compare && go run ./cmd/report -o ../../BENCHMARKS.md`; do not edit.\n")
	if r.Options.Smoke {
		p("**A smoke run: every body ran a few times. The figures mean nothing.**\n")
	}
	r.writeMachine(p)
	p("\n## What makes the comparison fair\n")
	for _, f := range Fairness {
		p("- %s", f)
	}
	p("\nColumns: time, allocations and bytes are per operation, over all goroutines. *spread* is half the distance between the quartiles of the rounds. *Sluice / this* is the time of the first line of the table divided by the time of this line: below 1, Sluice is faster.\n")
	r.writeBudgets(p)
	section := ""
	for i := range r.Results {
		res := &r.Results[i]
		if len(res.Lines) == 0 {
			continue
		}
		if res.Row.Section != section {
			section = res.Row.Section
			p("\n## %s", section)
		}
		if i == 0 || r.Results[i-1].Row != res.Row {
			p("\n### %s\n\n%s", upperFirst(res.Row.Name), res.Row.Note)
		}
		res.write(p)
	}
	r.writeWaiting(p)
	r.writeWeights(p)
	_, err := w.Write(b.Bytes())
	return err
}

type printer func(format string, a ...any)

func (r Report) writeMachine(p printer) {
	p("## Run\n")
	p("| | |\n|---|---|")
	p("| date | %s, took %s |", r.Started.UTC().Format("2006-01-02 15:04 UTC"), r.Took.Round(time.Second))
	p("| Go | %s %s/%s |", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	p("| processor | %s, %d cores |", processor(), runtime.NumCPU())
	p("| flags | -rounds %d -benchtime %s, %d keys in the big tables |", r.Options.Rounds, r.Options.Time, r.Size.Keys)
	if info, ok := debug.ReadBuildInfo(); ok {
		var peers []string
		for _, d := range info.Deps {
			for _, m := range direct {
				if d.Path == m {
					peers = append(peers, d.Path+" "+d.Version)
				}
			}
		}
		if len(peers) > 0 {
			p("| peers | %s |", strings.Join(peers, "<br>"))
		}
	}
}

// direct are the modules that the rows measure.
var direct = []string{
	"github.com/afex/hystrix-go",
	"github.com/alibaba/sentinel-golang",
	"github.com/failsafe-go/failsafe-go",
	"github.com/orcaman/concurrent-map/v2",
	"github.com/puzpuzpuz/xsync/v4",
	"github.com/sony/gobreaker/v2",
	"golang.org/x/sync",
	"golang.org/x/time",
}

// processor is the model, where the system tells.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown model"
	}
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown model"
}

func (r Report) writeBudgets(p printer) {
	p("\n## Budgets\n")
	p("What the project holds itself to, as ratios of times in this run.\n")
	p("| work | load | judged | against | budget | aim | measured | allocs | |")
	p("|---|---|---|---|--:|--:|--:|--:|---|")
	for _, v := range Judge(r.Results) {
		against := v.Against
		if v.AgainstLoad != (Load{}) {
			against += " with " + v.AgainstLoad.String()
		}
		most, aim := "", ""
		if v.Most > 0 {
			most = number(v.Most)
		}
		if v.Stretch > 0 {
			aim = number(v.Stretch)
		}
		if !v.Measured {
			p("| %s | %s | %s | %s | %s | %s | | | not measured |", v.Row, v.Load, v.Ours, against, most, aim)
			continue
		}
		verdict := v.String()
		if !v.Met() {
			verdict = "**" + verdict + "**"
		}
		p("| %s | %s | %s | %s | %s | %s | %s | %s | %s |",
			v.Row, v.Load, v.Ours, against, most, aim, number(v.Ratio), allocs(v.Allocs), verdict)
	}
	for _, w := range r.Weights {
		most, ok := MemoryBudgets[w.Name]
		if !ok || w.Err != nil {
			continue
		}
		verdict := "met"
		if w.Bytes > most {
			verdict = "**missed**"
		}
		p("| %s: bytes per key | | %s | | %s B | | %s B | | %s |", w.Section, w.Name, number(most), number(w.Bytes), verdict)
	}
	for _, v := range queueVerdicts(r.Waiting) {
		verdict := "met"
		if v.got > v.most {
			verdict = "**missed**"
		}
		p("| a long queue | %s | %s | %s | %s%s | | %s%s | | %s |", v.load, v.ours, v.against, number(v.most), v.unit, number(v.got), v.unit, verdict)
	}
}

func (r *Result) write(p printer) {
	p("\n%s:\n", r.Load)
	p("| contestant | | ns/op | spread | allocs/op | B/op | Sluice / this |")
	p("|---|---|--:|--:|--:|--:|--:|")
	first := &r.Lines[0]
	for i := range r.Lines {
		l := &r.Lines[i]
		if l.Err != nil {
			p("| %s | %s | %s | | | | |", l.Name, l.Role, oneLine(l.Err))
			continue
		}
		t := l.times()
		ratio := ""
		if i > 0 && first.Role == Ours && first.Err == nil {
			ratio = number(median(ratios(first, l)))
		}
		p("| %s | %s | %s | ±%.0f %% | %s | %.0f | %s |", l.Name, l.Role, number(median(t)),
			50*(quantile(t, 0.75)-quantile(t, 0.25))/max(median(t), 1e-9), allocs(median(l.allocs())), median(l.bytes()), ratio)
	}
}

func (r Report) writeWeights(p printer) {
	if len(r.Weights) == 0 {
		return
	}
	p("\n## Memory per key\n\n%d keys; the bytes of the keys themselves are not counted. SharedState keeps a version and a lifetime for each.\n", r.Size.Keys)
	p("| table | | | bytes per key |\n|---|---|---|--:|")
	for _, w := range r.Weights {
		if w.Err != nil {
			p("| %s | %s | %s | %s |", w.Section, w.Name, w.Role, oneLine(w.Err))
			continue
		}
		p("| %s | %s | %s | %.0f |", w.Section, w.Name, w.Role, w.Bytes)
	}
}

// WriteSummary writes the budgets as plain text, for a terminal.
func (r Report) WriteSummary(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range Judge(r.Results) {
		if !v.Measured {
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%s / %s\t%.2f\tof %.2f (%.2f)\t%s allocs\t%s\n",
			v.Row, v.Load, v.Ours, v.Against, v.Ratio, v.Most, v.Stretch, allocs(v.Allocs), v)
	}
	return tw.Flush()
}

// number has three significant digits where it is small.
func number(x float64) string {
	switch {
	case x >= 1000:
		s := fmt.Sprintf("%.0f", x)
		return s[:len(s)-3] + "," + s[len(s)-3:]
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0")
	}
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", x), "0"), ".")
}

// allocs is a whole number unless it really is none.
func allocs(x float64) string {
	if math.Abs(x-math.Round(x)) < 0.05 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.1f", x)
}

func oneLine(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	return strings.ReplaceAll(s[:min(len(s), 120)], "|", "/")
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
