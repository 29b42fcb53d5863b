// Package remote is a SharedState whose data are at a fleet's engine: a [kv.Far] on the engine's Store.
//
//	key         state ── View, Txn ──► kv ── Far ──► Remote ──► engine.Store
//
// A key is a record, its version the record's revision, and its value what [value.Data] makes of it; integers are
// counters that the engine adds to. What has no counterpart at the engine is made of reading and writing by
// revision: a write that keeps a lifetime, adding to other numbers, transactions, which are one Commit of all that
// was used.
//
// Each trip has a goroutine of its own and the Fleet's budget: an engine that does not come back is left, and
// nothing is asked while many are left. A change of unknown outcome is asked for once more by the same name, so that
// it takes effect once; what is not known then is kv.Unsure. No lock is held during a trip, but by a transaction,
// whose function waits for it.
//
//   - remote.go: the Remote, and operations on one key
//   - trip.go: trips, and what their ends mean
//   - many.go: several keys at once, lists and watches
package remote
