package compare

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
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

	Adapters []Adapter
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
	r.writeBudgets(p)
	r.writeWeights(p)
	r.writeMachine(p)
	p("\n## How it is measured\n")
	for _, f := range Fairness {
		p("- %s", f)
	}
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
	r.writeAdapters(p)
	r.writeWaiting(p)
	_, err := w.Write(b.Bytes())
	return err
}

type printer func(format string, a ...any)

func (r Report) writeMachine(p printer) {
	p("\n## Run\n")
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
	"github.com/anthropics/anthropic-sdk-go/v2",
	"github.com/failsafe-go/failsafe-go",
	"github.com/openai/openai-go/v3",
	"github.com/orcaman/concurrent-map/v2",
	"github.com/puzpuzpuz/xsync/v4",
	"github.com/sony/gobreaker/v2",
	"golang.org/x/sync",
	"golang.org/x/time",
	"google.golang.org/genai",
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
	p("What Sluice holds itself to, measured in this run. Time is divided by that of another contestant; hand-made is gobreaker, x/time and x/sync put together. Everything behind this table says how the figures came about.\n")
	p("| | work | figure | measured | must | aim | |")
	p("|--:|---|---|--:|--:|--:|---|")
	for i, b := range Budgets {
		number, work := strconv.Itoa(i+1), b.Work
		if b.See != "" {
			p("| %s | %s | %s | | | | elsewhere |", number, work, b.See)
		}
		for _, f := range b.Judge(r.Results) {
			must, aim := f.bounds()
			p("| %s | %s | %s | %s | %s | %s | %s |", number, work, f.What, f.got(), must, aim, f.emphasis())
			number, work = "", ""
		}
	}
}

// bounds are how the bound and the aim stand in the report.
func (f Figure) bounds() (must, aim string) {
	sign := "≤ "
	if f.Quantity == Throughput {
		sign = "≥ "
	}
	switch {
	case f.Most && f.Must == 0:
		must = "0"
	case f.Most:
		must = sign + number(f.Must)
	}
	if f.Aim > 0 {
		aim = number(f.Aim)
	}
	return must, aim
}

func (f Figure) got() string {
	switch {
	case !f.Measured:
		return ""
	case f.Quantity == Allocs:
		return allocs(f.Got)
	case f.Quantity == Bytes:
		return number(math.Round(f.Got))
	}
	return number(f.Got)
}

func (f Figure) emphasis() string {
	if f.Measured && !f.Met() {
		return "**" + f.Verdict() + "**"
	}
	return f.Verdict()
}

func (r *Result) write(p printer) {
	p("\n%s:\n", r.Load)
	p("| contestant | | ns/op | spread | allocs/op | B/op | first / this |")
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
		if i > 0 && (first.Role == Ours || first.Role == Part) && first.Err == nil {
			ratio = number(median(ratios(first, new(Line), l)))
		}
		p("| %s | %s | %s | ±%.0f %% | %s | %s | %s |", l.Name, l.Role, number(median(t)),
			50*(quantile(t, 0.75)-quantile(t, 0.25))/max(median(t), 1e-9), allocs(median(l.allocs())), number(math.Round(median(l.bytes()))), ratio)
	}
}

func (r Report) writeWeights(p printer) {
	if len(r.Weights) == 0 {
		return
	}
	p("\n## Memory\n\nBytes of the heap and of stacks; those of the keys themselves are not counted. The shared state keeps a version and a lifetime for each key.\n")
	p("| of each | | | entries | bytes each |\n|---|---|---|--:|--:|")
	for _, w := range r.Weights {
		if w.Err != nil {
			p("| %s | %s | %s | %s | %s |", w.What, w.Name, w.Role, number(float64(w.Entries)), oneLine(w.Err))
			continue
		}
		p("| %s | %s | %s | %s | %s |", w.What, w.Name, w.Role, number(float64(w.Entries)), number(math.Round(w.Bytes)))
	}
}

// WriteSummary writes the table as plain text, for a terminal.
func (r Report) WriteSummary(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, b := range Budgets {
		for _, f := range b.Judge(r.Results) {
			if !f.Measured {
				continue
			}
			must, aim := f.bounds()
			fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t(%s)\t%s\n", i+1, b.Work, f.What, f.got(), must, aim, f.Verdict())
		}
	}
	return tw.Flush()
}

// number has three significant digits where it is small.
func number(x float64) string {
	switch {
	case x >= 1000:
		s := fmt.Sprintf("%.0f", x)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
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
