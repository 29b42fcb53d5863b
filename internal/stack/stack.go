// Package stack saves a new goroutine the time that it takes to grow its stack step by step. It
// is here because that pays: see its benchmark.
package stack

// Grow makes room on the stack of a new goroutine for what a call and its sinks need. The
// runtime would do so by itself, but later, when it has a dozen frames to move and not one.
//
//go:noinline
func Grow() {
	var room [2 << 10]byte
	use(&room)
}

//go:noinline
func use(*[2 << 10]byte) {}
