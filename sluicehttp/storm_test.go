package sluicehttp_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// While tools come and go and everything is looked at, each operator raises what was there by one: nobody's change is
// lost, and no view fails.
func TestStormOfOperators(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	o := newOffice(t)
	p := operated(t, o)
	var raised atomic.Int64
	var answers [600]atomic.Int64 // by status
	var all sync.WaitGroup
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for i := range 4 {
		all.Go(func() {
			askUntil(ctx, p, fmt.Sprintf("/stream?view=%s&tool=hold", []string{"overview", "queue", "tool", "tools"}[i]))
		})
	}
	var busy sync.WaitGroup
	for i := range 8 {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		busy.Go(func() {
			for range 60 {
				switch r.IntN(4) {
				case 0:
					was := o.limits.Config().Limits[0].Max
					v := url.Values{"action": {"set"}, "gate": {"concurrency"}, "was": {strconv.Itoa(was)}, "max0": {strconv.Itoa(was + 1)}}
					code := ask(t, p, "POST", "/change", v.Encode(), "Content-Type", "application/x-www-form-urlencoded", "X-User", "ada").Code
					if answers[code].Add(1); code == http.StatusSeeOther {
						raised.Add(1)
					}
				case 1:
					name := fmt.Sprintf("tool-%d", r.IntN(5))
					_, _ = sluice.Register(o.reg, sluice.Spec{Name: name, Policy: sluice.Policy{Concurrency: 1 + r.IntN(3)}},
						func(context.Context, struct{}) (int, error) { return 0, nil })
					o.exec.Submit(ctx, sluice.Request{Tool: name, Input: struct{}{}}) // most wait for the rate
					_ = o.reg.Remove(name)
				default:
					view := []string{"", "queue", "limits", "rates", "breakers", "tools.json", "recent", "change", "overview.json", "tool?tool=tool-1", "explain?tool=tool-2"}[r.IntN(11)]
					code := ask(t, p, "GET", "/"+view, "").Code
					if code == http.StatusNotFound && strings.HasPrefix(view, "tool?") {
						code = http.StatusOK // it has just been removed
					}
					answers[code].Add(1)
				}
			}
		})
	}
	busy.Wait()
	leave()
	all.Wait()
	require.Positive(t, raised.Load())
	require.EqualValues(t, 2+raised.Load(), o.limits.Config().Limits[0].Max, "changes that were made and are there")
	for code := range answers {
		if n := answers[code].Load(); code != http.StatusOK && code != http.StatusSeeOther && code != http.StatusConflict {
			require.Zero(t, n, "answers %d", code)
		}
	}
}
