package browser

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// A page that stays open finds the server again when that has restarted, says meanwhile that it is not up to date, and
// then shows the new one's state.
func TestPageSurvivesARestart(t *testing.T) {
	before := newWorld(t, false, []string{"search"}, slots(1))
	before.calls(t, 8, "acme", "search", held{})
	home := serve(t, before.page)
	b := newTab(t, look{MayFail: true})
	b.open(home.url(""))
	b.isLive()
	require.Equal(t, "7", b.count("queued"))
	eval[bool](b, `window.sameLoad = true`)

	home.stop()
	until(t, "the page says that it is not up to date", func() (bool, any) { s := b.state(); return strings.HasPrefix(s, "Not live"), s })
	require.Equal(t, "7", b.count("queued"), "what is known stays on the page")

	after := newWorld(t, false, []string{"search"}, slots(1))
	after.calls(t, 4, "acme", "search", held{})
	home.start(after.page)
	b.isLive()
	until(t, "the page shows the new process", func() (bool, any) { n := b.count("queued"); return n == "3", n })
	after.calls(t, 2, "acme", "search", held{})
	until(t, "the page follows the new process", func() (bool, any) { n := b.count("queued"); return n == "5", n })
	require.True(t, eval[bool](b, `window.sameLoad`), "the page has been loaded again")
}

// What somebody types, and where the focus is, stays as it is while the page changes around it.
func TestUpdatesLeaveTheViewerAlone(t *testing.T) {
	w := newWorld(t, false, []string{"search", "fetch"}, slots(1))
	home := serve(t, w.page)
	b := newTab(t, look{})
	b.open(home.url("queue"))
	b.isLive()
	require.True(t, eval[bool](b, `(() => { const f = document.querySelector('input[type=search]'); f.focus(); f.value = 'half a wo'; f.setSelectionRange(2, 4); return true })()`))
	for _, n := range []string{"3", "6"} {
		w.calls(t, 3, "acme"+n, "search", held{})
		until(t, "the queue has another lane", func() (bool, any) {
			rows := b.table("queue")
			return strings.Contains(strings.Join(flat(rows), " "), "acme"+n), rows
		})
	}
	require.Equal(t, "half a wo 2 4", eval[string](b, `(f => f.value + ' ' + f.selectionStart + ' ' + f.selectionEnd)(document.activeElement)`))
}

// Who has a link in focus keeps that one, wherever it moves: Enter must not open another.
func TestFocusStaysWithItsRow(t *testing.T) {
	w := newWorld(t, false, []string{"search", "fetch"}, slots(1))
	w.calls(t, 3, "acme", "fetch", held{})
	home := serve(t, w.page)
	b := newTab(t, look{})
	b.open(home.url("queue"))
	b.isLive()
	const focused = `document.activeElement.getAttribute('href') + ' ' + document.activeElement.closest('tr')?.dataset.name`
	require.True(t, eval[bool](b, `(document.querySelector('#t-queue tbody a').focus(), true)`))
	was := eval[string](b, focused)
	require.Equal(t, "tool?tool=fetch fetch", was)
	for n := range 3 {
		w.calls(t, 10, fmt.Sprint("tenant", n), "search", held{}) // more than others, so they stand first
		until(t, "the lanes have moved", func() (bool, any) { rows := b.table("queue"); return len(rows) == 2+n, rows })
		require.Equal(t, was, eval[string](b, focused))
	}
}

// A search narrows the list while it is typed, and the address says so; a reload keeps it.
func TestSearch(t *testing.T) {
	w := newWorld(t, false, []string{"search", "fetch"}, slots(1))
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		w.calls(t, 3, tenant, "fetch", held{})
	}
	home := serve(t, w.page)
	b := newTab(t, look{})
	b.open(home.url("queue"))
	require.Len(t, b.table("queue"), 3)
	b.fill("globex", "#search")
	narrowed := func() (bool, any) {
		rows := b.table("queue")
		return len(rows) == 1 && rows[0]["tenant"] == "globex", rows
	}
	until(t, "one lane is left", narrowed)
	require.Equal(t, home.url("queue?q=globex"), eval[string](b, `location.href`))
	b.open(home.url("queue?q=globex"))
	until(t, "one lane is left after a load", narrowed)

	require.Contains(t, eval[string](b, `document.getElementById('searched').textContent`), "globex")
	b.isLive()
	b.fill("hooli", "#search")
	until(t, "another lane is left, and told of to those who hear the page", func() (bool, any) {
		rows, told := b.table("queue"), eval[string](b, `document.getElementById('found').textContent`)
		return len(rows) == 1 && rows[0]["tenant"] == "hooli" && told == "1 to 1 of 1 that match, 3 in all", []any{rows, told}
	})
	require.True(t, eval[bool](b, `document.getElementById('searched') == null`), "it tells of what was searched for before")
	require.Equal(t, home.url("queue.json?q=hooli"), eval[string](b, `document.getElementById('json').href`))
}

// A paused page stands still, and says so; it goes on where the process is.
func TestPause(t *testing.T) {
	w := newWorld(t, false, []string{"search"}, slots(1))
	home := serve(t, w.page)
	b := newTab(t, look{})
	other := newTab(t, look{})
	for _, b := range []*tab{b, other} {
		b.open(home.url(""))
		b.isLive()
	}
	toggle := func() { require.NoError(t, chromedp.Do(b.ctx, chromedp.Click(chromedp.CSS("#pause")))) }
	toggle()
	until(t, "it says that it is paused", func() (bool, any) { s := b.state(); return s == "Paused", s })
	w.calls(t, 5, "acme", "search", held{})
	until(t, "another viewer sees calls", func() (bool, any) { n := other.count("queued"); return n == "4", n })
	require.Equal(t, "0", b.count("queued"))
	toggle()
	until(t, "it goes on", func() (bool, any) { n := b.count("queued"); return n == "4", n })
	b.isLive()
}

// What would become of a call is told for one that is typed in.
func TestExplain(t *testing.T) {
	w := newWorld(t, false, []string{"search"}, slots(1))
	home := serve(t, w.page)
	b := newTab(t, look{MayFail: true})
	b.open(home.url("explain"))
	ask := func(tool, args, want string) {
		t.Helper()
		b.fill(tool, "#ask-tool")
		b.fill(args, "#ask-args")
		require.NoError(t, chromedp.Do(b.ctx, chromedp.Click(chromedp.CSS("#ask-go"))))
		until(t, "there is an answer: "+want, func() (bool, any) {
			answer := eval[string](b, `document.getElementById('answer').textContent`)
			return strings.Contains(answer, want), answer
		})
	}
	ask("search", `{"q": 1}`, "start at once")
	w.calls(t, 3, "acme", "search", held{})
	ask("search", `{"q": 1}`, "wait for concurrency/slots global, at place 3")
	ask("nothing", `{"q": 1}`, "unknown_tool")
	ask("search", `{"q": `, "no JSON")
	b.fill("high", "#ask-priority")
	ask("search", `{}`, "priority is a JSON string")
	b.fill("9", "#ask-priority")
	ask("search", `{}`, "wait for concurrency/slots global, at place 3")
	require.Equal(t, 3, w.exec.Snapshot().InFlight+w.exec.Snapshot().Queued, "a question is no call")
}

// Of two questions that are under way the later one's answer stands, whichever comes first.
func TestExplainAnswersTheLatestQuestion(t *testing.T) {
	w := newWorld(t, false, []string{"search"}, slots(1))
	release := make(chan struct{})
	_, err := sluice.Register(w.exec.Registry(), sluice.Spec{Name: "slow", Check: func(context.Context, sluice.Call) error {
		<-release
		return errors.New("too late")
	}}, does)
	require.NoError(t, err)
	home := serve(t, w.page)
	b := newTab(t, look{MayFail: true})
	b.open(home.url("explain"))
	answered := func(n int) func() (bool, any) {
		return func() (bool, any) {
			done := eval[int](b, `performance.getEntriesByType('resource').filter(e => e.name.endsWith('/explain') && e.responseEnd > 0).length`)
			return done == n, done
		}
	}
	for _, tool := range []string{"slow", "search"} {
		b.fill(tool, "#ask-tool")
		require.NoError(t, chromedp.Do(b.ctx, chromedp.Click(chromedp.CSS("#ask-go"))))
	}
	until(t, "the second question is answered", answered(1))
	close(release)
	until(t, "the first is, too", answered(2))
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](
		`new Promise(done => setTimeout(() => done(document.getElementById('answer').textContent), 200))`, chromedp.EvalAwaitPromise))
	require.NoError(t, err)
	require.Contains(t, text, "start at once")
}

func flat(rows []map[string]string) (out []string) {
	for _, r := range rows {
		for _, v := range r {
			out = append(out, v)
		}
	}
	return out
}

// Without JavaScript every view is whole, says that it is of one instant, and changes are made by plain forms.
func TestWithoutJavaScript(t *testing.T) {
	limit := slots(1)
	w := newWorld(t, true, []string{"search"}, limit)
	w.calls(t, 8, "acme", "search", held{})
	home := serve(t, w.page)
	b := newTab(t, look{NoScript: true})
	b.open(home.url(""))
	require.Equal(t, "7", b.count("queued"))
	require.Empty(t, b.state(), "nobody keeps it up to date")
	w.calls(t, 1, "acme", "search", held{})
	until(t, "another load shows more", func() (bool, any) { b.open(home.url("")); n := b.count("queued"); return n == "8", n })

	b.open(home.url("queue"))
	rows := b.table("queue")
	require.Len(t, rows, 1)
	require.Equal(t, []string{"search", "8"}, []string{rows[0]["tool"], rows[0]["waiting"]})

	b.open(home.url("change"))
	b.click(b.link("slots"))
	b.fill("5", `#form-set input[type=number]`)
	b.click(`#form-set button`)
	until(t, "the limit has changed", func() (bool, any) { most := limit.Config().Limits[0].Max; return most == 5, most })
	until(t, "the page says so, and who did it", func() (bool, any) {
		rows := b.table("made")
		return len(rows) == 1 && rows[0]["actor"] == "the operator" && strings.Contains(rows[0]["to"], "5"), rows
	})
	until(t, "more calls run", func() (bool, any) { b.open(home.url("")); n := b.count("in_flight"); return n == "5", n })
}
