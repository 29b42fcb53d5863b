package sluiceredis_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
)

// How much chaos there is: CHAOS runs, 10 if it is not set, the first of them by the seed CHAOS_SEED, and
// CHAOS_WIDTH of them side by side, since they mostly wait.
const (
	chaosEnv = "CHAOS"
	seedEnv  = "CHAOS_SEED"
	widthEnv = "CHAOS_WIDTH"
)

func fromEnv(t *testing.T, name string, normal uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return normal
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

// Real processes share a rate on a real server through the whole way of a call, while processes are killed and stand
// still, the server is killed and comes back with what it knew or without, subscriptions and connections are cut,
// and the way to the server is long. No window has more starts than docs/fleet.md says; all who live go on without
// being started again, and have all of the rate a second after the last fault.
func TestChaos(t *testing.T) {
	program(t)
	seed := fromEnv(t, seedEnv, rand.Uint64()>>16)
	runs, width := fromEnv(t, chaosEnv, 10), fromEnv(t, widthEnv, 5)
	t.Logf("%s=%d %s=%d", chaosEnv, runs, seedEnv, seed)
	free := make(chan struct{}, width)
	var group sync.WaitGroup
	defer group.Wait()
	for i := range runs {
		free <- struct{}{}
		group.Go(func() {
			defer func() { <-free }()
			t.Run(fmt.Sprint(seed+i), func(t *testing.T) { newChaos(t, seed+i).run() })
		})
	}
}

// chaos is one run. What happens in it, but not when exactly, goes by its seed.
type chaos struct {
	t         *testing.T
	rnd       *rand.Rand
	began     time.Time
	server    *child
	dir       string
	conf      worker
	processes int
	alive     []*member
	all       []*member
	losses    [][2]int64 // the instants at which the server went with what it knew, and began anew
	resting   bool
	kinds     []int // of faults that are still to come
}

// member is a worker, and what the run has done to it.
type member struct {
	worker
	link  *link
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   bytes.Buffer
	stops [][2]int64 // instants between which it stood still
}

func newChaos(t *testing.T, seed uint64) *chaos {
	rnd := rand.New(rand.NewPCG(seed, 0))
	x := &chaos{t: t, rnd: rnd, began: time.Now(), dir: t.TempDir(), processes: 2 + rnd.IntN(4)}
	x.server = start(t, "--appendonly", "yes", "--appendfsync", "no") // a server that is killed has written, and need not wait for the disk
	rate := []sluice.Rate{{N: 100, Burst: 20}, {N: 50, Burst: 25}, {N: 200, Burst: 40}, {N: 40, Per: 500 * time.Millisecond, Burst: 30}}[rnd.IntN(4)]
	x.conf = worker{Dir: x.dir, Rate: rate, Stock: 1, Dearest: 1, Callers: 5 + rnd.IntN(20)}
	if rnd.IntN(3) == 0 { // else little hides what is too much
		x.conf.Stock += rnd.Int64N(max(1, rate.Burst/int64(x.processes)))
	}
	if rnd.IntN(3) == 0 {
		x.conf.Dearest = 2 + rnd.Int64N(3)
	}
	switch rnd.IntN(8) {
	case 0, 1, 2:
		x.conf.Away, x.conf.Share = engine.LocalShare, x.processes
	case 3:
		x.conf.Away = engine.Admit
	}
	return x
}

// say is what there is to read of a run that failed.
func (x *chaos) say(format string, a ...any) {
	x.t.Logf("%6.3fs  %s", time.Since(x.began).Seconds(), fmt.Sprintf(format, a...))
}

func (x *chaos) between(least, most time.Duration) time.Duration {
	return least + time.Duration(x.rnd.Int64N(int64(most-least)))
}

// join starts one more worker. It may have to wait for a server.
func (x *chaos) join() *member {
	w := x.conf
	w.Name = fmt.Sprint("worker", len(x.all))
	m := launch(x.t, w, x.server.addr)
	x.alive, x.all = append(x.alive, m), append(x.all, m)
	return m
}

// launch starts a worker, on a way of its own to the server, unless it has one.
func launch(t *testing.T, w worker, server string) *member {
	m := &member{worker: w, link: newLink(t, server)}
	m.Addr = cmp.Or(w.Addr, m.link.addr())
	text, err := json.Marshal(m.worker)
	require.NoError(t, err)
	m.cmd = exec.Command(os.Args[0], "-test.run=^TestChaosWorker$", "-test.v", "-test.count=1", "-test.timeout=5m")
	m.cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	m.in, err = m.cmd.StdinPipe()
	require.NoError(t, err)
	m.cmd.Stdout, m.cmd.Stderr = &m.out, &m.out
	require.NoError(t, m.cmd.Start())
	t.Cleanup(func() { // of a run that failed
		if m.cmd.ProcessState == nil {
			_ = m.cmd.Process.Kill()
			_ = m.cmd.Wait()
		}
	})
	return m
}

func (x *chaos) run() {
	x.say("%d processes with %+v, a stock of %d, costs to %d, %d callers each; while the server is away: %v", x.processes, x.conf.Rate,
		x.conf.Stock, x.conf.Dearest, x.conf.Callers, []string{"Deny", "LocalShare", "Admit"}[x.conf.Away])
	for range x.processes {
		x.join()
	}
	time.Sleep(x.between(500*time.Millisecond, time.Second))
	for range 3 + x.rnd.IntN(5) {
		x.fault()
		time.Sleep(x.between(50*time.Millisecond, 1200*time.Millisecond))
	}
	x.tell(false)
	for _, m := range x.alive {
		m.link.delay.Store(0)
		m.link.set(false)
	}
	well := time.Now()
	x.say("all is well")
	slow := x.probe(well.Add(time.Second), well.Add(3*time.Second))
	time.Sleep(100 * time.Millisecond)
	for _, m := range x.alive {
		m.end(x.t)
	}
	x.say("all have ended")
	x.judge(well.UnixNano(), int64(slow))
}

// probe returns at the second instant, and says for how long the server did not answer between the two: that too is the
// machine's doing.
func (x *chaos) probe(from, to time.Time) (slow time.Duration) {
	c, err := net.Dial("tcp", x.server.addr)
	require.NoError(x.t, err)
	defer c.Close()
	answer := make([]byte, 64)
	for time.Now().Before(to) {
		began := time.Now()
		_, err := io.WriteString(c, "PING\r\n")
		require.NoError(x.t, err)
		_, err = c.Read(answer)
		require.NoError(x.t, err)
		time.Sleep(2 * time.Millisecond)
		if d := time.Since(began); d > longGap && began.After(from) {
			slow += d
		}
	}
	return slow
}

// fault does something to the workers, to the server or to what is between them, and mends it.
func (x *chaos) fault() {
	m := x.alive[x.rnd.IntN(len(x.alive))]
	switch x.rnd.IntN(10) {
	case 0:
		x.say("%s is killed, another comes", m.Name)
		require.NoError(x.t, m.cmd.Process.Kill())
		_ = m.cmd.Wait()
		x.alive = slices.DeleteFunc(x.alive, func(o *member) bool { return o == m })
		x.join()
	case 1, 2:
		d := x.between(20*time.Millisecond, 2500*time.Millisecond)
		x.say("%s stands still for %v", m.Name, d)
		from := time.Now().UnixNano()
		require.NoError(x.t, m.cmd.Process.Signal(syscall.SIGSTOP))
		time.Sleep(d)
		require.NoError(x.t, m.cmd.Process.Signal(syscall.SIGCONT))
		m.stops = append(m.stops, [2]int64{from, time.Now().UnixNano()})
	case 3:
		x.restart(false)
	case 4, 9:
		x.restart(true)
	case 5:
		x.say("subscriptions are cut")
		x.cut("pubsub")
	case 6:
		x.say("connections are cut")
		x.cut("normal")
	case 7:
		d := x.between(50*time.Millisecond, 1500*time.Millisecond)
		x.say("%s is cut off for %v", m.Name, d)
		m.link.set(true)
		time.Sleep(d)
		m.link.set(false)
	case 8:
		d := x.between(0, 20*time.Millisecond)
		x.say("%s is %v away from the server", m.Name, d)
		m.link.delay.Store(int64(d))
	}
	if x.rnd.IntN(4) == 0 {
		x.tell(!x.resting)
	}
}

// restart kills the server, which comes back with what it knew or without.
func (x *chaos) restart(empty bool) {
	d := x.between(10*time.Millisecond, 2*time.Second)
	x.say("the server is gone for %v, and comes back empty: %v", d, empty)
	x.server.kill()
	gone := time.Now().UnixNano()
	if empty {
		i := slices.Index(x.server.args, "--dir")
		require.NoError(x.t, os.RemoveAll(filepath.Join(x.server.args[i+1], "appendonlydir")))
	}
	time.Sleep(d)
	if empty {
		x.losses = append(x.losses, [2]int64{gone, time.Now().UnixNano()})
	}
	x.server.run()
}

// cut ends connections of a kind, other than the one that asks.
func (x *chaos) cut(kind string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := client(x.t, x.server.addr)
	require.NoError(x.t, c.Do(ctx, c.B().Arbitrary("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes").Build()).Error())
}

// tell has the callers of all workers rest, or be busy.
func (x *chaos) tell(rest bool) {
	if x.resting == rest {
		return
	}
	x.resting = rest
	line := map[bool]string{false: "busy\n", true: "rest\n"}[rest]
	x.say("all are to %s", strings.Replace(line, "busy\n", "be busy", 1))
	for _, m := range x.alive {
		_, err := io.WriteString(m.in, line)
		require.NoError(x.t, err)
	}
}

// end has the worker close what it has, which leaves nothing over, and returns what its Fleet has done.
func (m *member) end(t *testing.T) (did sluice.FleetState) {
	require.NoError(t, m.in.Close())
	ended := make(chan error, 1)
	go func() { ended <- m.cmd.Wait() }()
	select {
	case err := <-ended:
		require.NoError(t, err, "%s: %s", m.Name, &m.out)
	case <-time.After(30 * time.Second):
		_ = m.cmd.Process.Signal(syscall.SIGQUIT)
		<-ended
		t.Fatalf("%s has not ended:\n%s", m.Name, &m.out)
	}
	data, err := os.ReadFile(m.file(endFile))
	require.NoError(t, err, "%s: %s", m.Name, &m.out)
	require.NoError(t, json.Unmarshal(data, &did))
	return did
}

// rows reads one of the worker's files.
func (w worker) rows(t *testing.T, kind string) (list [][3]int64) {
	data, err := os.ReadFile(w.file(kind))
	if errors.Is(err, os.ErrNotExist) { // it was killed before it began
		return nil
	}
	require.NoError(t, err)
	for ; len(data) >= 24; data = data[24:] {
		var row [3]int64
		for i := range row {
			row[i] = int64(binary.LittleEndian.Uint64(data[8*i:]))
		}
		list = append(list, row)
	}
	return list
}

// gap is a time for which the machine, and not the run, did not let a worker do what it was there to do.
type gap struct{ from, to int64 }

// judge looks at what the workers have left. Everything was well from the instant on.
func (x *chaos) judge(well, slow int64) {
	t := x.t
	var starts [][3]int64
	var gaps []gap
	last := map[*member]int64{}
	const second = int64(time.Second)
	lost := int64(0) // of the two seconds from one second after the last fault on, for whom the machine let down most
	for _, m := range x.all {
		mine := m.rows(t, startsFile)
		starts = append(starts, mine...)
		for _, s := range mine {
			last[m] = max(last[m], s[0])
		}
		sum := int64(0)
		for _, row := range m.rows(t, gapsFile) {
			g := gap{row[0], row[1]}
			if !slices.ContainsFunc(m.stops, func(s [2]int64) bool { return g.from < s[1] && s[0] < g.to }) {
				gaps = append(gaps, g)
				sum += max(0, min(g.to, well+3*second)-max(g.from, well+second))
			}
		}
		lost = max(lost, sum+slow)
	}
	slices.SortFunc(starts, func(a, b [3]int64) int { return cmp.Compare(a[0], b[0]) })
	slices.SortFunc(gaps, func(a, b gap) int { return cmp.Compare(a.from, b.from) })
	if x.conf.Away != engine.Admit { // which has no bound
		x.inWindows(starts, gaps)
	}

	perNano := float64(x.conf.Rate.N) / float64(cmp.Or(x.conf.Rate.Per, time.Second))
	used := int64(0)
	for _, s := range starts {
		if s[0] >= well+second && s[0] < well+3*second {
			used += s[1]
		}
	}
	x.say("%d starts; %.3f of the rate is used from one second after the last fault on; of that the machine took %v", len(starts),
		float64(used)/(perNano*float64(2*second)), time.Duration(lost))
	require.GreaterOrEqual(t, float64(used), 0.9*perNano*float64(max(0, 2*second-2*lost)), "from one second after the last fault on")
	for _, m := range x.alive {
		require.Greater(t, last[m], well+second, "%s has not gone on", m.Name)
	}
}

// inWindows holds that no window has more starts than docs/fleet.md says. What a worker was given it starts later by
// what the machine is late, which is known to longGap. Who of LocalShare was cut off for how long the run does not know, since a
// trip of a busy machine may take longer than its budget: all may have been.
func (x *chaos) inWindows(starts [][3]int64, gaps []gap) {
	c, n := x.conf, float64(x.processes)
	burst, perNano := float64(c.Rate.Burst), float64(c.Rate.N)/float64(cmp.Or(c.Rate.Per, time.Second))
	share := 1.0
	if c.Away == engine.LocalShare {
		share += n / float64(c.Share)
	}
	atHand := n * float64(max(c.Stock, c.Dearest))
	worst := math.Inf(-1) // above burst and rate
	for i, from := range starts {
		sum, late, next := 0.0, int64(longGap), 0
		for _, to := range starts[i:] {
			for ; next < len(gaps) && gaps[next].from <= to[0]; next++ {
				if g := gaps[next]; g.to+int64(longGap) >= from[0] {
					late = max(late, g.to-g.from)
				}
			}
			sum += float64(to[1])
			lost, idle := 0, int64(0) // meanwhile nothing came in
			for _, l := range x.losses {
				if from[0] < l[0] && l[0] <= to[0] {
					lost++
				}
				idle += max(0, min(to[0], l[1])-max(from[0], l[0]))
			}
			plain := burst + perNano*float64(to[0]-from[0])
			worst = max(worst, sum-plain)
			most := share*(plain+perNano*float64(late)) - perNano*float64(idle) + atHand*float64(1+lost)
			if sum > most+1e-6 {
				x.t.Fatalf("%v start in %v, %v after the beginning: at most %.2f may", sum, time.Duration(to[0]-from[0]),
					time.Duration(from[0]-x.began.UnixNano()), most)
			}
		}
	}
	x.say("at most %.2f above B + rW; N L is %v, %d losses", worst, atHand, len(x.losses))
}
