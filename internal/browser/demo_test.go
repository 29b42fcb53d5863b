package browser

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/examples/demo/office"
)

// demo starts the demo's page. Its calls pass h, if that is not nil, when they have been admitted.
func demo(t *testing.T, h *hold) (address string, exec *sluice.Executor) {
	t.Helper()
	l, err := office.ListenHere("localhost:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background()) // not t's, which ends before tabs are closed
	made, ended := make(chan *sluice.Executor, 1), make(chan error, 1)
	o := office.Observer{Watch: func(e *sluice.Executor) { made <- e }}
	if h != nil {
		o.Inner = h
	}
	go func() { ended <- office.Page(ctx, l, o) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	return fmt.Sprintf("http://%s/", l.Addr()), <-made
}

// still is a snapshot without what time alone changes.
func still(s sluice.Snapshot) sluice.Snapshot {
	s.At = time.Time{}
	s.EventsDelivered = 0
	s.Lanes = slices.Clone(s.Lanes)
	for i := range s.Lanes {
		s.Lanes[i].Oldest = 0
	}
	return s
}

// frozen reads views of the page between two snapshots that are the same, so that the page has to say what they say.
func frozen(b *tab, address string, exec *sluice.Executor, views ...string) (same sluice.Snapshot, read map[string]tables) {
	b.t.Helper()
	until(b.t, "nothing changes while the page is read", func() (bool, any) {
		before := exec.Snapshot()
		read = make(map[string]tables)
		for _, view := range views {
			until(b.t, "the page shows what is later", func() (bool, any) {
				b.open(address + view)
				at := b.at()
				return at.After(before.At), at
			})
			read[view] = tables{count: map[string]string{}, rows: map[string][]map[string]string{}}
			for _, name := range []string{"in_flight", "queued", "abandoned", "completed", "failed", "denied"} {
				read[view].count[name] = b.count(name)
			}
			for _, id := range eval[[]string](b, `[...document.querySelectorAll('table[id]')].map(t => t.id.slice(2))`) {
				read[view].rows[id] = b.table(id)
			}
		}
		after := exec.Snapshot()
		same = still(before)
		return fmt.Sprint(same) == fmt.Sprint(still(after)) && same.Queued > 0, []sluice.Snapshot{before, after}
	})
	return same, read
}

// tables is what a view shows.
type tables struct {
	count map[string]string
	rows  map[string][]map[string]string // by the table's id
}

// The demo's page shows what a snapshot of the same instant says, number by number.
func TestDemoShowsTheSnapshot(t *testing.T) {
	h := newHold()
	address, exec := demo(t, h)
	b := newTab(t, look{})
	h.letPass(25)
	until(t, "many calls wait", func() (bool, any) {
		s := exec.Snapshot()
		return s.InFlight == 8 && s.Queued > 20 && s.Completed+s.Failed > 10, s
	})

	s, views := frozen(b, address, exec, "", "queue?n=1000", "limits", "rates", "breakers")
	for name, n := range map[string]any{"in_flight": s.InFlight, "queued": s.Queued, "abandoned": s.Abandoned,
		"completed": s.Completed, "failed": s.Failed, "denied": s.Denied} {
		require.Equal(t, fmt.Sprint(n), views[""].count[name], name)
	}

	var want []string
	for _, l := range s.Lanes {
		want = append(want, fmt.Sprintln(l.Tool, l.Tenant, l.Priority, l.Waiting, l.By, l.Key))
	}
	var shown []string
	waiting := 0
	for _, r := range views["queue?n=1000"].rows["queue"] {
		shown = append(shown, fmt.Sprintln(r["tool"], r["tenant"], r["priority"], r["waiting"], r["by"], r["key"]))
		n, err := strconv.Atoi(r["waiting"])
		require.NoError(t, err)
		waiting += n
	}
	require.ElementsMatch(t, want, shown)
	require.Equal(t, s.Queued, waiting)

	kinds := map[string]string{"concurrency": "limits", "rate": "rates", "breaker": "breakers"}
	expected := map[string][]string{}
	for _, g := range s.Gates {
		line := fmt.Sprintln(g.Name, g.Scope, g.Key)
		if g.Kind != "breaker" {
			line += fmt.Sprintln(g.Used, g.Limit, g.Waiting)
		} else {
			line += fmt.Sprintln(g.State)
		}
		expected[kinds[g.Kind]] = append(expected[kinds[g.Kind]], line)
	}
	for _, kind := range kinds {
		var shown []string
		for _, r := range views[kind].rows[kind] {
			line := fmt.Sprintln(r["name"], r["scope"], r["key"])
			if kind != "breakers" {
				line += fmt.Sprintln(r["used"], r["limit"], r["waiting"])
			} else {
				line += fmt.Sprintln(strings.TrimLeft(r["state"], "○■◆ ")) // which stands before it
			}
			shown = append(shown, line)
		}
		require.NotEmpty(t, shown, kind)
		require.ElementsMatch(t, expected[kind], shown, kind)
	}
}

// What the page shows changes while it is looked at, without another load.
func TestDemoIsLive(t *testing.T) {
	h := newHold()
	address, exec := demo(t, h)
	b := newTab(t, look{})
	b.open(address)
	b.isLive()
	eval[bool](b, `window.sameLoad = true`)
	for _, n := range []int{10, 10} {
		was := b.count("completed")
		h.letPass(n)
		until(t, "the page shows that calls have ended", func() (bool, any) {
			now := b.count("completed")
			return now != was && now == fmt.Sprint(exec.Snapshot().Completed), []string{was, now}
		})
	}
	require.True(t, eval[bool](b, `window.sameLoad`), "the page has been loaded again")
}
