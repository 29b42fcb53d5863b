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
// The command cmd/instructions counts the instructions of whole calls with valgrind.
//
// # Fairness
//
// What makes a comparison fair is written in [Fairness], which the report repeats.
package compare

// Fairness says what makes the rows comparable. The report prints it behind its first table.
var Fairness = []string{
	"All contestants of a row do the same work on the same tool (a function that is not inlined and returns at once, where the row says nothing else) and come to the same outcome. Every operation checks it; a wrong one ends the run.",
	"Rounds are interleaved: each measures every contestant of a row once, starting with another one each time. Figures are medians; a ratio is the median of the ratios within the rounds. Where two loads are compared, which do not share rounds, it is the ratio of the medians.",
	"Limits bind only where the row says so: otherwise there are 4,096 slots, 1e9 tokens per second, and breakers that see only successes.",
	"No feature of a peer is turned off that ours has on. Where the scopes differ, the difference is in the peer's favour: peers have no registry and send no events (but for the row with three listeners), their closures are built once, and sentinel-golang, and failsafe-go's rate limiter, refuse where ours and the hand-made stack would wait. Their breakers count failures in a row or, where they cannot, as they do by default.",
	"Sluice runs with its default checks: panics and runtime.Goexit caught, at most 32 nested calls, 10,000 calls per root.",
	"Floors are correct programs for one case, tested for their limits, for panics and under the race detector. What each leaves out stands beside its code.",
	"Time, allocations and bytes are per operation, over all goroutines of the process. The heap is collected before each round; goroutines are started, have done one operation and are parked when the clock starts. *Spread* is half the distance between the quartiles of the rounds. *First / this* is the time of the first line of the table divided by the time of this line: below 1, the first is faster.",
}
