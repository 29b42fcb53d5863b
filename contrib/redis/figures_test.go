package sluiceredis_test

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
)

// figuresEnv has TestFigures measure what docs/fleet.md tells.
const figuresEnv = "FIGURES"

// setting is processes of one kind, or of several, that share a rate for a time.
type setting struct {
	name    string
	rate    sluice.Rate
	workers []worker
	far     time.Duration // the way to the server, there and back
	lasts   time.Duration
	look    func(t *testing.T, f figure)
}

// figure is what came of a setting.
type figure struct {
	used    float64 // of B + rT
	over    float64 // beyond B + rW, in the worst window
	trips   float64 // for each call
	waits   []time.Duration
	urgent  []time.Duration // waits of interactive calls
	another int             // calls of others
}

func at(waits []time.Duration, part float64) time.Duration {
	if len(waits) == 0 {
		return 0
	}
	return waits[min(len(waits)-1, int(part*float64(len(waits))))].Round(time.Microsecond)
}

// four are processes that all do the same.
func four(w worker) []worker { return []worker{w, w, w, w} }

var settings = []setting{
	{name: "saturated, L 4", workers: four(worker{Stock: 4, Callers: 10}), lasts: time.Minute, look: func(t *testing.T, f figure) {
		require.GreaterOrEqual(t, f.used, 0.99)
		require.LessOrEqual(t, f.trips, 0.5)
		require.LessOrEqual(t, f.over, 2.0, "which is what the machine is late")
	}},
	{name: "saturated, L 16", workers: four(worker{Stock: 16, Callers: 80}), lasts: time.Minute, look: func(t *testing.T, f figure) {
		require.GreaterOrEqual(t, f.used, 0.99)
		require.LessOrEqual(t, f.trips, 0.15)
	}},
	{name: "60/s, alone", workers: four(worker{Alone: true, Pace: 15}), lasts: 20 * time.Second},
	{name: "60/s, L 4", workers: four(worker{Stock: 4, Pace: 15}), lasts: 20 * time.Second, look: soon},
	{name: "60/s, L 4, 5 ms away", workers: four(worker{Stock: 4, Pace: 15}), far: 5 * time.Millisecond, lasts: 20 * time.Second, look: soon},
	{name: "tokens, L 1,000", rate: sluice.Rate{N: 90_000, Per: time.Minute, Burst: 40_000, Unit: "tokens"},
		workers: four(worker{Stock: 1000, Dearest: 8000, Settled: true, Callers: 5}), lasts: 3 * time.Minute, look: func(t *testing.T, f figure) {
			require.GreaterOrEqual(t, f.used, 0.97)
			require.LessOrEqual(t, f.over, 4*8000.0)
		}},
	{name: "interactive 25/s, three batch", workers: beside(25, 0), lasts: 20 * time.Second},
	{name: "interactive 25/s, three batch, reserve 16", workers: beside(25, 16), lasts: 20 * time.Second, look: ahead},
	{name: "interactive 50/s, three batch", workers: beside(50, 0), lasts: 20 * time.Second},
	{name: "interactive 50/s, three batch, reserve 16", workers: beside(50, 16), lasts: 20 * time.Second, look: ahead},
}

// beside is an interactive process beside three that have always something to do.
func beside(pace float64, reserve int64) []worker {
	batch := worker{Stock: 1, Reserve: reserve, Callers: 10}
	return []worker{{Stock: 1, Reserve: reserve, Urgent: true, Pace: pace}, batch, batch, batch}
}

func soon(t *testing.T, f figure)  { require.LessOrEqual(t, at(f.waits, 0.5), 100*time.Microsecond) }
func ahead(t *testing.T, f figure) { require.LessOrEqual(t, at(f.urgent, 0.99), 50*time.Millisecond) }

// TestFigures measures four real processes on a real server. It wants a machine that has nothing else to do.
func TestFigures(t *testing.T) {
	if os.Getenv(figuresEnv) == "" {
		t.Skip("it measures: six minutes, and no other work beside it; FIGURES=1 runs it")
	}
	program(t)
	fmt.Println("| four processes | used of B + rT | beyond B + rW | trips a call | wait p50 / p99 | interactive p50 / p99 | calls of batch |")
	fmt.Println("|---|--:|--:|--:|--:|--:|--:|")
	for _, s := range settings {
		t.Run(s.name, func(t *testing.T) {
			f := s.measure(t)
			fmt.Printf("| %s | %.3f | %+.1f | %.2f | %v / %v |", s.name, f.used, f.over, f.trips, at(f.waits, 0.5), at(f.waits, 0.99))
			if len(f.urgent) > 0 {
				fmt.Printf(" %v / %v | %d |\n", at(f.urgent, 0.5), at(f.urgent, 0.99), f.another)
			} else {
				fmt.Println(" | |")
			}
			if s.look != nil {
				s.look(t, f)
			}
		})
	}
}

func (s setting) measure(t *testing.T) (f figure) {
	r := s.rate
	if r.N == 0 {
		r = sluice.Rate{N: 100, Burst: 20}
	}
	server, dir := start(t), t.TempDir()
	_, _, err := open(t, sluiceredis.Config{Client: client(t, server.addr), Prefix: "sluice"}).Epoch(t.Context()) // with which its buckets begin to fill
	require.NoError(t, err)
	time.Sleep(time.Duration(float64(r.Burst) / float64(r.N) * float64(cmp.Or(r.Per, time.Second))))
	var list []*member
	for i, w := range s.workers {
		w.Name, w.Dir, w.Rate, w.Seed, w.Dearest = fmt.Sprint("worker", i), dir, r, uint64(i+1), max(1, w.Dearest)
		m := launch(t, w, server.addr)
		m.link.delay.Store(int64(s.far / 2))
		list = append(list, m)
	}
	time.Sleep(s.lasts)
	trips := uint64(0)
	for _, m := range list {
		trips += m.end(t).Trips
	}
	var rows [][3]int64
	for _, m := range list {
		mine := m.rows(t, startsFile)
		rows = append(rows, mine...)
		for _, row := range mine {
			f.waits = append(f.waits, time.Duration(row[2]))
		}
		if m.Urgent {
			f.urgent = slices.Sorted(slices.Values(f.waits))
		} else {
			f.another += len(mine)
		}
	}
	slices.Sort(f.waits)
	slices.SortFunc(rows, func(a, b [3]int64) int { return cmp.Compare(a[0], b[0]) })
	perNano := float64(r.N) / float64(cmp.Or(r.Per, time.Second))
	sum := int64(0)
	f.over = math.Inf(-1)
	least := math.Inf(1) // what was used before a start, less what had come in by then
	for _, row := range rows {
		came := perNano * float64(row[0]-rows[0][0])
		least = min(least, float64(sum)-came)
		sum += row[1]
		f.over = max(f.over, float64(sum)-came-least-float64(r.Burst))
	}
	f.used = float64(sum) / (float64(r.Burst) + perNano*float64(rows[len(rows)-1][0]-rows[0][0]))
	f.trips = float64(trips) / float64(len(rows))
	return f
}
