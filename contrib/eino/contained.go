package sluiceeino

import (
	"iter"
	"runtime/debug"

	"github.com/sluice-go/sluice"
)

// contained runs f, which is somebody else's, and answers a [*sluice.PanicError] if it panics or calls
// runtime.Goexit. A Goexit cannot be stopped, and would end the goroutine of the run, which then never ends. So
// f runs as a coroutine, which costs a tenth of a goroutine that is waited for: if it is about to exit, it first
// hands over that error.
func contained(tool string, f func()) error {
	resume, stop := iter.Pull(func(yield func(error) bool) {
		normal := false
		defer func() {
			if !normal {
				v := recover()
				yield(&sluice.PanicError{Tool: tool, Value: v, Goexit: v == nil, Stack: debug.Stack()})
			}
		}()
		grow(1)
		f()
		normal = true
	})
	err, exits := resume()
	if exits {
		go stop() // lets it exit, and exits with it
	}
	return err
}

// grow has the stack of a new coroutine grow at once, while there is next to nothing on it that must be moved: else
// it does so deep inside a call, several times, which takes as long as the call itself.
//
//go:noinline
func grow(i int) byte {
	var room [6 << 10]byte
	room[i%len(room)] = 1
	return room[(i+1)%len(room)]
}
