package sluice

// growStack makes room on the stack of a new goroutine for what a call and its sinks need.
// The runtime would do so by itself, but later, when it has a dozen frames to move and not
// one: that takes as long as all the rest of the call.
//
//go:noinline
func growStack() {
	var room [2 << 10]byte
	use(&room)
}

//go:noinline
func use(*[2 << 10]byte) {}
