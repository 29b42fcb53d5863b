package sluicehttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// hostile are names that would be something else than text, if they could.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `</style><svg onload=alert(1)>`, `{{.}}`, `javascript:alert(1)`,
	"rtl\u202eelif", "isolate\u2066x", "esc\x1b[31mred", "nul\x00", "line\nevent: hello\ndata: x", "cr\rx", "sep\u2028\u2029", "zero\u200bwidth\u200d", "tag\U000e0041",
	"bad\xff\xfeutf8", "hangul\u3164", "combining" + strings.Repeat("\u0301", 40), strings.Repeat("long", 200), "c1\u0085\u009b31m", "del\x7f", "-->", "]]>",
}

// dangerous is what must not be on a page: tags and attributes that nobody wrote there, and characters that do not show.
func dangerous(mime, text string) error {
	for _, s := range []string{"<script>", "<img", "<svg onload", "alert(1)'", " onerror=alert(1)>", "\"><img", `href="javascript:`, "-->", "]]>"} {
		if !strings.HasPrefix(mime, "text/plain") && strings.Contains(text, s) {
			return fmt.Errorf("it has %q", s)
		}
	}
	if !utf8.ValidString(text) {
		return errors.New("it is no UTF-8")
	}
	for i, r := range text {
		if r != '\n' && !unicode.IsGraphic(r) || unicode.Is(unicode.Zs, r) && r != ' ' || r == '\u3164' {
			return fmt.Errorf("it has %U at byte %d", r, i)
		}
	}
	return nil
}

// Whatever tenants, keys, limits, errors, tools that callers make up, and questions are called, it shows as text: in each
// view, each stream, each JSON and each refusal.
func TestHostileNamesShowAsText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recent := new(sluicehttp.Recent)
		byKey := sluice.ByKey("host", func(c sluice.Call) string { return c.Pipeline.Tenant })
		slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "a<b>&", Limits: []sluice.Limit{{Max: 1, Scope: byKey}}}))
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.ByTenant, Failures: 1}))
		says := inspector{}
		for _, s := range hostile {
			says = append(says, sluice.GateState{Name: s, Key: s, Scope: s, Limit: 1, Used: 5, Unmatched: []string{s}})
		}
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
			Interceptors: []sluice.Interceptor{says, breaker, slots, rates}, Sink: recent}))
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "hold", Description: strings.Join(hostile, " "),
			Check: func(_ context.Context, c sluice.Call) error {
				if s := c.Input.(string); s != "" {
					return errors.New(s)
				}
				return nil
			}},
			func(ctx context.Context, _ string) (int, error) {
				<-ctx.Done()
				return 0, errors.New("the tool's secret")
			}))
		ctx, cancel := context.WithCancel(t.Context())
		for _, s := range hostile {
			of := sluice.WithPipelineContext(ctx, sluice.PipelineContext{Tenant: s})
			for range 3 {
				exec.Submit(of, sluice.Request{Tool: "hold", Input: ""})
			}
			_, _ = exec.Invoke(of, sluice.Request{Tool: s})                // there is none
			_, _ = exec.Invoke(of, sluice.Request{Tool: "hold", Input: s}) // Check says no
		}
		synctest.Wait()
		actor := func(r *http.Request) string { return r.Header.Get("X-User") }
		p, err := sluicehttp.New(sluicehttp.Config{Executor: exec, Recent: recent, Actor: actor, Sink: recent, Hosts: []string{"localhost"},
			Gates: []sluice.Interceptor{breaker, slots, rates}})
		require.NoError(t, err)
		for _, s := range hostile[:6] {
			w := ask(t, p, "POST", "/change", url.Values{"action": {"pause"}, "for": {"1h"}, "gate": {"rate"}, "key": {s}}.Encode(),
				"Content-Type", "application/x-www-form-urlencoded", "X-User", s)
			require.Equal(t, http.StatusSeeOther, w.Code, w.Body)
		}
		seen := 0
		check := func(method, target, body string, header ...string) string {
			w := ask(t, p, method, target, body, header...)
			text := w.Body.String()
			require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
			require.NoError(t, dangerous(w.Header().Get("Content-Type"), text), "%s %s", method, target)
			if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
				require.True(t, json.Valid(w.Body.Bytes()))
			}
			seen++
			return text
		}
		views := []string{"overview", "queue", "limits", "rates", "breakers", "layers", "tools", "recent", "explain", "change", "fleets"}
		for _, v := range views {
			text := check("GET", "/"+v+"?n=1000", "")
			check("GET", "/"+v+".json?n=1000", "")
			switch v {
			case "queue", "rates", "layers":
				require.True(t, strings.Contains(text, "&lt;script&gt;alert(1)&lt;/script&gt;"), "%s: "+"&lt;script&gt;alert(1)&lt;/script&gt;", v)
				require.True(t, strings.Contains(text, `rtl\u202eelif`), "%s: "+`rtl\u202eelif`, v)
				require.True(t, strings.Contains(text, `esc\x1b[31mred`), "%s: "+`esc\x1b[31mred`, v)
				require.True(t, strings.Contains(text, `bad\xff\xfeutf8`), "%s: "+`bad\xff\xfeutf8`, v)
			}
			require.False(t, strings.Contains(text, "secret"), v)
		}
		for _, s := range hostile {
			q := url.QueryEscape(s)
			for _, target := range []string{"/queue?q=" + q, "/tool?tool=" + q, "/tool.json?tool=" + q, "/explain?tool=" + q, "/explain.json?tool=" + q,
				"/change?gate=" + q, "/change?tool=" + q, "/change?gate=breaker&key=" + q, "/change.json?gate=" + q, "/queue?n=" + q, "/" + url.PathEscape(s)} {
				check("GET", target, "")
			}
			check("GET", "/", "", "Host", s)
			for _, ext := range []string{"", ".json"} {
				body, err := json.Marshal(map[string]any{"tool": "hold", "args": s, "tenant": s})
				require.NoError(t, err)
				check("POST", "/explain"+ext, string(body), "Content-Type", "application/json")
				check("POST", "/explain"+ext, s, "Content-Type", "application/json")
			}
		}
		stream, stop := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer stop()
		for _, v := range []string{"overview", "queue", "recent", "layers"} {
			w := askUntil(stream, p, "/stream?n=1000&view="+v)
			require.NoError(t, dangerous("text/event-stream", w), v)
			for l := range strings.Lines(w) {
				name, _, _ := strings.Cut(strings.TrimSuffix(l, "\n"), ":")
				require.Contains(t, []string{"", "retry", "event", "id", "data"}, name, "a line of the stream of %s", v)
			}
			require.Equal(t, 1, strings.Count(w, "event: hello\n"), v)
		}
		require.Greater(t, seen, 300)
		cancel()
		require.NoError(t, exec.Close(t.Context()))
	})
}

// inspector says of itself what it is.
type inspector []sluice.GateState

func (i inspector) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next }
func (i inspector) Inspect() []sluice.GateState                            { return i }

// Of what fails nothing is on the page but its name: no argument, no result, no text of an error or a panic.
func TestNoValuesAreShown(t *testing.T) {
	const secret = "hunter2"
	o := newOffice(t)
	sluice.Must(sluice.Wrap(o.exec, sluice.Spec{Name: "login"}, func(_ context.Context, in struct{ Password string }) (string, error) {
		if in.Password == secret+"!" {
			panic(secret)
		}
		return secret, errors.New("wrong password " + in.Password)
	}))
	for _, password := range []string{secret, secret + "!", secret} {
		_, err := o.exec.Invoke(t.Context(), sluice.Request{Tool: "login", Args: json.RawMessage(`{"Password":"` + password + `"}`)})
		require.Error(t, err)
	}
	_, err := o.exec.Invoke(t.Context(), sluice.Request{Tool: "login", Args: json.RawMessage(`{"` + secret + `":1}`)})
	require.ErrorIs(t, err, sluice.ErrInvalidArguments)
	p := page(t, sluicehttp.Config{Executor: o.exec, Recent: o.recent})
	for _, v := range []string{"", "queue", "breakers", "tools", "recent", "tool?tool=login", "explain?tool=login"} {
		name, query, _ := strings.Cut(v, "?")
		require.NotContains(t, ask(t, p, "GET", "/"+v, "").Body.String(), secret, v)
		if name != "" {
			require.NotContains(t, ask(t, p, "GET", "/"+name+".json?"+query, "").Body.String(), secret, v)
		}
	}
	text := ask(t, p, "GET", "/recent", "").Body.String()
	require.Contains(t, text, "invalid_arguments")
	require.Contains(t, text, "breaker_open", "of the second call")
}
