// Package kv is the machine behind SharedState: a concurrent table of keys with
// versions, lifetimes, bounds, watches, transactions and snapshots. It knows of a value its
// size and, of a number, how to add to it; what Go types are in it is the business of package
// value.
//
// A [Store] is the table (table.go, entry.go, kv.go), a [Scope] a prefix of it with bounds (account.go),
// and a [View] the way in, through a scope and perhaps inside a transaction (view.go, txn.go). A store whose
// keys live elsewhere asks a [Far] for them (far.go).
// How an operation ended is a [Code]; errors are made of it above. The clock is read here, and
// timers are set, one for each shard in which keys have lifetimes (expiry.go).
//
// # Locks
//
// The table is split into shards. Four kinds of operation share it:
//
//   - Reads take no lock. An entry's word changes with every write, and has a lock bit; a
//     reader takes the fields between two equal readings of an unlocked word (a sequence
//     lock).
//   - A write that changes neither an entry's size nor its lifetime, while nobody watches
//     its key, takes no mutex. If it leaves a number near to what that was, it is one
//     compare and swap of the word, which also says how far the number has grown.
//   - Else it takes the lock bit of that entry.
//   - Every other write takes the mutex of the shard, and then the lock bit of the
//     entries it changes. A commit takes the mutexes of all its shards in order.
//
// Who wants to see every write of a key, for a watch or a snapshot, shuts its entry, by a bit
// of the word, under the mutex of the shard: from then on writers need that mutex, and a
// write that has read the word before finds another one when it swaps. The first write
// under the mutex that finds nobody watching opens the entry again.
//
// Whoever holds a lock bit waits for nothing, so waiting for one is a short spin. No
// code of a user runs under a mutex or a lock bit.
//
// # Versions
//
// Each write adds one to its key's version, and so does a deletion. A shard remembers
// the highest version of all keys deleted from it, its floor, and a new key starts
// above it. So the versions of a key grow for ever without a trace of deleted keys
// being kept, and without a counter that all keys share.
//
// # Transactions
//
// A transaction holds what its function read and wrote, and no lock while that runs. Each
// key that it reads first makes it look at those before it again; at the end one commit asks
// all of them to be as they were, and writes. Its own mutex orders the goroutines of one
// function; it is taken before those of the shards.
package kv
