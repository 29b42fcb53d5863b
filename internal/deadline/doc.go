// Package deadline ends in time what has a limited time.
//
// A [Timer] is one timer of the runtime for any number of deadlines: what has one embeds an
// [Entry] and is told by its Expire method. A [Context] is the context of code that has a
// timeout, and where its caller waits for that code or for its deadline, whichever comes
// first. As long as nobody asks for its Done channel, it costs one place in a Timer.
//
// Instants are nanoseconds of the Timer's clock. A Timer has a lock, and each Context has one;
// both are held for a few steps only, and nothing of others is called meanwhile but the function
// that starts a goroutine: no Expire method, and no method of the caller's context.
package deadline
