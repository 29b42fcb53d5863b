package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// What leaves a state, and what does not: a late approval revives nothing, and expired is not denied.
func TestApproval_States(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	late := t0.Add(time.Hour)
	start := approvalEntry{V: approvalVersion, Approval: Approval{ID: "a", State: ApprovalPending, Requested: t0, Expires: late}}
	decided := func(e approvalEntry, approve bool) approvalEntry {
		e, err := e.decide(t0, Decision{Approve: approve, By: "ada"}, time.Hour)
		require.NoError(t, err)
		return e
	}
	cancelled, err := start.cancel(t0, "ada", "over")
	require.NoError(t, err)
	used, err := decided(start, true).use(t0)
	require.NoError(t, err)
	for want, e := range map[ApprovalState]approvalEntry{
		ApprovalExpired: start.at(late), ApprovalDenied: decided(start, false), ApprovalCancelled: cancelled, ApprovalUsed: used,
	} {
		require.Equal(t, want, e.State)
		for step, f := range map[string]func() (approvalEntry, error){
			"approve": func() (approvalEntry, error) { return e.decide(late, Decision{Approve: true, By: "eve"}, time.Hour) },
			"deny":    func() (approvalEntry, error) { return e.decide(late, Decision{By: "eve"}, time.Hour) },
			"cancel":  func() (approvalEntry, error) { return e.cancel(late, "eve", "") },
			"use":     func() (approvalEntry, error) { return e.use(late) },
		} {
			after, err := f()
			x, ok := errors.AsType[*ApprovalError](err)
			require.True(t, ok, "%s of %s: %v", step, want, err)
			require.Equal(t, want, x.Approval.State)
			require.Equal(t, e, after, "%s of %s", step, want)
			require.Equal(t, "approval_"+string(want), x.Code())
		}
		require.Equal(t, e, e.at(late.Add(time.Hour)))
	}

	// At its last instant it is decided no more, and one before it is.
	_, err = start.decide(late, Decision{Approve: true}, time.Hour)
	require.ErrorContains(t, err, "nobody refused it")
	approved, err := start.decide(late.Add(-1), Decision{Approve: true}, time.Hour)
	require.NoError(t, err)
	require.Equal(t, late.Add(time.Hour-1), approved.Expires)
	_, err = approved.use(approved.Expires)
	require.Error(t, err)
	_, err = approved.use(approved.Expires.Add(-1))
	require.NoError(t, err)

	// What did not run after all may run, until its time is over; what has ended may not.
	require.Equal(t, ApprovalApproved, used.release(t0).State)
	require.Equal(t, ApprovalExpired, used.release(used.Expires).State)
	ended := used.finish(&approvalOutcome{Result: json.RawMessage("1")})
	require.Equal(t, ended, ended.release(t0))
	require.Equal(t, ended, ended.finish(&approvalOutcome{Result: json.RawMessage("2")}))
	require.Equal(t, start, start.finish(&approvalOutcome{}))
}

// Who is overtaken between looking and writing has not decided, nor used: he looks again, and finds what the other did.
func TestApproval_Overtaken(t *testing.T) {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	defer state.Close()
	a := sluice.Must(NewApprovals(ApprovalsConfig{State: state, Needs: func(sluice.Call) (string, bool) { return "", true }}))
	now := wall(time.Now())
	e := approvalEntry{V: approvalVersion, Approval: Approval{ID: "x", State: ApprovalPending, Expires: now.Add(time.Hour)}}
	sluice.Must(a.key("x").Set(a.ctx, e))
	overtaken := func(by, step func(e approvalEntry, now time.Time) (approvalEntry, error)) (approvalEntry, error) {
		looked := 0
		e, err := a.change(t.Context(), "x", func(e approvalEntry, now time.Time) (approvalEntry, error) {
			if looked++; looked == 1 {
				_, err := a.change(t.Context(), "x", by)
				require.NoError(t, err)
			}
			return step(e, now)
		})
		require.Equal(t, 2, looked)
		return e, err
	}
	decide := func(d Decision) func(approvalEntry, time.Time) (approvalEntry, error) {
		return func(e approvalEntry, now time.Time) (approvalEntry, error) { return e.decide(now, d, time.Hour) }
	}
	use := func(e approvalEntry, now time.Time) (approvalEntry, error) { return e.use(now) }
	after, err := overtaken(decide(Decision{Approve: true, By: "ada"}), decide(Decision{By: "eve"}))
	require.ErrorContains(t, err, "it is approved")
	require.Equal(t, Decision{Approve: true, By: "ada"}, after.Decision)
	after, err = overtaken(use, use)
	require.ErrorContains(t, err, "it was approved and has begun before")
	require.Equal(t, ApprovalUsed, after.State)
}

// An entry is kept as long as it can change, and a lifetime longer.
func TestApproval_Life(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e := approvalEntry{Approval: Approval{State: ApprovalPending, Expires: t0.Add(time.Hour)}}
	require.Equal(t, 2*time.Hour, e.life(t0, time.Hour))
	require.Equal(t, time.Hour, e.life(t0.Add(3*time.Hour), time.Hour))
	e.State = ApprovalDenied
	require.Equal(t, time.Hour, e.life(t0, time.Hour))
}

func TestApproval_EntriesOfOthers(t *testing.T) {
	e := approvalEntry{V: 2, Approval: Approval{State: ApprovalPending}}
	require.EqualError(t, e.check(), "its entry is of version 2: must be 1")
	e.V, e.State = 1, "granted"
	require.EqualError(t, e.check(), `its entry's state is "granted": must be pending, approved, used, denied, expired or cancelled`)
}

func TestCanonical(t *testing.T) {
	for text, want := range map[string]string{
		`{"b":1,"a":[ 2 , {"d":null,"c":true} ]}`: `{"a":[2,{"c":true,"d":null}],"b":1}`,
		`[1,1.0,10e-1,1E0,0.1e1,100e-2]`:          `[1,1,1,1,1,1]`,
		`[-0,0.0,0e9]`:                            `[0,0,0]`,
		`[9007199254740993,9007199254740992]`:     `[9007199254740993,9007199254740992]`,
		`[0.1,1e-1,-12.50,1e2,1.5e3]`:             `[1e-1,1e-1,-125e-1,100,1500]`,
		`[1e21,1e20,1e999999999999]`:              `[1e21,100000000000000000000,1e999999999999]`,
		`"\u0041\n\/"`:                            `"A\n/"`,
		`{"\u0061":1}`:                            `{"a":1}`,
		` {} `:                                    `{}`,
		`[]`:                                      `[]`,
	} {
		b, err := canonical([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, want, string(b), text)
		again, err := canonical(b)
		require.NoError(t, err)
		require.Equal(t, b, again, "of what is in that form already")
	}
	for text, want := range map[string]string{
		`{"a":1,"\u0061":2}`:                   `has the name "a" twice`,
		`{"x":[{"b":1,"a":2,"b":1}]}`:          `has the name "b" twice`,
		`"\ud800"`:                             "has text that is no Unicode",
		"\"\xff\"":                             "is no UTF-8",
		`{"a":1} 2`:                            "is not JSON",
		`{"a":}`:                               "is not JSON",
		`[1,]`:                                 "is not JSON",
		`01`:                                   "is not JSON",
		``:                                     "ends at byte 0",
		`1e123456789012345678901`:              "exponent is too long",
		strings.Repeat("[", 300):               "nested too deep",
		`{"a":` + strings.Repeat(`{"a":`, 300): "nested too deep",
		`{"a":1,"b":{"c":1e99999999999999999999999}}`: "exponent is too long",
	} {
		_, err := canonical([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

// However a value is written, its canonical form is the same, and another value's is another.
func TestCanonical_Storm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var value func(depth int) any
	value = func(depth int) any {
		switch n := r.IntN(7); {
		case n == 0 && depth > 0:
			m := map[string]any{}
			for range r.IntN(4) {
				m[string(rune('a'+r.IntN(5)))] = value(depth - 1)
			}
			return m
		case n == 1 && depth > 0:
			l := make([]any, r.IntN(4))
			for i := range l {
				l[i] = value(depth - 1)
			}
			return l
		case n == 2:
			return json.Number(fmt.Sprint(r.Int64N(2000) - 1000))
		case n == 3:
			return string(rune(r.IntN(0xd000)))
		case n == 4:
			return nil
		}
		return r.IntN(2) == 0
	}
	var write func(v any) string
	write = func(v any) string {
		pad := strings.Repeat(" ", r.IntN(2))
		switch x := v.(type) {
		case map[string]any:
			var parts []string
			for k, v := range x { // in any order
				parts = append(parts, fmt.Sprintf(`%s"\u%04x":%s`, pad, k[0], write(v)))
			}
			return pad + "{" + strings.Join(parts, ",") + pad + "}"
		case []any:
			parts := make([]string, len(x))
			for i := range x {
				parts[i] = write(x[i])
			}
			return "[" + strings.Join(parts, pad+",") + "]"
		case json.Number:
			forms := []string{string(x), string(x) + ".0", string(x) + "e0", string(x) + "00E-2"}
			if x == "0" { // 000 is none
				forms = forms[:3]
			}
			return forms[r.IntN(len(forms))]
		}
		b, _ := json.Marshal(v)
		return pad + string(b)
	}
	for range 5000 {
		v, w := value(3), value(3)
		a, err := canonical([]byte(write(v)))
		require.NoError(t, err)
		b, err := canonical([]byte(write(v)))
		require.NoError(t, err)
		require.Equal(t, string(a), string(b))
		c, err := canonical([]byte(write(w)))
		require.NoError(t, err)
		x, _ := json.Marshal(v)
		y, _ := json.Marshal(w)
		require.Equal(t, strings.ReplaceAll(string(x), "-0", "0") == strings.ReplaceAll(string(y), "-0", "0"), string(a) == string(c), "%s and %s", x, y)
	}
}
