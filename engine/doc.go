// Package engine says what Sluice asks of a backend that several processes share: a
// [Store], a [Quota], [Slots] and an event [Publisher]. The interfaces are small enough
// for a script on a key-value server or a stream. [Memory] is the engine of one process
// and the reference for all others; package sluicetest holds the rules below as a
// conformance kit that every engine module runs.
//
// # What an error says
//
// Every method that changes something leaves one of three answers, and a caller needs to
// tell them apart with one question each:
//
//	nil                          it took effect
//	errors.Is(err, ErrRefused)   it certainly did not, and never will
//	any other error              it may have; most engines say ErrUnsure
//
// [ErrConflict], [ErrAbsent], [ErrBusy], [ErrLost], [ErrFull], [ErrClosed] and every
// complaint about an argument are refusals. Whoever was left unsure repeats the call with
// the same [OpID], which takes effect once, or reads what is there; units that were
// perhaps taken count as spent. Nothing in this package retries by itself.
//
// A wait ends with its context, always.
//
// # Guarantees
//
// B is a meter's burst, r its rate, W a window, N the number of processes, D how long an
// outage lasts, s the share of a process that was cut off.
//
//	part                bound
//	Store               linearizable per key; a refused write changes nothing; a revision
//	                    of a key never comes again, not after Erase or expiry either; a
//	                    record is there in [written, written+ttl) and not at its end
//	Fetch, Commit       several keys at one instant; all changes of a Commit or none, and
//	                    at most once for each OpID
//	Follow              the current records first, then a note that says Caught, then the
//	                    latest of each key in the order of its revisions; what lies between
//	                    two deliveries may be merged
//	Quota.Take          at the engine at most B + r*W units in any window, counted as they
//	                    are settled, plus what Settles add; either every meter is charged
//	                    or none; whole units only, so no fraction is lost
//	booking (MaxWait)   the same: no unit may be used before its time. What travels late is
//	                    used late. A booked unit that nobody uses is lost
//	Draw.Keep           a draw that keeps k units leaves k there; what is kept is not charged
//	Quota.Settle        all corrections of a list at one instant, or none; as if the named
//	                    Take had been its final amount from its own instant on, so that
//	                    nothing is spent twice; a debt is paid back at r, and is at most what
//	                    comes in within a day or B/r, the longer of them. Of a Take that is
//	                    unnamed or forgotten nothing is given back
//	Quota.Hold          no unit of what is granted from then on may be used before its end;
//	                    what was granted before is not recalled
//	Meter.Cold          after the engine has lost its data at most r*(time since) until the
//	                    burst is full again; a meter that is not cold grants a second burst
//	Engine.Epoch        another id after whatever was acknowledged may have been lost
//	Slots               live units at the engine never exceed Limit. In the world neither, if
//	                    holders stop when a lease has no time Left
//	Claim.Cold          nor after the engine has lost its data: until its data are TTL old it
//	                    gives nothing, and learns from renewals what is held
//	Lease.Fence         grows with every lease of a key; a resource that remembers the
//	                    largest it has seen is safe from holders that did not stop
//	hand-over           strict priority, then tenants by weight (an error of one claim per
//	                    tenant), then arrival; a waiter that left is skipped
//	Publisher           at least once, stored once per ID, in the order given
//	[Combine]           as Take: no unit is drawn before somebody asked for it
//	[Fallback] Deny     nothing beyond the above
//	[Fallback] LocalShare  (B + r*D)*(1 + k*s) for k processes cut off; with s <= 1/N at
//	                    most twice B + r*D, as long as B is at least N
//	[Fallback] Admit    no bound: that is what the name says
//	an unsure outcome   counts as spent: never too much is granted, and too little by at
//	                    most the units of the calls left unsure
//
// Whoever draws ahead, at most L units in each process, may use B + r*W + N*L of them in a
// window, since what is held is spent later; a meter with a burst of B - N*L keeps that
// within B + r*W. Splitting a meter among processes for good is worse than sharing it,
// always (Guérin, "When two is worse than one", 2019): keep L small, a tenth of B/N or less.
//
// # Composition
//
// From the engine outwards; each is a [Quota] around a [Quota]:
//
//	Combine( Fallback( Audit( engine ) ) )
//
// A draw with an Op, of which something may be given back, passes Combine and costs a trip
// of its own: only the engine can remember it.
//
// # An engine that hangs
//
// Calls to an engine that heeds no context cannot be ended, only left. [Fallback] and
// [Combine] leave at most 32 at a time and make no new ones beyond that. Close of each waits
// for them.
package engine
