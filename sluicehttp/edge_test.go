package sluicehttp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// inspected is a page of an executor with an interceptor that says of itself what it is told to.
func inspected(t *testing.T, says *inspector, tools ...sluice.Spec) (*sluicehttp.Page, *sluice.Executor) {
	t.Helper()
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{says}}))
	t.Cleanup(func() { _ = exec.Close(context.Background()) })
	for _, s := range tools {
		sluice.Must(sluice.Wrap(exec, s, func(context.Context, struct{}) (int, error) { return 0, nil }))
	}
	return page(t, sluicehttp.Config{Executor: exec}), exec
}

// Whatever numbers and times an interceptor has for itself, the page shows them.
func TestNumbersWithoutBounds(t *testing.T) {
	p, _ := inspected(t, &inspector{
		{Name: "past", Paused: true, Until: time.Time{}.Add(time.Second)},
		{Name: "debt", Limit: 1, Used: math.MaxInt64},
		{Name: "credit", Limit: 4, Used: -1},
	})
	text := ask(t, p, "GET", "/layers", "").Body.String()
	require.Contains(t, text, "paused for −106751 d 23 h", "as long ago as can be told")
	require.Contains(t, text, "<bdi>1,000,000,000,000,000 %</bdi>")
	require.Contains(t, text, "<bdi>−25 %</bdi>")
	require.Equal(t, http.StatusOK, ask(t, p, "GET", "/", "").Code)
}

// A stream that is asked for by HEAD has only a head: it would hold its place, and the connection, for ever.
func TestHeadOfAStreamEnds(t *testing.T) {
	o := newOffice(t)
	p := page(t, sluicehttp.Config{Executor: o.exec, MaxViewers: 1})
	for range 2 {
		ended := make(chan http.Header, 1)
		go func() { ended <- ask(t, p, "HEAD", "/stream?view=queue", "").Header() }()
		select {
		case h := <-ended:
			require.Equal(t, "text/event-stream", h.Get("Content-Type"))
		case <-time.After(10 * time.Second):
			require.Fail(t, "it has not ended")
		}
	}
}

// Sink hears of a trip whatever else its form has: nobody trips a breaker silently.
func TestNoFieldSilencesTheSink(t *testing.T) {
	o := newOffice(t)
	p := operated(t, o)
	v := url.Values{"action": {"trip"}, "gate": {"breaker"}, "key": {"hold"}, "was": {"1"}}
	w := ask(t, p, "POST", "/change", v.Encode(), "Content-Type", "application/x-www-form-urlencoded", "X-User", "ada")
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Contains(t, ask(t, p, "GET", "/recent", "").Body.String(), `<td data-field="actor"><bdi>ada</bdi></td>`)
}

// Who has changed something is told so, though the Sink that should hear of it panics.
func TestPanickingSinkLosesNoAnswer(t *testing.T) {
	o := newOffice(t)
	p := page(t, sluicehttp.Config{
		Executor: o.exec, Recent: o.recent, Gates: []sluice.Interceptor{o.breaker}, Actor: func(*http.Request) string { return "ada" },
		Sink: sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { panic("the sink is broken") }),
	})
	v := url.Values{"action": {"trip"}, "gate": {"breaker"}, "key": {"hold"}}
	w := ask(t, p, "POST", "/change", v.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Equal(t, "change?done=1&gate=breaker&key=hold", w.Header().Get("Location"))
	st, _ := o.breaker.State("hold")
	require.Equal(t, sluice.BreakerOpen, st)
}

// A view that is expensive once, here as an interceptor's Wrap takes ten seconds, does not keep others from what is new
// for longer than a minute.
func TestReadingsAreAMinuteOldAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowWrap{release: make(chan struct{})}
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{slow}}))
		sluice.Must(sluice.Register(exec.Registry(), sluice.Spec{Name: "work"}, func(context.Context, struct{}) (int, error) { return 0, nil }))
		p := page(t, sluicehttp.Config{Executor: exec})
		began := time.Now()
		require.Contains(t, ask(t, p, "GET", "/tool?tool=work", "").Body.String(), "Nobody knows", "which is no refusal")
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Contains(t, ask(t, p, "GET", "/explain.json?tool=work", "").Body.String(), `"verdict": "unknown"`)

		at := func() (at time.Time) {
			var x struct{ At time.Time }
			require.NoError(t, json.Unmarshal(ask(t, p, "GET", "/queue.json", "").Body.Bytes(), &x))
			return x.At
		}
		ctx, leave := context.WithTimeout(t.Context(), 11*time.Second)
		defer leave()
		was := at()
		require.Contains(t, askUntil(ctx, p, "/stream?view=tool&tool=work"), "Nobody knows")
		time.Sleep(48 * time.Second)
		require.Equal(t, was, at(), "59 s after it")
		time.Sleep(2 * time.Second)
		require.Greater(t, at(), was)
		close(slow.release)
		synctest.Wait()
		require.NoError(t, exec.Close(t.Context()))
	})
}

// slowWrap is an interceptor whose Wrap waits.
type slowWrap struct{ release chan struct{} }

func (x *slowWrap) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	<-x.release
	return next
}

// What was not today says so: a refusal of yesterday is not taken for one of five minutes ago.
func TestInstantsOfOtherDaysHaveTheirDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		p := page(t, sluicehttp.Config{Executor: o.exec, Recent: o.recent})
		_, err := o.exec.Invoke(t.Context(), sluice.Request{Tool: "nothing"})
		require.ErrorIs(t, err, sluice.ErrUnknownTool)
		require.Contains(t, ask(t, p, "GET", "/recent", "").Body.String(), "<bdi>00:00:00 UTC</bdi>")
		time.Sleep(24*time.Hour + 5*time.Minute)
		for _, v := range []string{"/recent", "/"} {
			require.Contains(t, ask(t, p, "GET", v, "").Body.String(), "<bdi>2000-01-01 00:00:00 UTC</bdi>", v)
		}
	})
}

// A plan is shown whole, and so is what a model would be told; a name is cut.
func TestPlansAreNotCut(t *testing.T) {
	long := namedLayer(strings.Repeat("a-layer-", 15))
	var layers []sluice.Interceptor
	for range 5 {
		layers = append(layers, long)
	}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: layers}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(context.Context, struct{}) (int, error) { return 0, nil }))
	plan, _ := exec.Plan("work")
	require.Greater(t, len(plan), 256)
	text := ask(t, page(t, sluicehttp.Config{Executor: exec}), "GET", "/tool?tool=work", "").Body.String()
	require.Contains(t, text, "<bdi>"+plan+"</bdi>")
}

type namedLayer string

func (x namedLayer) String() string                                       { return string(x) }
func (namedLayer) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next }

// A list is searched for the words of each row, its state and hints too.
func TestSearchFindsWhatIsShown(t *testing.T) {
	o := newOffice(t)
	sluice.Must(sluice.Wrap(o.exec, sluice.Spec{Name: "drop", Hints: sluice.Hints{Destructive: true}}, func(context.Context, struct{}) (int, error) { return 0, nil }))
	require.NoError(t, o.breaker.Trip("drop"))
	require.NoError(t, o.rates.Pause("", time.Hour))
	require.NoError(t, o.breaker.Reset("hold"))
	p := page(t, sluicehttp.Config{Executor: o.exec, Recent: o.recent})
	for target, name := range map[string]string{"/breakers.json?q=OPEN": "drop", "/rates.json?q=paused": "", "/tools.json?q=destructive": "drop"} {
		var l struct {
			Matching int
			Rows     []struct{ Name, Key string }
		}
		require.NoError(t, json.Unmarshal(ask(t, p, "GET", target, "").Body.Bytes(), &l))
		require.Equal(t, 1, l.Matching, target)
		require.Contains(t, l.Rows[0].Name+l.Rows[0].Key, name, target)
	}
	for q, status := range map[string]int{strings.Repeat("語", 256): http.StatusOK, strings.Repeat("語", 257): http.StatusBadRequest} {
		require.Equal(t, status, ask(t, p, "GET", "/queue?q="+url.QueryEscape(q), "").Code, "the page lets one type 256 characters")
	}
}

// What is wrong with a call that is typed is said in words that its writer knows.
func TestCallsThatCannotBeRead(t *testing.T) {
	o := newOffice(t)
	p := page(t, sluicehttp.Config{Executor: o.exec})
	for body, want := range map[string]string{
		`{"tool": "hold", "priority": "high"}`: "400 The call's priority is a JSON string, which it cannot be.\n",
		`{"tool": "hold", "priority": 3.5}`:    "400 The call's priority is a JSON number 3.5, which it cannot be.\n",
		`[]`:                                   "400 The call's body is a JSON array, which it cannot be.\n",
		`{"tool": "` + strings.Repeat("x", 256<<10) + `"}`: "413 The call has more than 262144 bytes.\n",
		`{"tool": `: "400 The call is no JSON: unexpected EOF\n",
	} {
		w := ask(t, p, "POST", "/explain", body, "Content-Type", "application/json")
		require.Equal(t, want, fmt.Sprintf("%d %s", w.Code, w.Body))
	}
}

// One thing is not told of as several.
func TestOneOfAKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		p := page(t, sluicehttp.Config{Executor: o.exec})
		for range 3 {
			o.exec.Submit(t.Context(), sluice.Request{Tool: "hold"})
		}
		synctest.Wait()
		require.Contains(t, ask(t, p, "GET", "/queue", "").Body.String(), "1 call waits in 1 lane.")
		require.Contains(t, ask(t, p, "GET", "/tool?tool=hold", "").Body.String(), "Its cost: 1 call.")
		close(o.release)
		require.NoError(t, o.exec.Close(t.Context()))
	})
}

// The names of components that can be changed are in JSON as forms name them.
func TestChangeJSON(t *testing.T) {
	o := newOffice(t)
	var x struct{ Gates []string }
	require.NoError(t, json.Unmarshal(ask(t, operated(t, o), "GET", "/change.json", "").Body.Bytes(), &x))
	require.Equal(t, []string{"breaker", "concurrency", "rate/crm", "priority"}, x.Gates)
}

// A rate of more than an int of 32 bits has is set as it is, on every platform; a limit is, or is refused.
func TestLargeNumbersAreSet(t *testing.T) {
	o := newOffice(t)
	most := int64(1<<32 + 1)
	if code, _ := submit(t, operated(t, o), "/change?gate=concurrency", "set", map[string]string{"max0": fmt.Sprint(most)}); math.MaxInt < most {
		require.Equal(t, http.StatusBadRequest, code)
		most = 2
	}
	require.EqualValues(t, most, o.limits.Config().Limits[0].Max)
	status, text := submit(t, operated(t, o), "/change?gate=rate%2Fcrm", "set", map[string]string{"n0": "1000000000000", "burst0": "5000000000"})
	require.Equal(t, http.StatusSeeOther, status, text)
	require.Equal(t, []sluice.Rate{{N: 1e12, Per: time.Minute, Burst: 5e9}}, o.rates.Config().Rates)
}

// Tools come and go, and so do their limits: the pictures are of those that there are.
func TestPicturesForgetLimitsThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		says := new(inspector)
		p, _ := inspected(t, says)
		name := func(i int) string { return fmt.Sprintf("limit-%02d", i) }
		show := func(from, to int) string {
			*says = nil
			for i := from; i < to; i++ {
				*says = append(*says, sluice.GateState{Name: name(i), Limit: 4, Used: 1})
			}
			time.Sleep(2 * time.Second)
			return ask(t, p, "GET", "/", "").Body.String()
		}
		require.Contains(t, show(0, 32), "Use of "+name(0))
		require.NotContains(t, show(31, 40), "Use of "+name(32), "what was is remembered, and so much is")
		time.Sleep(6 * time.Minute)
		show(31, 40)
		text := show(31, 40)
		for i := 32; i < 38; i++ { // in the places that they have got
			require.Contains(t, text, "Use of "+name(i))
		}
		require.NotContains(t, text, "Use of "+name(0))
	})
}
