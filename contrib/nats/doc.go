// Package sluicenats shares state, events, quotas and slots among the processes of a fleet through NATS JetStream: it is an
// engine, as github.com/sluice-go/sluice/engine describes one.
//
//	conn, err := nats.Connect(url, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
//	js, err := jetstream.New(conn)
//	eng, err := sluicenats.New(ctx, sluicenats.Config{JetStream: js, Bucket: "agents"})
//
// It is for fleets that have NATS already: for breakers, approvals and other state, which are told as they change, and for
// events. Quotas and slots are exact too, but for small fleets: a server of NATS decides nothing by itself, so a process
// asks it twice for each decision, and again if another was quicker. Where these are what matters, use
// github.com/sluice-go/sluice/contrib/redis.
//
// # How it decides
//
// Everything is in one key-value bucket: a record, a meter, and the slots of one key are one message each, the last of its
// subject. A decision reads the messages it rests on, and puts what follows in their place as one message, or as one atomic
// batch of several. The server takes that if none of them has changed since, and refuses it whole if one has; then it is
// decided anew, at most a hundred times, after which the call is refused. Within a process decisions about one key wait
// for each other, so that only processes are in each other's way.
//
// An OpID is a message of its own in the same batch. A call whose answer is lost says that it is unsure, and its
// repetition finds that message, or makes its own: it takes effect once. A connection that is not there refuses at once. A
// connection that keeps what is sent while it is cut off would send it later, when the call has long been given up: New
// demands nats.ReconnectBufSize(-1).
//
// # Whose clock counts
//
// The server's, as far as this process knows it. It asks at most ten times a second, while it is in use, what time it is there,
// and knows it then within the time that took, and as far as two clocks drift apart, of which 500 millionths are allowed
// for. A decision counts as of the latest time it may be there when it begins, and is told when that has surely come: so
// nothing is granted early, and no window grants more than its meter allows, however wrong this process's own clock is. A
// process that is far away waits for that no longer than its answers take as a rule. The clocks of a cluster's servers must
// agree, since any of them may come to lead. When one is set back by more than a second, balances and ends move with it.
//
// # Servers
//
// NATS 2.12 or later, with JetStream; one, or a cluster with Config.Replicas of 3. [New] makes the bucket, which is the
// stream KV_ and its name, and the stream of events, if they are not there; it refuses a bucket that lacks what it needs
// (allow_atomic, allow_msg_ttl, a history of 1, discard new, and with several replicas no allow_direct). The user of the
// connection needs
//
//	publish:   $KV.{BUCKET}.>, sluice.{BUCKET}.>, $JS.API.STREAM.{INFO,CREATE,MSG.GET}.KV_{BUCKET},
//	           $JS.API.STREAM.{INFO,CREATE}.SLUICE_{BUCKET}, $JS.API.DIRECT.GET.KV_{BUCKET}.>,
//	           $JS.API.CONSUMER.{CREATE,DELETE,MSG.NEXT}.KV_{BUCKET}.>
//	subscribe: _INBOX.>, sluice.{BUCKET}.look
//
// # What is there
//
// In the bucket, after a key's kind and a dot: r (records), q and s (meters and slots), o (named operations); b (when the
// data began) and x (nothing, it carries conditions) alone. All but r and b end by themselves. What the subject of a key
// cannot have is in it as = and two hexadecimal digits.
//
// # Limits
//
//   - One process decides some 1,500 times a second on one meter or key of slots, four together 5,000, sixteen 4,000, on
//     two cores with the server beside them; over a network a process decides once in two trips. So draw several units at
//     once, as RateLimiterConfig.Fleet does, and claim for the first of those who wait at home.
//   - Fetch of several keys, which are to be as they were at one instant, reads until nothing has changed in between.
//   - Times to live are kept to about a millisecond, or to the time an answer takes, whichever is longer; the server drops
//     what has ended some seconds later.
//   - A Meter's Burst is at most 1<<50, and so is what comes in within a day. Processes with different rates for one Meter
//     share its balance: what is there stays, up to the new burst, with every change. What was drawn before a change cannot
//     be given back after it. Of a meter the last 64 named draws can be corrected.
//   - A slot that comes free waits a second for the claim that it was handed to: so long a waiter that died keeps it. A
//     waiter that is not told of its slot looks once a second. All claims of a key are one message: who has hundreds should
//     wait at home.
//   - After a loss of data slots are granted anew, although holders from before may go on until their leases end, unless
//     claims are Cold: then nothing is granted until these have ended, and they are learned of as they are renewed.
//   - A bucket in memory is lost when its server ends, one in files on a single server as far as that had not synced them
//     when its machine lost its power. The engine makes another one, of another epoch, when it next finds none. Of what
//     somebody purges or deletes whoever follows learns when its consumer ends, or when somebody next asks for the epoch.
//   - An event's ID is remembered for Config.OpMemory by the stream, as it was when it was made.
package sluicenats
