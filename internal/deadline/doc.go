// Package deadline ends in time what has a limited time.
//
// A [Timer] is one timer of the runtime for any number of deadlines: what has one embeds an
// [Entry] and is told by its Expire method. A [Limit] is what the context of code that has a timeout
// knows of that: it makes nothing unless it is asked for what only a timer can give.
//
// Instants are nanoseconds of a clock. A Timer has a lock, which is held for a few steps only, and
// nothing of others is called meanwhile but the function that starts a goroutine: no Expire method.
// A Limit has none.
package deadline
