package browser

import (
	"context"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// served is a page that is served on the loopback interface, at an address that it can come back to.
type served struct {
	t       *testing.T
	address string
	srv     *http.Server
	done    chan struct{}
}

func serve(t *testing.T, page http.Handler) *served {
	s := &served{t: t, address: "127.0.0.1:0"}
	s.start(page)
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *served) start(page http.Handler) {
	l, err := net.Listen("tcp", s.address)
	require.NoError(s.t, err)
	s.address, s.srv, s.done = l.Addr().String(), &http.Server{Handler: page}, make(chan struct{})
	go func(srv *http.Server, done chan struct{}) {
		defer close(done)
		_ = srv.Serve(l)
	}(s.srv, s.done)
}

func (s *served) stop() {
	_ = s.srv.Close()
	<-s.done
}

func (s *served) url(view string) string { return "http://" + s.address + "/" + view }

// world is an executor whose calls do what the test says, with a page.
type world struct {
	exec *sluice.Executor
	page *sluicehttp.Page
}

// held is the input of a call that ends when until is closed.
type held struct{ until <-chan struct{} }

// does is the code of every tool of a world: it fails with what the test says, or waits.
func does(ctx context.Context, in any) (string, error) {
	switch x := in.(type) {
	case error:
		return "", x
	case held:
		select {
		case <-x.until:
		case <-ctx.Done():
		}
	}
	return "done", nil
}

// newWorld makes a world of tools behind gates, which the page changes if it may.
func newWorld(t *testing.T, mayChange bool, tools []string, gates ...sluice.Interceptor) *world {
	t.Helper()
	recent := new(sluicehttp.Recent)
	registry := sluice.NewToolRegistry()
	for _, name := range tools {
		_, err := sluice.Register(registry, sluice.Spec{Name: name, Type: name, Description: name}, does)
		require.NoError(t, err)
	}
	exec, err := sluice.NewExecutor(registry, sluice.Config{Interceptors: gates, Sink: recent})
	require.NoError(t, err)
	conf := sluicehttp.Config{Executor: exec, Recent: recent, Interval: 100 * time.Millisecond}
	if mayChange {
		conf.Actor = func(*http.Request) string { return "the operator" }
		conf.Gates = gates
		conf.Sink = recent
	}
	page, err := sluicehttp.New(conf)
	require.NoError(t, err)
	return &world{exec, page}
}

// slots is a limit of calls at once.
func slots(most int) *sluice.ConcurrencyLimiter {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "slots", Limits: []sluice.Limit{{Max: most}}}))
}

// calls makes calls of a tenant, which end with the test at the latest.
func (w *world) calls(t *testing.T, n int, tenant, tool string, in any) {
	ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: tenant})
	for range n {
		w.exec.Submit(ctx, sluice.Request{Tool: tool, Input: in})
	}
}

// table is the rows of a table of the page, each by its fields: the values as they are.
func (b *tab) table(id string) []map[string]string {
	b.t.Helper()
	return eval[[]map[string]string](b, `[...document.querySelectorAll('#t-`+id+` tbody tr')].filter(r => r.checkVisibility()).map(r => Object.fromEntries(
		[...r.cells].map(c => [c.dataset.field, c.dataset.value ?? c.textContent.trim()])))`)
}

// count is one of the numbers of the overview.
func (b *tab) count(name string) string {
	b.t.Helper()
	return eval[string](b, `(e => e?.checkVisibility() ? e.dataset.value : 'not seen')(document.querySelector('[data-figure="`+name+`"]'))`)
}

// state says whether the page is kept up to date, as it tells viewers; nothing if no script does.
func (b *tab) state() string {
	b.t.Helper()
	return eval[string](b, `document.getElementById('live').textContent`)
}

func (b *tab) isLive() {
	b.t.Helper()
	until(b.t, "the page is live", func() (bool, any) { s := b.state(); return s == "Live", s })
}

// follows reports whether the view follows what happens.
func (b *tab) follows() bool {
	b.t.Helper()
	return eval[bool](b, `'stream' in document.body.dataset`)
}

// at is the instant of what the page shows.
func (b *tab) at() time.Time {
	b.t.Helper()
	at, err := time.Parse(time.RFC3339Nano, eval[string](b, `document.getElementById('at').dateTime`))
	require.NoError(b.t, err)
	return at
}

// views opens every view that can be reached by links from the first, and calls do on each.
func (b *tab) views(start string, do func(address string)) (seen []string) {
	b.t.Helper()
	origin, todo, known := strings.TrimSuffix(start, "/"), []string{start}, map[string]bool{}
	for len(todo) > 0 {
		address := todo[0]
		todo = todo[1:]
		b.open(address)
		do(address)
		seen = append(seen, address)
		for _, link := range eval[[]string](b, `[...document.links].map(a => a.href)`) {
			link, _, _ = strings.Cut(link, "#")
			u, err := url.Parse(link)
			require.NoError(b.t, err)
			view := u.Path
			for _, name := range slices.Sorted(maps.Keys(u.Query())) {
				view += " " + name // one tool's page is like another's
			}
			if strings.HasPrefix(link, origin) && !strings.HasSuffix(u.Path, ".json") && !known[view] {
				known[view] = true
				if link != start {
					todo = append(todo, link)
				}
			}
		}
	}
	return seen
}

// hold is an interceptor that lets as many calls pass as it has been told, and holds the others.
type hold struct{ pass chan struct{} }

func newHold() *hold { return &hold{make(chan struct{}, 1<<16)} }

func (h *hold) letPass(n int) {
	for range n {
		h.pass <- struct{}{}
	}
}

func (h *hold) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		select {
		case <-h.pass:
		case <-ctx.Done():
		}
		return next(ctx, c)
	}
}
