package sluicegenkit

import (
	"runtime/debug"

	"github.com/sluice-go/sluice"
)

// contained runs f, which is somebody else's, and answers a [*sluice.PanicError] if it panics or calls
// runtime.Goexit. A Goexit cannot be stopped, and would end genkit's goroutine, for whose answer a Generate then waits
// for ever. So f runs on a goroutine of its own, which may end in any way, also tied to its thread.
func contained(tool string, f func()) error {
	failed := make(chan error, 1)
	go func() {
		normal := false
		defer func() {
			if normal {
				close(failed)
				return
			}
			v := recover()
			failed <- &sluice.PanicError{Tool: tool, Value: v, Goexit: v == nil, Stack: debug.Stack()}
		}()
		f()
		normal = true
	}()
	return <-failed
}
