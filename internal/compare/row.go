package compare

import (
	"fmt"
	"slices"
)

// Role is what a contestant is in a row.
type Role uint8

// The roles.
const (
	Ours  Role = iota // Sluice as a program uses it
	Part              // a machine inside Sluice, without the layers around it
	Peer              // another library, or a stack of them
	Floor             // hand-written for this one case
)

// String is how the role stands in the report.
func (r Role) String() string {
	return [...]string{"**Sluice**", "part of Sluice", "peer", "floor"}[r]
}

// Body does n operations as one of the workers of a load, and returns an error if one of
// them came to the wrong outcome. The bodies of the workers run at the same time.
type Body func(worker, n int) error

// Contestant is one way of doing a row's work.
type Contestant struct {
	Name string
	Role Role
	// Make builds what the operations need. close may be nil.
	Make func(workers int) (body Body, close func(), err error)
}

// Load is how many goroutines work on how many cores.
type Load struct{ Goroutines, Cores int }

// String is how the load stands in the report.
func (l Load) String() string {
	return fmt.Sprintf("%s, %s", count(l.Goroutines, "goroutine"), count(l.Cores, "core"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// The loads that most rows use.
var (
	alone    = Load{1, 1}
	hundred  = Load{100, 2}
	thousand = Load{1000, 2}
)

// Row is one piece of work, done by all contestants under each of the loads.
type Row struct {
	Section     string // heading in the report
	Name        string
	Note        string // below the heading
	Loads       []Load
	Contestants []Contestant
}

// Size is how large the big tables are.
type Size struct{ Keys int }

// Full is the size of the published figures, Smoke that of a run which only shows that
// everything works.
var (
	Full  = Size{Keys: 1_000_000}
	Smoke = Size{Keys: 2_000}
)

// Names that several rows, or a row and a budget, have in common.
const (
	wholeCall   = "whole call"
	withTimeout = "whole call with an attempt timeout"
	refusedOpen = "whole call refused by an open breaker"
	refusedFull = "whole call refused by a full limit"
	queuedCall  = "whole call that queued"
	queuedPart  = "admission of a queued call"
	configured  = "whole call, as people configure it"
	independent = "whole calls of independent tools"
	binding     = "whole call through a limit that binds"
	slowAtOnce  = "slow calls: 10,000 at once"

	byInvoke    = "Invoke"
	byInvokeNil = "Invoke, nil sink"
	byTyped     = "Tool.Invoke (typed)"
	chained     = "chain: six compiled closures"
	fusedOne    = "fused: all in one function"
	byHand      = "gobreaker + x/time + x/sync"
	byFail      = "failsafe-go, 3 policies"
	machinePart = "admission machine, lock, channel"
	levelFloor  = "four levels, lock, channel"
	syncMap     = "sync.Map of atomics"
	slowInvoke  = "Invoke, a goroutine each"
	sleepers    = "goroutines that sleep"
)

// Rows returns all rows, in the order of the report.
func Rows(s Size) []Row {
	return slices.Concat(
		callRows(), configuredRows(), refusedRows(), queuedRows(), toolRows(), slowRows(), keyedRows(s),
		layerRows(), turnRows(), admissionRows(), rateRows(), breakerRows(), sinkRows(),
		stateRows())
}
