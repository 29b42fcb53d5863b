// Package sluiceredis shares quotas, slots, state and events among the processes of a fleet through a Redis or Valkey
// server: it is an engine, as github.com/sluice-go/sluice/engine describes one.
//
//	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}})
//	eng, err := sluiceredis.New(ctx, sluiceredis.Config{Client: client, Prefix: "agents"})
//
// It adds no server and no clock of its own. Each decision is one script, which takes effect at one instant of the server
// and counts by the server's clock alone: a process whose clock is wrong gets no more, and no less.
//
// # Servers
//
// Redis 7 or later, or Valkey, of 64 bits; one, one behind Sentinel, or a cluster, with TLS or without: whatever the
// client reaches. The client is yours: its addresses, users, time limits and certificates are in its
// rueidis.ClientOption. Give it no SendToReplicas; a replica does not know yet what was decided.
//
// All keys of a Prefix are in one slot of a cluster, so that one script can decide over several. One Prefix is as quick as
// one node; give what has nothing to do with each other prefixes of its own.
//
// The server must not evict keys: one that does forgets what was spent. [New] asks each node that the client knows of for
// its maxmemory-policy, by INFO or CONFIG GET, and fails unless that is noeviction. Managed servers as a rule allow INFO.
// Some come with an evicting policy, ElastiCache, Memorystore and Azure's with volatile-lru, which takes meters and leases
// first: change that in their settings. Where neither may be asked, Config.NoEviction states it. A service that lets
// scripts use no keys but those that they were given is not for this: Follow reads records by an index.
//
// # Rights
//
// What a user of the server needs, for the Prefix agents:
//
//	ACL SETUSER worker on >password ~{agents}:* &{agents}:* -@all
//	  +hello +auth +ping +eval +evalsha +subscribe +unsubscribe
//	  +time +get +mget +set +del +exists +pttl +pexpire +persist +incrby
//	  +hget +hmget +hset +zadd +zrem +zrangebylex +zrangebyscore +xadd +publish
//	  +info
//
// The last is for New's question, and Config.NoEviction does without. A cluster needs +cluster|slots, +cluster|shards
// and +readonly as well, for the client.
//
// # What is there
//
// After {PREFIX}: come q and o (meters and named operations), r, i, t and x (records, their index, their ends, a scratch), s (slots),
// n (the last revision or fence), b (when the data began), d and e (IDs of events, their stream); c begins the channels.
// All but r, i, t, n, b and e end by themselves. Operations are remembered for Config.OpMemory.
//
// # Limits
//
//   - A Meter's Burst is at most 1<<50, and its rate about 13,000 tokens a microsecond. Times are counted in
//     microseconds: a Per that is no whole number of them is rounded up, and a rate whose terms are very large is slower
//     by less than a billionth.
//   - Processes with different rates for one Meter share its balance: what is there stays, up to the new burst, with every
//     change. What was drawn before a change cannot be given back after it.
//   - Of a meter the last four named draws can always be corrected exactly. What is corrected of older ones may give back
//     too little, and never too much.
//   - Leases and lifetimes are counted in milliseconds. A slot that comes free waits a second for the claim that it was
//     handed to: so long a waiter that died keeps it. All claims of a key are one value: who has hundreds should wait at
//     home, and claim for the first.
//   - After a loss of data slots are granted anew, although holders from before may go on until their leases end, unless
//     claims are Cold: then nothing is granted until these have ended, and they are learned of as they are renewed. A
//     server whose clock steps forward ends leases early: holders learn it when they renew.
//   - Follow is told of changes and of what the server has lost by a restart, but not of FLUSHALL or FLUSHDB.
//   - A server that takes over may lack the last writes: as much more may be granted as these had drawn. The epoch does
//     not change by that. Fences grow as long as its clock is not behind by more than the change took.
package sluiceredis
