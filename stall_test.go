package sluice_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
)

// A limit that has released nothing for a minute while calls wait is told once, and shown,
// until it releases: so whoever calls a tool from a tool without the context it was given, and
// waits for itself, can find out. Nothing is refused.
func TestStall_IsToldOnce(t *testing.T) {
	for name, x := range map[string]struct {
		limits []sluice.Limit
		by     string
	}{
		"of all":     {[]sluice.Limit{{Max: 1}}, "concurrency global"},
		"of a tool":  {[]sluice.Limit{{Max: 1, Scope: sluice.ByTool}}, "concurrency per tool"},
		"of a type":  {[]sluice.Limit{{Max: 1, Scope: sluice.ForType("web")}}, ""},
		"of several": {[]sluice.Limit{{Max: 1, Scope: sluice.ByTenant}, {Max: 1}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rec := new(sluice.Recorder)
				r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(x.limits...)), Sink: rec})
				told := func() (list []sluice.Event) {
					for _, e := range rec.Events() {
						if e.Kind == sluice.LimitStalled {
							list = append(list, e)
						}
					}
					return list
				}
				shown := func() bool {
					return slices.ContainsFunc(r.Snapshot().Gates, func(g sluice.GateState) bool { return g.Stalled })
				}
				depth := 0
				stop, cancel := context.WithCancel(t.Context())
				r.tool(sluice.Spec{Name: "x", Type: "web"}, func(context.Context) error {
					if depth++; depth == 1 {
						_, err := r.Invoke(stop, sluice.Request{Tool: "x"}) // not the context it was given
						return err
					}
					return nil
				})
				done := make(chan error, 1)
				go func() { done <- r.call("x") }()
				time.Sleep(time.Minute - 1)
				synctest.Wait()
				if len(told()) != 0 || shown() {
					t.Errorf("told %v, shown %v before a minute had passed", told(), shown())
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				list := told()
				if len(list) != 1 || !shown() {
					t.Fatalf("told %v, shown %v after a minute, want once", list, shown())
				}
				e := list[0]
				if x.by != "" && e.By != x.by || e.Time.Sub(r.start) != time.Minute || e.Err == nil ||
					!strings.Contains(e.Err.Error(), "1 calls") || !strings.Contains(e.Err.Error(), "while 1 wait") || !strings.Contains(e.Err.Error(), "without the context") {
					t.Errorf("told %+v at %v: %v", e, e.Time.Sub(r.start), e.Err)
				}
				time.Sleep(time.Hour)
				n := len(told())
				assert.Equal(t, 1, n, "told %d times in an hour", n)
				cancel()
				assert.Error(t, <-done, "no error of the nested call")
				assert.False(t, shown(), "still shown, though the limit has released")
				n = len(told())
				assert.Equal(t, 1, n, "told %d times", n)
				r.end()
			})
		})
	}
}

// What moves is no stall, however long the queue; nor is what waits for a rate or a pause.
func TestStall_WhatMovesIsNotToldOf(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rec := new(sluice.Recorder)
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("rated"), Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: sluice.ForTool("slow")}), q), Sink: rec})
		defer r.end()
		r.tool(sluice.Spec{Name: "slow"}, sleeps(time.Minute-1))
		r.tool(sluice.Spec{Name: "rated"}, sleeps(0))
		wait := inOrder(20, func(int) { assert.NoError(t, r.call("slow")) })
		other := inOrder(3, func(int) { assert.NoError(t, r.call("rated")) })
		wait()
		other()
		for _, e := range rec.Events() {
			if e.Kind == sluice.LimitStalled {
				t.Errorf("%s was told at %v: %v", e.By, e.Time.Sub(r.start), e.Err)
			}
		}
	})
}
