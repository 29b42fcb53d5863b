package resilience

import "github.com/sluice-go/sluice"

// What layers tell of what they do, in the order of the call's other events. docs/retries.md explains them.
const (
	cacheHit         sluice.EventKind = "cache.hit"         // stale: the call had failed
	joinShared       sluice.EventKind = "join.shared"       //
	fallbackAnswered sluice.EventKind = "fallback.answered" // by: tool, func
	hedgeStarted     sluice.EventKind = "hedge.started"     // after
	hedgeWon         sluice.EventKind = "hedge.won"         //
	onceReplayed     sluice.EventKind = "once.replayed"     // failed: with an error
	onceInDoubt      sluice.EventKind = "once.in_doubt"     // since
)
