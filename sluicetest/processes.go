package sluicetest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// processEnv tells a process that it is one of several, and what to do.
const processEnv = "SLUICETEST_PROCESS"

// process is what one of several processes has to do, and where it leaves what it got.
type process struct {
	Index int
	Seed  uint64
	Key   string
	Tick  time.Duration
	Slack time.Duration
	Dir   string
}

// account is what a process got, and the longest that the engine, or the machine, kept it
// from asking.
type account struct {
	Uses []use
	Late time.Duration
}

// file is where a process leaves what; all of them share the one that says when they start.
func (p process) file(what string) string {
	if what == "start" {
		return filepath.Join(p.Dir, what)
	}
	return filepath.Join(p.Dir, fmt.Sprint(what, p.Index))
}

// Processes checks that processes share a quota as goroutines do: in no window do four of
// them get more than its meter allows, and together they get what comes in. They are real
// ones: it runs the test that calls it, by its name, in four more of the test's binary, with
// env added to their environment. There the same call of Processes draws from the quota that
// open returns, and says what it got; so open must reach the same engine in each of them,
// by what env says, and nothing before the call may take long.
//
// An engine of one process has nothing to check here.
func Processes(t interface {
	T
	Name() string
}, open func() engine.Quota, env []string, o Options) {
	t.Helper()
	o = o.normal()
	if work := os.Getenv(processEnv); work != "" {
		var p process
		if err := json.Unmarshal([]byte(work), &p); err != nil {
			t.Errorf("Processes: %s: %v", processEnv, err)
			return
		}
		o.Tick, o.Slack = p.Tick, p.Slack
		check(t, "Processes", o, func(r *run) { r.process(open(), p) })
		return
	}
	check(t, "Processes", o, func(r *run) { r.processes(t.Name(), env) })
}

// processes starts four, and looks at what they got.
func (r *run) processes(test string, env []string) {
	const count, ticks = 4, 20
	dir, err := os.MkdirTemp("", "sluicetest")
	r.must(err == nil, "%v", err)
	defer os.RemoveAll(dir)
	meter := r.shared("")
	ctx, cancel := context.WithCancel(r.ctx) // for one that failed nobody waits
	defer cancel()
	r.ctx = ctx
	p := process{Seed: r.Seed, Key: r.key("processes"), Tick: r.Tick, Slack: r.Slack, Dir: dir}
	var mu sync.Mutex
	var uses []use
	var late time.Duration
	r.together(count+1, func(i int) {
		p := p
		p.Index = i
		if i == count {
			r.start(p)
			return
		}
		work, _ := json.Marshal(p)
		name := "^" + strings.ReplaceAll(regexp.QuoteMeta(test), "/", "$/^") + "$"
		cmd := exec.CommandContext(r.ctx, os.Args[0], "-test.run="+name, "-test.count=1", "-test.timeout=1m")
		cmd.Env = append(append(os.Environ(), env...), processEnv+"="+string(work))
		if out, err := cmd.CombinedOutput(); err != nil {
			r.fail("process %d failed: %v\n%s", i, err, out)
			cancel()
			return
		}
		got, err := os.ReadFile(p.file("account"))
		var mine account
		if err == nil {
			err = json.Unmarshal(got, &mine)
		}
		if err != nil {
			r.fail("process %d left no account: %v", i, err)
		}
		mu.Lock()
		uses, late = append(uses, mine.Uses...), max(late, mine.Late)
		mu.Unlock()
	})
	r.windows(uses, meter)
	most := meter.Burst + int64(ticks*r.Tick/(meter.Per/time.Duration(meter.N)))
	r.must(int64(len(uses)) >= most*9/10 || late > r.Tick/2, "four processes that draw all the time got %d units in %v, of %d that were there and came in (seed %d)", len(uses), ticks*r.Tick, most, r.Seed)
}

// start says when they start, once all are there.
func (r *run) start(p process) {
	for i := range p.Index {
		one := p
		one.Index = i
		for r.ctx.Err() == nil {
			if _, err := os.Stat(one.file("ready")); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	at, _ := time.Now().Add(r.Tick).MarshalText()
	err := os.WriteFile(p.file("start.new"), at, 0o600)
	if err == nil {
		err = os.Rename(p.file("start.new"), p.file("start")) // whole, or not there
	}
	r.must(err == nil, "%v", err)
}

// shared is the meter that the processes draw from.
func (r *run) shared(key string) engine.Meter {
	return engine.Meter{Key: key, N: 10, Per: r.Tick, Burst: 10}
}

// process draws as one of several: for 20 ticks, all of them from the same instant on.
func (r *run) process(q engine.Quota, p process) {
	err := os.WriteFile(p.file("ready"), nil, 0o600)
	r.must(err == nil, "%v", err)
	var start time.Time // by the wall clock, which processes of one machine share
	for {
		at, err := os.ReadFile(p.file("start"))
		if err == nil && start.UnmarshalText(at) == nil {
			break
		}
		r.must(r.ctx.Err() == nil, "nobody said when to start")
		time.Sleep(time.Millisecond)
	}
	end := start.Add(20 * p.Tick)
	r.Sleep(time.Until(start))
	now := func() time.Duration { return time.Since(start) }
	var got account
	for time.Now().Before(end) {
		d := units(1, 2, r.shared(p.Key))
		d.MaxWait = r.Tick / 2
		if p.Index%2 == 0 {
			d.Op = engine.NewOpID()
		}
		lo := now()
		g, err := q.Take(r.ctx, d)
		hi := now()
		if err == nil {
			err = d.Check(g)
		}
		r.must(err == nil, "Take in process %d returned %v", p.Index, err)
		last := time.Duration(0)
		for n := range g.Units {
			last = g.After + time.Duration(n)*g.Every
			got.Uses = append(got.Uses, use{lo + last, hi + last})
		}
		sleep := max(last, min(g.Retry, r.Tick/7))
		r.Sleep(sleep)
		got.Late = max(got.Late, hi-lo, now()-hi-sleep)
	}
	text, _ := json.Marshal(got)
	err = os.WriteFile(p.file("account"), text, 0o600)
	r.must(err == nil, "%v", err)
}
