package sluicemcp

import (
	"errors"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// Code that returns, panics or exits ends alone, and leaves no goroutine: the bubble would not end.
func TestContained(t *testing.T) {
	cause := errors.New("cause")
	for name, c := range map[string]struct {
		f      func()
		value  any
		failed bool
		goexit bool
	}{
		"returns":          {f: func() {}},
		"panics":           {f: func() { panic(cause) }, failed: true, value: cause},
		"exits":            {f: runtime.Goexit, failed: true, goexit: true},
		"exits in a defer": {f: func() { defer runtime.Goexit(); panic(cause) }, failed: true, goexit: true},
		"exits further in": {f: func() { _ = contained("inner", func() { defer func() {}(); runtime.Goexit() }) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				deferred := false
				err := contained("search", func() {
					defer func() { deferred = true }()
					c.f()
				})
				require.True(t, deferred)
				if !c.failed {
					require.NoError(t, err)
					return
				}
				p, ok := errors.AsType[*sluice.PanicError](err)
				require.True(t, ok)
				require.Equal(t, "search", p.Tool)
				require.Equal(t, c.value, p.Value)
				require.Equal(t, c.goexit, p.Goexit)
				require.Contains(t, string(p.Stack), "contained_test.go")
			})
		})
	}
}

// Contained code may wait, as any does, and its goroutine may be tied to its thread while it does.
func TestContainedCodeWaits(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	a, b := make(chan int), make(chan int)
	go func() { b <- 1 + <-a }()
	got := 0
	require.NoError(t, contained("search", func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		a <- 1
		got = <-b
	}))
	require.Equal(t, 2, got)
}
