// Package compare measures Sluice beside the libraries that people use for the same work
// today, and beside floors: small hand-written programs that do one piece of work
// correctly for their own case and leave everything else out. A floor is the limit to
// approach, a peer is what a reader would otherwise import.
//
// A [Row] is one piece of work under one load (so many goroutines on so many cores); its
// contestants do it one after the other, in interleaved rounds, in one process. The command
// cmd/report runs all rows and writes BENCHMARKS.md; the benchmarks of this package run the
// same bodies under go test -bench.
//
// The command cmd/versus measures two states of Sluice against each other, each a git revision
// or a directory:
//
//	go run ./cmd/versus a0d3f86 ../..
//	go run ./cmd/versus -rounds 25 -rows 'whole call,timeout' main ../..
//
// The command cmd/touched counts the files and functions of the root that one call runs:
//
//	go run ./cmd/touched -v ../..
//
// # Fairness
//
// What makes a comparison fair is written in [Fairness], which the report repeats.
package compare

// Fairness says what makes the rows comparable. The report prints it above the figures.
var Fairness = []string{
	"All contestants of a row do the same work on the same tool (a function that is not inlined and returns at once) and must come to the same outcome. Every operation checks its outcome; a wrong one (an error, or none where a refusal is due) ends the run.",
	"Rounds are interleaved: each round measures every contestant of a row once, starting with another one each time. Figures are medians over the rounds; a ratio is the median of the ratios within the rounds, so that a slow minute of the machine touches both sides.",
	"Limits never bind in the rows without contention: 4,096 slots, 1e9 tokens per second, breakers that see only successes. In the rows that refuse or queue, every call is refused or nearly every call queues, for everybody.",
	"No feature of a peer is turned off that ours has on. Where the scopes differ, the difference is in the peer's favour: hand-made stacks, failsafe-go, sentinel-golang and hystrix-go have no registry to ask and send no events (but for the row with three listeners); closures that a program would build for each call are built once; sentinel-golang, and failsafe-go's rate limiter, refuse where ours and the hand-made stack would wait.",
	"Peers have the breaker policy nearest to ours (failures in a row) and, where they have none, their own default. failsafe-go gets the call's context through WithContext in each call, because that is where its calls take one.",
	"Sluice runs with its default checks: panics and runtime.Goexit caught, at most 32 nested calls, 10,000 calls per root. Its request is built once, as a model's call is decoded once.",
	"Allocations and bytes are counted for the whole process over the timed part, so what a peer's background goroutines allocate is counted too. The heap is collected before each round; goroutines are started, have done one operation and are parked when the clock starts.",
	"Floors are correct programs, tested for their limits, for panics and under the race detector. What each leaves out stands beside its code and its name.",
	"Peers are pinned in go.mod; the versions stand below.",
}
