package browser

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
