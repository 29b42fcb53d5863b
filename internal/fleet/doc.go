// Package fleet connects the rates and slots of limiters to an engine that other processes use too: it makes the
// errands of the cells of internal/admit that keep a stock, and of those that lease their slots.
//
// Who asks whom:
//
//	machine ── Run(cell) ──► Fleet: a goroutine, of a bounded number, that asks the machine for the errands
//	                         of the cell until there are none
//	   ▲                        │ Take, Settle, Hold: within a budget, answered by a mode while the engine
//	   │                        ▼                     is away (engine.Fallback)
//	   └─ Supply, Settled ─── engine
//
// A machine is asked and told with its stage locked, and the engine without any lock. What the Fleet itself
// keeps is guarded by its own lock, which comes after a stage's; nothing is called under it.
//
// Holds are spread twice. The engine keeps everybody from the meter, so that nobody is granted anything. And a
// record with a time to live tells every process, which has units of before in stock, to use none of them.
//
//   - fleet.go: the Fleet, its goroutines and its end
//   - rate.go: the errands of one rate
//   - slots.go: the leases of one limit on calls in flight: for each cell somebody acquires slots as long as it
//     lacks some, and for all of them one goroutine renews leases and gives slots back
//   - spread.go: what processes tell each other: holds, and the rates they have
//   - votes.go: breakers that judge together: what they agree on is a record of each key, and who is open, or has met failures, a
//     record of each process; for each cell somebody tells others what there is to tell, until there is nothing
package fleet
