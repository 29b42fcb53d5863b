package sluicehttp_test

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// submit sends the form of that id on the page at target, as a browser would, with other values for some of its fields.
func submit(t *testing.T, p http.Handler, target, id string, set map[string]string, header ...string) (status int, text string) {
	t.Helper()
	html := ask(t, p, "GET", target, "").Body.String()
	_, form, ok := strings.Cut(html, `id="form-`+id+`"`)
	require.True(t, ok, "%s has no form %q", target, id)
	form, _, _ = strings.Cut(form, "</form>")
	v := url.Values{}
	for _, m := range regexp.MustCompile(`<input[^>]* name="([^"]*)" value="([^"]*)"`).FindAllStringSubmatch(form, -1) {
		v.Set(m[1], unescape.Replace(m[2]))
	}
	require.NotEmpty(t, v)
	for name, x := range set {
		require.Contains(t, v, name, "the form has such a field")
		v.Set(name, x)
	}
	w := ask(t, p, "POST", "/change", v.Encode(), append([]string{"Content-Type", "application/x-www-form-urlencoded", "X-User", "ada"}, header...)...)
	return w.Code, w.Body.String()
}

var unescape = strings.NewReplacer("&#34;", `"`, "&#39;", "'", "&lt;", "<", "&gt;", ">", "&amp;", "&", "&#43;", "+")

// operated is a page on which something can be changed.
func operated(t *testing.T, o *office) *sluicehttp.Page {
	t.Helper()
	return page(t, sluicehttp.Config{Executor: o.exec, Recent: o.recent, Sink: o.recent,
		Actor: func(r *http.Request) string { return r.Header.Get("X-User") },
		Gates: []sluice.Interceptor{o.breaker, o.limits, o.rates, o.sched}})
}

// Each form does what it says, at once, and events name who did it.
func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		p := operated(t, o)
		do := func(target, id string, set map[string]string) {
			t.Helper()
			status, text := submit(t, p, target, id, set)
			require.Equal(t, http.StatusSeeOther, status, text)
		}
		do("/change?gate=concurrency", "set", map[string]string{"max0": "7"})
		require.Equal(t, 7, o.limits.Config().Limits[0].Max)
		do("/change?gate=rate%2Fcrm", "set", map[string]string{"n0": "5", "per0": "1s", "burst0": "3"})
		require.Equal(t, []sluice.Rate{{N: 5, Per: time.Second, Burst: 3}}, o.rates.Config().Rates)
		do("/change?gate=priority", "set", map[string]string{"queue": "9", "tenant": "4", "ageing": "2"})
		require.Equal(t, 9, o.sched.Config().MaxQueue)
		do("/change?tool=hold", "policy", map[string]string{"max": "1"})
		s, _ := o.reg.Lookup("hold")
		require.Equal(t, 1, s.Policy.Concurrency)

		do("/change?gate=breaker", "trip", map[string]string{"key": "hold"})
		state, err := o.breaker.State("hold")
		require.NoError(t, err)
		require.Equal(t, sluice.BreakerOpen, state)
		_, err = o.exec.Invoke(t.Context(), sluice.Request{Tool: "hold"})
		require.ErrorIs(t, err, sluice.ErrBreakerOpen)
		do("/change?gate=breaker&key=hold", "reset", nil)
		state, _ = o.breaker.State("hold")
		require.Equal(t, sluice.BreakerClosed, state)

		do("/change?gate=rate%2Fcrm", "pause", map[string]string{"for": "10s"})
		f := o.exec.Submit(t.Context(), sluice.Request{Tool: "hold"})
		time.Sleep(9 * time.Second)
		require.Equal(t, 1, o.exec.Snapshot().Queued)
		do("/change?gate=rate%2Fcrm", "lift", nil)
		synctest.Wait()
		require.Equal(t, 1, o.exec.Snapshot().InFlight, "it waits no longer")
		do("/change?tool=hold", "lift", nil)
		close(o.release)
		_, err = f.Wait(t.Context())
		require.NoError(t, err)

		text := ask(t, p, "GET", "/recent", "").Body.String()
		require.Equal(t, 9, strings.Count(text, `<td data-field="actor"><bdi>ada</bdi></td>`), "changes that name who made them, each told once")
		require.Contains(t, text, "tripped")
		made := ask(t, p, "GET", "/change?done=1", "").Body.String()
		require.Contains(t, made, `<section id="part-made" class="list" data-total="9" data-shown="9">`)
		require.Contains(t, made, "It has been changed.")
		require.NoError(t, o.exec.Close(context.Background()))
	})
}

// What cannot be done changes nothing, and is answered with words.
func TestChangesThatAreRefused(t *testing.T) {
	o := newOffice(t)
	p := operated(t, o)
	for _, c := range []struct {
		name, target, id string
		set              map[string]string
		header           []string
		status           int
		text             string
	}{
		{"another site", "/change?gate=concurrency", "set", nil, []string{"Sec-Fetch-Site", "cross-site"}, 403, "another site"},
		{"a sister site", "/change?gate=concurrency", "set", nil, []string{"Sec-Fetch-Site", "same-site"}, 403, "another site"},
		{"an old browser at another site", "/change?gate=concurrency", "set", nil, []string{"Origin", "http://evil.example"}, 403, "another site"},
		{"an origin that is hidden", "/change?gate=concurrency", "set", nil, []string{"Origin", "null"}, 403, "another site"},
		{"another host", "/change?gate=concurrency", "set", nil, []string{"Host", "evil.example"}, 403, `not served for the host "evil.example"`},
		{"nobody", "/change?gate=concurrency", "set", nil, []string{"X-User", ""}, 403, "may not change"},
		{"no number", "/change?gate=concurrency", "set", map[string]string{"max0": "x"}, nil, 400, "max0 must be a whole number"},
		{"too little", "/change?gate=concurrency", "set", map[string]string{"max0": "0"}, nil, 400, "Limits[0].Max is 0: must be from 1"},
		{"too much", "/change?gate=concurrency", "set", map[string]string{"max0": "99999999999999999999"}, nil, 400, "max0 must be a whole number"},
		{"no period", "/change?gate=rate%2Fcrm", "set", map[string]string{"per0": "0"}, nil, 400, "per0 must be a duration such as 1m"},
		{"a negative period", "/change?gate=rate%2Fcrm", "set", map[string]string{"per0": "-1s"}, nil, 400, "per0 must be a duration such as 1m"},
		{"a rate of none", "/change?gate=rate%2Fcrm", "set", map[string]string{"n0": "0"}, nil, 400, "N is 0"},
		{"a burst of none", "/change?gate=rate%2Fcrm", "set", map[string]string{"burst0": "0"}, nil, 400, "burst0 must be a whole number of at least 1"},
		{"a queue of none", "/change?gate=priority", "set", map[string]string{"queue": "0"}, nil, 400, "queue must be a whole number of at least 1"},
		{"no ageing", "/change?gate=priority", "set", map[string]string{"ageing": "0"}, nil, 400, "ageing must be a whole number of at least 1"},
		{"a form from before", "/change?gate=concurrency", "set", map[string]string{"was": "1"}, nil, 409, "look again"},
		{"no duration", "/change?gate=rate%2Fcrm", "pause", map[string]string{"for": "soon"}, nil, 400, "a duration such as 30s"},
		{"a long pause", "/change?gate=rate%2Fcrm", "pause", map[string]string{"for": "48h"}, nil, 400, "up to 24h"},
		{"no such key", "/change?gate=breaker", "trip", map[string]string{"key": "nobody"}, nil, 400, "nobody"},
		{"no such gate", "/change?gate=breaker", "trip", map[string]string{"gate": "x"}, nil, 400, "no component"},
		{"no such action", "/change?gate=breaker", "trip", map[string]string{"action": "pause"}, nil, 400, `cannot be asked for "pause"`},
		{"no such action of a tool", "/change?tool=hold", "lift", map[string]string{"action": "trip"}, nil, 400, `cannot be asked for "trip"`},
		{"no such tool", "/change?tool=hold", "policy", map[string]string{"tool": "x"}, nil, 400, "no tool of that name"},
		{"a quoted key that is none", "/change?gate=breaker&key=hold", "trip", map[string]string{"quoted": `"`}, nil, 400, "key could not be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, text := submit(t, p, c.target, c.id, c.set, c.header...)
			require.Equal(t, c.status, status, text)
			require.Contains(t, text, c.text)
		})
	}
	require.Equal(t, 2, o.limits.Config().Limits[0].Max)
	require.Equal(t, []sluice.Rate{{N: 10, Per: time.Minute, Burst: 10}}, o.rates.Config().Rates)
	require.Equal(t, []int{8, 1000, 1000}, []int{o.sched.Config().Ageing, o.sched.Config().MaxQueue, o.sched.Config().MaxPerTenant})
	require.Equal(t, http.StatusForbidden, ask(t, p, "POST", "/explain", `{"tool":"hold"}`, "Content-Type", "application/json", "Sec-Fetch-Site", "cross-site").Code)
	require.Equal(t, http.StatusMethodNotAllowed, ask(t, p, "PUT", "/change", "").Code)
	text := ask(t, p, "GET", "/change", "").Body.String()
	require.Contains(t, text, `<section id="part-made" class="list" data-total="0"`)
}

// Of two operators who look at one form the second is told that the first was there.
func TestFormsOfBeforeAreRefused(t *testing.T) {
	o := newOffice(t)
	p := operated(t, o)
	form := ask(t, p, "GET", "/change?gate=concurrency", "").Body.String()
	require.Contains(t, form, `name="was" value="2"`)
	status, _ := submit(t, p, "/change?gate=concurrency", "set", map[string]string{"max0": "3"})
	require.Equal(t, http.StatusSeeOther, status)
	v := url.Values{"action": {"set"}, "gate": {"concurrency"}, "was": {"2"}, "max0": {"9"}}
	w := ask(t, p, "POST", "/change", v.Encode(), "Content-Type", "application/x-www-form-urlencoded", "X-User", "bob")
	require.Equal(t, http.StatusConflict, w.Code)
	require.Equal(t, 3, o.limits.Config().Limits[0].Max)
}

// Without Actor nothing can be changed, however it is asked for; there is no form, and no link to one.
func TestNothingCanBeChangedWithoutActor(t *testing.T) {
	o := newOffice(t)
	p := page(t, sluicehttp.Config{Executor: o.exec})
	require.NoError(t, o.breaker.Trip("hold"))
	for _, v := range []string{"/", "/queue", "/limits", "/rates", "/breakers", "/tools", "/recent", "/tool?tool=hold", "/explain"} {
		text := ask(t, p, "GET", v, "").Body.String()
		require.NotContains(t, text, "<form")
		require.NotContains(t, text, `href="change`)
		require.Contains(t, ask(t, p, "GET", v, "").Header().Get("Content-Security-Policy"), "form-action 'none'")
	}
	for _, path := range []string{"/change", "/", "/queue", "/change.json"} {
		w := ask(t, p, "POST", path, "action=reset&gate=breaker&key=hold", "Content-Type", "application/x-www-form-urlencoded")
		require.Equal(t, http.StatusMethodNotAllowed, w.Code, path)
	}
	state, _ := o.breaker.State("hold")
	require.Equal(t, sluice.BreakerOpen, state)
}

// A page answers for the names it is meant for, so that no other name leads a browser here.
func TestHosts(t *testing.T) {
	o := newOffice(t)
	here, there := page(t, sluicehttp.Config{Executor: o.exec}), page(t, sluicehttp.Config{Executor: o.exec, Hosts: []string{"Admin.Example", "10.0.0.7"}})
	for _, c := range []struct {
		p    *sluicehttp.Page
		host string
		ok   bool
	}{
		{here, "localhost", true}, {here, "localhost:8080", true}, {here, "LOCALHOST.", true}, {here, "x.localhost:1", true}, {here, "127.0.0.1:80", true},
		{here, "127.8.8.8", true}, {here, "[::1]:80", true}, {here, "[::1]", true}, {here, "[::ffff:127.0.0.1]:80", true},
		{here, "evil.example", false}, {here, "127.0.0.1.evil.example", false}, {here, "localhost.evil.example:80", false}, {here, "10.0.0.7", false},
		{here, "", false}, {here, "2130706433", false}, {here, "evillocalhost", false}, {here, "0.0.0.0", false},
		{there, "admin.example", true}, {there, "ADMIN.example:443", true}, {there, "10.0.0.7:80", true}, {there, "localhost", false}, {there, "x.admin.example", false},
	} {
		for _, path := range []string{"/", "/overview.json", "/page.js", "/stream?view=nothing"} {
			w := ask(t, c.p, "GET", path, "", "Host", c.host)
			require.Equal(t, c.ok, w.Code != http.StatusForbidden, "%s of %q: %d", path, c.host, w.Code)
		}
	}
}

// A configuration that cannot be is an error that names the field, its value and what is allowed.
func TestConfig(t *testing.T) {
	o := newOffice(t)
	actor := func(*http.Request) string { return "ada" }
	var none *sluice.RateLimiter
	for want, c := range map[string]sluicehttp.Config{
		"sluicehttp: Config.Executor is nil: must be made by sluice.NewExecutor":                           {},
		"sluicehttp: Config.Interval is 1ms: must be from 100ms to 1m, or zero":                            {Executor: o.exec, Interval: time.Millisecond},
		"sluicehttp: Config.MaxViewers is -1: must be from 1 to 10000, or zero":                            {Executor: o.exec, MaxViewers: -1},
		"sluicehttp: Config.Gates is set without Actor: must be empty, nobody can change them":             {Executor: o.exec, Gates: []sluice.Interceptor{o.rates}},
		"sluicehttp: Config.Sink is set without Actor: must be nil, there is nothing to hear":              {Executor: o.exec, Sink: o.recent},
		`sluicehttp: Config.Hosts[0] is "https://x": must be a name or an address, without scheme or path`: {Executor: o.exec, Hosts: []string{"https://x"}},
		`sluicehttp: Config.Gates[1] has the kind and name of another, "rate/crm": must differ in one`:     {Executor: o.exec, Actor: actor, Gates: []sluice.Interceptor{o.rates, o.rates}},
		"sluicehttp: Config.Gates[0] is nil: must be made by its New function":                             {Executor: o.exec, Actor: actor, Gates: []sluice.Interceptor{none}},
	} {
		_, err := sluicehttp.New(c)
		require.EqualError(t, err, want)
	}
	_, err := sluicehttp.New(sluicehttp.Config{Executor: new(sluice.Executor)})
	require.Error(t, err)
}
