package browser

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// busy is a world in which something is in every view: calls that wait, a limit that is full, a breaker that is open, a rate
// in debt, refusals, long names.
func busy(t *testing.T) *served {
	t.Helper()
	long := strings.Repeat("a-rather-long-name-", 6)
	w := newWorld(t, true, []string{"search", "fetch", "weather", long}, slots(2),
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})),
		sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Name: "trouble", Failures: 1, Cooldown: time.Hour})),
		sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "pace", Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 1, Per: time.Hour, Burst: 20}}})),
	)
	for _, tool := range []string{"weather", "weather", long, "no such tool"} {
		_, _ = w.exec.Invoke(t.Context(), sluice.Request{Tool: tool, Input: errors.New("it rains")})
	}
	for _, tenant := range []string{"acme", "globex", long} {
		w.calls(t, 12, tenant, "search", held{})
		w.calls(t, 12, tenant, "fetch", held{})
	}
	return serve(t, w.page)
}

// No view is wider than a small telephone: what needs more scrolls within itself.
func TestNarrow(t *testing.T) {
	home := busy(t)
	for _, width := range []int64{320, 414, 768} {
		b := newTab(t, look{Width: width})
		views := b.views(home.url(""), func(address string) {
			require.LessOrEqual(t, eval[int64](b, `document.documentElement.scrollWidth`), width, "%s: what sticks out is %v", address,
				eval[[]string](b, `[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.parentElement.closest('[tabindex="0"]'))
					.slice(0, 5).map(e => e.outerHTML.slice(0, 200))`))
		})
		require.Greater(t, len(views), 8)
	}
}

// Whoever has no mouse reaches all that can be reached, in the order of the page, and sees where they are.
func TestKeyboard(t *testing.T) {
	home := busy(t)
	const stop = `(e => e.tagName + ' ' + (e.getAttribute('href') ?? e.name ?? '') + ' ' + (e.getAttribute('aria-label') ?? e.textContent).trim().slice(0, 40) + ' ' + e.id)`
	for _, dark := range []bool{false, true} {
		b := newTab(t, look{Dark: dark})
		b.views(home.url(""), func(address string) {
			all := eval[[]string](b, `[...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]')]
				.filter(e => e.checkVisibility() && !e.disabled).map(`+stop+`)`)
			require.NotEmpty(t, all)
			var reached []string
			for range all {
				b.press(kb.Tab)
				at := eval[map[string]string](b, `(e => { const s = getComputedStyle(e), r = e.getBoundingClientRect(); return {
					stop: `+stop+`(e),
					outline: s.outlineStyle != 'none' && parseFloat(s.outlineWidth) >= 2 || s.boxShadow != 'none' ? 'seen' : s.outline,
					place: r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.left < innerWidth ? 'seen' : JSON.stringify(r),
				}})(document.activeElement)`)
				reached = append(reached, at["stop"])
				require.Equal(t, "seen", at["outline"], "%s: focus on %q does not show", address, at["stop"])
				require.Equal(t, "seen", at["place"], "%s: focus on %q is outside what is seen", address, at["stop"])
			}
			require.Equal(t, all, reached, address)
			b.press(kb.Tab, chromedp.KeyModifiers()) // and leaves the page at its end
			require.NotEqual(t, reached[len(reached)-1], eval[string](b, stop+`(document.activeElement)`), "%s: a trap", address)
		})
	}
}

// axe-core, which is not part of this repository, finds nothing serious. AXE names its axe.min.js, of the npm package.
func TestAxe(t *testing.T) {
	file := os.Getenv("AXE")
	if file == "" {
		t.Skip("no axe-core: AXE must name the file axe.min.js of the npm package; make test-axe does all that")
	}
	axe, err := os.ReadFile(file)
	require.NoError(t, err)
	home := busy(t)
	for name, how := range map[string]look{"light": {}, "dark": {Dark: true}, "narrow": {Width: 320}, "narrow, dark": {Width: 320, Dark: true}} {
		t.Run(name, func(t *testing.T) {
			b := newTab(t, how)
			rules := 0
			b.views(home.url(""), func(address string) {
				require.NoError(t, chromedp.Do(b.ctx, chromedp.Evaluate[chromedp.Void](string(axe))))
				type finding struct {
					ID, Impact, Help string
					Nodes            []string
				}
				found, err := chromedp.Run(b.ctx, chromedp.Evaluate[struct {
					Passed   int
					Findings []finding
				}](`axe.run(document).then(r => ({passed: r.passes.length, findings: r.violations.map(v =>
					({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.slice(0, 5).map(n => n.html.slice(0, 200) + ' ' + n.failureSummary)}))}))`, chromedp.EvalAwaitPromise))
				require.NoError(t, err)
				rules += found.Passed
				for _, f := range found.Findings {
					t.Logf("%s: %s (%s): %s %q", address, f.ID, f.Impact, f.Help, f.Nodes)
				}
				require.False(t, slices.ContainsFunc(found.Findings, func(f finding) bool { return f.Impact == "serious" || f.Impact == "critical" }), address)
			})
			require.Greater(t, rules, 50, "rules that passed")
		})
	}
}
