// Package kept runs code that has a time limit on goroutines that are kept for the next such code.
//
// Whoever waits for the code takes a goroutine from a [Pool], gives it a job and waits until the code
// has ended or its time is over, whichever comes first:
//
//	h := pool.Take(now, due)
//	h.Job.in = x
//	if h.Wait() {
//		y := h.Job.out
//		h.Free()
//		return y
//	}
//	// the time is over: h belongs to the code
//
// A goroutine that is kept has the stack that it has grown for the code before, which is most of what a
// new one costs. A few are kept, for a few seconds. One whose code calls runtime.Goexit ends with that.
//
//   - pool.go: who is kept, and who has a goroutine
//   - hand.go: one goroutine, and who was first
//   - times.go: whose time is over next
//
// A Pool has one lock, which is held for a few steps only. No job runs under it.
package kept
