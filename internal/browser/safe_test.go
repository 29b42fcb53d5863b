package browser

import (
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// Names that would do something if they were not shown as what they are.
var hostile = []string{
	`<script>window.pwned=1;alert(1)</script>`,
	`<img src=x onerror="window.pwned=1">`,
	`"><svg onload=window.pwned=1>`,
	`' autofocus onfocus='window.pwned=1`,
	`</textarea></title></style></noscript></template><script>window.pwned=1</script>`,
	`javascript:window.pwned=1`,
	`{{.Page}}${window.pwned=1}`,
	`&lt;b&gt;&amp;`,
	"\u202egnp.exe\u2066 \u2069\u200f",
	"\x00\x07\x1b[31mred\x7f\u0085\u2028\u200b\ufeff",
	"line\r\n\r\ndata: event\n\nevent: x",
	"\xff\xfe",
	strings.Repeat("W", 200),
	strings.Repeat("Z\u0335\u0336\u0337\u0338", 30),
}

// What must not be on the page as it is: it moves what stands around it, or does not show.
var unseen = regexp.MustCompile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

// Names of tools, tenants, keys, limits and errors that are made of markup, of control and of direction characters
// stand on every view as text, also when a script has put them there, and none of them does anything.
func TestHostileNames(t *testing.T) {
	key := sluice.ByKey(hostile[0], func(c sluice.Call) string { return c.Pipeline.Tenant })
	w := newWorld(t, true, []string{"plain", "broken"},
		boastful(hostile),
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: hostile[1], Limits: []sluice.Limit{{Max: 1, Scope: key}}})),
		sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Name: hostile[2], Failures: 1, Scope: key})),
		sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: hostile[3], Scope: key, Rates: []sluice.Rate{{N: 1, Burst: 5}}})),
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{Name: hostile[5]})))
	for i, name := range hostile {
		tool := fmt.Sprintf("tool-%d", i)
		spec := sluice.Spec{Name: tool, Type: name, Description: name}
		if i > 7 {
			spec.Type = "" // which has to be printable
		}
		_, err := sluice.Register(w.exec.Registry(), spec, does)
		require.NoError(t, err)
		ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: name + " is broken"})
		for range 2 { // it fails, which opens its breaker, and then is refused
			_, _ = w.exec.Invoke(ctx, sluice.Request{ID: name, Tool: tool, Input: errors.New(name)})
		}
		_, _ = w.exec.Invoke(ctx, sluice.Request{ID: name, Tool: name})
		w.calls(t, 3, name, "plain", held{})
	}
	home := serve(t, w.page)
	b := newTab(t, look{MayFail: true})
	seen := ""
	check := func(address string, twice bool) {
		see := func() string {
			require.False(t, eval[bool](b, `'pwned' in window`), "%s: a name has been run", address)
			require.Zero(t, eval[int](b, `[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => a.name.startsWith('on')).length`), "%s: handlers", address)
			require.Empty(t, eval[[]string](b, `[...document.querySelectorAll('script')].filter(s => !s.src || s.textContent).map(s => s.outerHTML)`), "%s: scripts", address)
			require.Empty(t, eval[[]string](b, `[...document.querySelectorAll('img, iframe, object, embed, base, form[action^="javascript:"]')].map(s => s.outerHTML)`), "%s: elements", address)
			require.Empty(t, eval[[]string](b, `[...document.links].filter(a => !a.protocol.startsWith('http') || a.host != location.host).map(a => a.href)`), "%s: links", address)
			shown := eval[string](b, `(e => { e.querySelectorAll('input').forEach(i => i.removeAttribute('value')); return e.outerHTML })(document.documentElement.cloneNode(true))`)
			require.Empty(t, unseen.FindAllString(html.UnescapeString(shown), -1), "%s: characters that do not show", address)
			return eval[string](b, `document.body.textContent`)
		}
		seen += see()
		if twice && b.follows() {
			at := b.at()
			until(t, address+" has been brought up to date", func() (bool, any) { now := b.at(); return now.After(at), now })
			see()
		}
	}
	require.Greater(t, len(b.views(home.url(""), func(address string) { check(address, true) })), 10)
	for _, name := range hostile { // which nothing has
		for _, at := range []string{"tool?tool=", "queue?q=", "change?gate="} {
			b.open(home.url(at + url.QueryEscape(name)))
			check(at+name, false)
		}
	}
	for _, name := range hostile[:8] {
		require.Contains(t, seen, name, "it is nowhere as it is")
	}
}

// boastful is an interceptor that has a name for itself, and says much of itself.
type boastful []string

func (x boastful) String() string                                       { return strings.Join(x, " ") }
func (boastful) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next }

func (x boastful) Inspect() (list []sluice.GateState) {
	for _, name := range x {
		list = append(list, sluice.GateState{Name: name, Scope: name, Key: name, Limit: 1, Used: 1, Waiting: 1, Unmatched: []string{name}})
	}
	return list
}

// A page of another origin can have a browser send a form here, with whatever credentials there are: it is refused.
// The same form, sent from the page, does what it says.
func TestCrossSitePostIsRefused(t *testing.T) {
	limit := slots(3)
	w := newWorld(t, true, []string{"search"}, limit)
	home := serve(t, w.page)
	b := newTab(t, look{Forgiving: true})
	b.open(home.url("change"))
	b.click(b.link("slots"))
	type form struct {
		Action string
		Fields map[string]string
	}
	f := eval[form](b, `(() => {
		const f = document.querySelector('#form-set');
		f.querySelector('input[type=number]').value = '5';
		return {Action: new URL(f.getAttribute('action'), location).href, Fields: Object.fromEntries(new FormData(f, f.querySelector('button')))};
	})()`)
	body := `<!doctype html><title>another site</title><form method="post" action="` + html.EscapeString(f.Action) + `">`
	for name, value := range f.Fields {
		body += fmt.Sprintf(`<input type="hidden" name="%s" value="%s">`, html.EscapeString(name), html.EscapeString(value))
	}
	body += `<button>Win</button></form>`
	other := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, body)
	}))
	_, port, _ := strings.Cut(other.address, ":")
	for _, site := range []string{other.url(""), "http://localhost:" + port + "/"} {
		b := newTab(t, look{Forgiving: true})
		b.open(site)
		require.EqualValues(t, http.StatusForbidden, b.click("button"), "from %s", site)
		require.True(t, strings.HasPrefix(eval[string](b, `location.href`), home.url("")), "it went elsewhere")
		require.EqualValues(t, 3, limit.Config().Limits[0].Max, "another site has changed it")
	}

	require.EqualValues(t, http.StatusOK, b.click("#form-set button"), "after a redirect")
	require.EqualValues(t, 5, limit.Config().Limits[0].Max, "the page's own form is heard")
}

// Another site's name for this machine does not get the page.
func TestAnotherNameForThisMachineIsRefused(t *testing.T) {
	w := newWorld(t, false, []string{"search"}, slots(3))
	home := serve(t, w.page)
	r, err := http.NewRequest(http.MethodGet, home.url(""), nil)
	require.NoError(t, err)
	r.Host = "rebound.example"
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
}

// Who may not change anything gets no form that does.
func TestNoFormWithoutTheOption(t *testing.T) {
	w := newWorld(t, false, []string{"search"}, slots(3))
	home := serve(t, w.page)
	b := newTab(t, look{})
	b.views(home.url(""), func(address string) {
		require.Empty(t, eval[[]string](b, `[...document.forms].filter(f => f.method != 'get').map(f => f.outerHTML)`), address)
	})
}
