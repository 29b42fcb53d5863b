package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/agent"
)

// TestSmoke_EveryBodyRuns does each operation of each row a few times, so that none rots,
// and writes the report of it.
func TestSmoke_EveryBodyRuns(t *testing.T) {
	var r Report
	r.Options = Options{Smoke: true, Rounds: 2, Time: time.Millisecond}
	r.Size = Size{Keys: 500}
	for _, row := range Rows(r.Size) {
		for _, l := range row.Loads {
			res := Measure(&row, l, r.Options)
			for _, line := range res.Lines {
				if line.Err != nil {
					t.Errorf("%s, %s, %s: %v", row.Name, l, line.Name, line.Err)
				} else if len(line.Samples) != 2 {
					t.Errorf("%s, %s, %s: %d samples, want 2", row.Name, l, line.Name, len(line.Samples))
				}
			}
			r.Results = append(r.Results, res)
		}
	}
	r.Weights = Weigh(r.Size)
	for _, w := range r.Weights {
		if w.Err != nil {
			t.Errorf("memory of %s: %v", w.Name, w.Err)
		}
	}
	r.Waiting = MeasureWaiting(r.Size, r.Options)
	for _, w := range r.Waiting {
		if w.Err != nil || len(w.Machines) != len(Topologies) {
			t.Errorf("%d waiting: %+v", w.Calls, w)
		}
	}
	var out bytes.Buffer
	if err := r.WriteMarkdown(&out); err != nil {
		t.Fatal(err)
	}
	for _, row := range Rows(r.Size) {
		if !strings.Contains(out.String(), "\n### "+upperFirst(row.Name)+"\n") {
			t.Errorf("the report has no heading for %q", row.Name)
		}
	}
	if !t.Failed() && strings.Contains(out.String(), "not measured") {
		t.Error("a budget names a row, a load or a contestant that does not exist")
	}
}

// BenchmarkRows is every contestant of every row, for go test -bench.
func BenchmarkRows(b *testing.B) {
	for _, row := range Rows(Full) {
		for _, l := range row.Loads {
			for _, c := range row.Contestants {
				b.Run(row.Name+"/"+l.String()+"/"+c.Name, func(b *testing.B) {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(l.Cores))
					body, done, err := c.Make(l.Goroutines)
					if err != nil {
						b.Fatal(err)
					}
					if done != nil {
						defer done()
					}
					b.ReportAllocs()
					b.ResetTimer()
					if _, err := Run(body, l, b.N); err != nil {
						b.Fatal(err)
					}
				})
			}
		}
	}
}

// The floors are programs that work: what they claim to do is tested here.

func TestFloor_FusedCall(t *testing.T) {
	ctx := context.Background()
	var log []string
	sink := sinkFunc(func(e floorEvent) { log = append(log, e.kind) })
	fails := errors.New("tool")
	mode := ""
	f := func(context.Context, Input) (int, error) {
		switch mode {
		case "panic":
			panic("boom")
		case "fail":
			return 0, fails
		}
		return answer, nil
	}
	for _, x := range []struct {
		name   string
		invoke floorInvoke
		used   func() int
	}{
		{"fused", nil, nil},
		{"chain", newChain(f, 1, sink).invoke, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.invoke == nil {
				u := newFused(f, 1, sink)
				x.invoke, x.used = u.invoke, func() int { return u.slots.used }
			}
			mode, log = "", nil
			if out, err := x.invoke(ctx, "1", toolName, input); out != answer || err != nil {
				t.Errorf("got %v, %v", out, err)
			}
			if got := strings.Join(log, " "); got != "invoked started completed" {
				t.Errorf("events %q", got)
			}
			if _, err := x.invoke(ctx, "1", "nobody", input); err != errFloorUnknown {
				t.Errorf("unknown tool: %v", err)
			}
			mode = "panic"
			if _, err := x.invoke(ctx, "1", toolName, input); !errors.Is(err, errFloorPanic) {
				t.Errorf("panic: %v", err)
			}
			mode, log = "fail", nil
			for range 4 { // with the panic, five in a row
				if _, err := x.invoke(ctx, "1", toolName, input); err != fails { // and the slot was given back
					t.Errorf("failure: %v", err)
				}
			}
			mode, log = "", nil
			if _, err := x.invoke(ctx, "1", toolName, input); err != errFloorOpen {
				t.Errorf("after five failures: %v", err)
			}
			if got := strings.Join(log, " "); got != "invoked failed" {
				t.Errorf("events of a refusal %q", got)
			}
			if x.used != nil && x.used() != 0 {
				t.Errorf("%d slots are still taken", x.used())
			}
		})
	}
}

type sinkFunc func(floorEvent)

func (f sinkFunc) emit(e floorEvent) { f(e) }

func TestFloor_FusedKeepsItsLimitAndLosesNoWakeUp(t *testing.T) {
	var now, most atomic.Int64
	x := newFused(func(context.Context, Input) (int, error) {
		n := now.Add(1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		runtime.Gosched()
		now.Add(-1)
		return answer, nil
	}, 3, dropSink{})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			ctx := context.Background()
			for j := range 200 {
				if (i+j)%7 == 0 { // some leave the queue
					c, cancel := context.WithCancel(ctx)
					cancel()
					if _, err := x.invoke(c, "1", toolName, input); err != nil && !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					continue
				}
				if _, err := x.invoke(ctx, "1", toolName, input); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if most.Load() > 3 {
		t.Errorf("%d calls at once, limit 3", most.Load())
	}
	if x.slots.used != 0 || x.slots.queue.first != nil {
		t.Errorf("%d slots taken, queue %v at the end", x.slots.used, x.slots.queue.first)
	}
	if x.slots.queued == 0 {
		t.Error("nobody queued: the test shows nothing")
	}
}

func TestFloor_RateAndBreaker(t *testing.T) {
	var g gcra
	got := 0
	for g.allow(0, 10, 50) {
		got++
	}
	if got != 5 {
		t.Errorf("burst of %d, want 5", got)
	}
	if g.allow(9, 10, 50) || !g.allow(10, 10, 50) || g.allow(10, 10, 50) {
		t.Error("a token does not come at 10")
	}
	var b tripwire
	for range 5 {
		b.done(0, false)
	}
	if b.ready(30*second-1) || !b.ready(30*second) {
		t.Error("not open for 30 s after five failures in a row")
	}
	tableFlat, tableSharded := newFlatRates(100), newShardedRates()
	for _, allow := range []func(string) bool{
		func(k string) bool { return tableFlat.allow(k, 0, 10, 50) },
		func(k string) bool { return tableSharded.allow(k, 0, 10, 50) },
	} {
		for _, k := range keys(100) {
			n := 0
			for allow(k) {
				n++
			}
			if n != 5 {
				t.Fatalf("%s: burst of %d, want 5", k, n)
			}
		}
	}
}

// floorSemaphore is fifoSlots with a lock of its own.
type floorSemaphore struct {
	mu    sync.Mutex
	slots fifoSlots
}

func newFloorSemaphore(n int) *floorSemaphore {
	return &floorSemaphore{slots: fifoSlots{limit: n}}
}

func (s *floorSemaphore) acquire(ctx context.Context) error {
	s.mu.Lock()
	w := s.slots.takeLocked()
	s.mu.Unlock()
	if w == nil {
		return nil
	}
	return s.slots.wait(ctx, &s.mu, w)
}

func (s *floorSemaphore) release() {
	s.mu.Lock()
	w := s.slots.giveLocked()
	s.mu.Unlock()
	if w != nil {
		w.ready <- struct{}{}
	}
}

// TestFloor_QueueCancelledAfterTheGrant: who leaves the queue when the slot is already its
// own passes it on.
func TestFloor_QueueCancelledAfterTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFloorSemaphore(1)
		if err := s.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- s.acquire(ctx) }()
		synctest.Wait()
		next := make(chan error, 1)
		go func() { next <- s.acquire(t.Context()) }()
		synctest.Wait()

		s.mu.Lock()
		w := s.slots.giveLocked() // granted, and not yet told
		s.mu.Unlock()
		cancel()
		synctest.Wait()
		w.ready <- struct{}{}
		if err := <-left; err != context.Canceled {
			t.Errorf("the one who left got %v", err)
		}
		synctest.Wait()
		select {
		case err := <-next:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Fatal("the slot was not passed on")
		}
		s.release()
		if s.slots.used != 0 {
			t.Errorf("%d slots taken at the end", s.slots.used)
		}
	})
}

func TestFloor_LazyDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		d := newDeadline(t.Context(), time.Second)
		if d.Err() != nil {
			t.Errorf("before: %v", d.Err())
		}
		<-d.Done()
		if got := time.Since(start); got != time.Second || d.Err() != context.DeadlineExceeded {
			t.Errorf("Done after %v with %v, want 1s and DeadlineExceeded", got, d.Err())
		}
		d.end()
		if d.Err() != context.DeadlineExceeded {
			t.Errorf("the end changed the error to %v", d.Err())
		}

		d = newDeadline(t.Context(), time.Second) // nobody asks for Done
		time.Sleep(time.Second)
		if d.Err() != context.DeadlineExceeded {
			t.Errorf("after a second: %v", d.Err())
		}

		parent, cancel := context.WithCancel(t.Context())
		d = newDeadline(parent, time.Hour)
		done := d.Done()
		cancel()
		<-done
		if d.Err() != context.Canceled {
			t.Errorf("parent cancelled: %v", d.Err())
		}

		d = newDeadline(t.Context(), time.Hour)
		done = d.Done()
		d.end()
		<-done
		if d.Err() != context.Canceled {
			t.Errorf("ended: %v", d.Err())
		}
	})
}

func TestFloor_SemaphoresKeepTheirLimit(t *testing.T) {
	heap, level, fifo := &heapSemaphore{free: 2}, newLevelSemaphore(2), newFloorSemaphore(2)
	for name, s := range map[string]struct{ acquire, release func(int) }{
		"heap":  {heap.acquire, func(int) { heap.release() }},
		"level": {func(w int) { level.acquire(w % 4) }, func(int) { level.release() }},
		"fifo": {func(int) {
			if err := fifo.acquire(context.Background()); err != nil {
				t.Error(err)
			}
		}, func(int) { fifo.release() }},
	} {
		t.Run(name, func(t *testing.T) {
			var now atomic.Int64
			var wg sync.WaitGroup
			for w := range 20 {
				wg.Go(func() {
					for range 200 {
						s.acquire(w)
						if n := now.Add(1); n > 2 {
							t.Errorf("%d at once, limit 2", n)
						}
						runtime.Gosched()
						now.Add(-1)
						s.release(w)
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestStateContestantsCountAlike(t *testing.T) {
	for _, sc := range stateContestants {
		t.Run(sc.name, func(t *testing.T) {
			ks := keys(10)
			c, done, err := sc.make(ks)
			if err != nil {
				t.Fatal(err)
			}
			if done != nil {
				defer done()
			}
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for i := range 1000 {
						if err := c.add(ks[i%10]); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			for _, k := range ks {
				if v, err := c.get(k); v != 800 || err != nil {
					t.Errorf("%s is %d, %v, want 800", k, v, err)
				}
				if err := c.set(k, 7); err != nil {
					t.Error(err)
				}
				if v, _ := c.get(k); v != 7 {
					t.Errorf("%s is %d after set, want 7", k, v)
				}
			}
		})
	}
}

// TestTurnsAgree: whoever reads and writes a turn gives the model the same calls and answers again.
func TestTurnsAgree(t *testing.T) {
	for _, x := range sdks {
		turn := newTurn(x.format)
		m, err := x.format.Parse(turn.body)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Calls) != turnCalls {
			t.Fatalf("%v: %d calls, want %d", x.format, len(m.Calls), turnCalls)
		}
		for _, c := range m.Calls {
			if c.Err != nil || c.Request.Tool != toolName || string(c.Request.Args) != turnArgs {
				t.Errorf("%v: %+v", x.format, c)
			}
		}
		ours, err := x.format.Render(m, turn.replies)
		if err != nil {
			t.Fatal(err)
		}
		for name, do := range map[string]turnFunc{parseRender: oursTurn, x.name: x.do, plainStructs: x.plain} {
			got, err := do(turn)
			if err != nil || len(got) != len(m.Echo)+len(ours) {
				t.Fatalf("%v, %s: %d messages and %v, want %d", x.format, name, len(got), err, len(m.Echo)+len(ours))
			}
			if again := asked(t, x.format, got[:len(m.Echo)]); !reflect.DeepEqual(again, asked(t, x.format, m.Echo)) {
				t.Errorf("%v, %s: the message has other calls: %s", x.format, name, again)
			}
			for i, raw := range ours {
				if got := got[len(m.Echo)+i]; !reflect.DeepEqual(asText(t, got), asText(t, raw)) {
					t.Errorf("%v, %s: answers %s, want %s", x.format, name, got, raw)
				}
			}
		}
	}
}

// asked are the calls of a message of a history: id, tool and arguments.
func asked(t *testing.T, format agent.Format, echo []json.RawMessage) (calls []any) {
	t.Helper()
	body := []byte(echo[0])
	if format == agent.OpenAIResponses {
		body, _ = json.Marshal(map[string]any{"output": echo})
	}
	m, err := format.Parse(body)
	if err != nil {
		t.Fatalf("%v: %v", format, err)
	}
	for _, c := range m.Calls {
		if c.Err != nil {
			t.Errorf("%v: %v", format, c.Err)
		}
		calls = append(calls, c.Request.ID, c.Request.Tool, asText(t, c.Request.Args))
	}
	return calls
}

// asText is the value of raw, in which lists of one text are that text.
func asText(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return flatten(v)
}

func flatten(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = flatten(x)
		}
	case []any:
		for i, x := range v {
			v[i] = flatten(x)
		}
		if len(v) == 1 {
			if part, _ := v[0].(map[string]any); len(part) == 2 && part["type"] == "text" {
				return part["text"]
			}
		}
	}
	return v
}

func TestQueuedRowsQueue(t *testing.T) {
	s := newFloorSemaphore(1)
	body := queuedBody(100, func(hold func()) func(int) error {
		return func(int) error {
			if err := s.acquire(context.Background()); err != nil {
				return err
			}
			hold()
			s.release()
			return nil
		}
	})
	if _, err := Run(body, hundred, 10_000); err != nil {
		t.Fatal(err)
	}
	if s.slots.queued < 9_000 {
		t.Errorf("%d of 10,000 queued, want nearly all", s.slots.queued)
	}
}

func TestQuantiles(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		q    float64
		want float64
	}{
		{nil, 0.5, 0},
		{[]float64{3}, 0.5, 3},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 0.25, 2},
		{[]float64{1, 2}, 1, 2},
	} {
		if got := quantile(c.v, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) is %v, want %v", c.v, c.q, got, c.want)
		}
	}
}

// TestFigures: a time may be at most its bound, a throughput at least, and few enough allocations
// are none.
func TestFigures(t *testing.T) {
	row := &Row{Name: "row"}
	line := func(name string, ns ...float64) Line {
		l := Line{Name: name}
		for _, x := range ns {
			l.Samples = append(l.Samples, Sample{NS: x, Allocs: 0.04, Bytes: 80})
		}
		return l
	}
	results := []Result{
		{row, alone, []Line{line("a", 30, 50, 40), line("b", 10, 20, 10), line("extra", 10, 10, 10), line("none")}},
		{row, hundred, []Line{line("a", 20, 20, 20)}},
	}
	at := func(q Quantity, ours, against string) Mark {
		return Mark{Quantity: q, Row: "row", Load: alone, Ours: ours, Against: against}
	}
	less, cores := at(Time, "a", "b"), at(Throughput, "a", "a")
	less.Minus, cores.AgainstLoad = "extra", hundred
	noisy := less
	noisy.Ours, noisy.Minus = "b", "a"
	for _, c := range []struct {
		mark    Mark
		got     float64
		verdict string
	}{
		{at(Time, "a", "b").must(3, 2), 3, "met"},
		{at(Time, "a", "b").must(2.9, 2), 3, "missed"},
		{at(Time, "a", "b").must(4, 3), 3, "aim met"},
		{at(Time, "a", "b"), 3, ""},
		{less.must(3, 2), 2, "aim met"},
		{noisy.must(3, 2), -2, "too noisy"},
		{at(Throughput, "b", "a").must(3, 4), 3, "met"},
		{at(Throughput, "b", "a").must(3.1, 4), 3, "missed"},
		{cores.must(0.5, 0), 0.5, "met"},
		{at(Allocs, "a", "").must(0, 0), 0.04, "met"},
		{at(Bytes, "a", "").must(79, 0), 80, "missed"},
		{at(Time, "a", "none").must(3, 2), 0, "not measured"},
		{at(Time, "a", "nobody").must(3, 2), 0, "not measured"},
	} {
		f := c.mark.figure(results)
		if f.Got != c.got || f.Verdict() != c.verdict {
			t.Errorf("%+v: got %v, %q, want %v, %q", c.mark, f.Got, f.Verdict(), c.got, c.verdict)
		}
	}
}
