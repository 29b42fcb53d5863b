// Package admit decides which waiting call starts next when several limits, rates and
// breakers must agree. It is a state machine: single-threaded, told the time, and free
// of locks, clocks and foreign code. Its caller holds one lock per [Machine].
//
// The words:
//
//   - A [Cell] is one counter of one limit under one key: the slots of a tool, the
//     tokens per minute of an API key, the breaker of a tool.
//   - A lane is the waiting calls with the same level, tenant and needs: first in,
//     first out. Only a lane's head can be next.
//   - A waiting lane is parked at exactly one cell: the first that refuses its head,
//     asked from narrow to wide. A waiting call holds nothing.
//
// Order belongs to the cell and lives only while somebody waits there:
//
//  1. the level with the largest level*Ageing + starts, those given to other levels at this
//     cell since this level's last one, or since it came to wait;
//  2. inside a level the tenant with the smallest start tag (start-time fair queuing,
//     Goyal, Vin and Cheng 1996), charged when a call starts;
//  3. then arrival.
//
// Whatever may let a call start (a release, a due token, a resize, the end of a pause)
// marks the cells that changed. Marked cells are served from narrow to wide until no
// head can start:
//
//	         arrive                     release, token, resize, pause
//	           │                                     │
//	   every cell agrees? ──yes──► start             ▼
//	           │ no                        mark the cells that changed
//	           ▼                                     │
//	park the lane at the first ◄── refused ──  best head of a marked cell
//	   cell that refuses          elsewhere          │ every cell agrees
//	                                                 ▼
//	                                    start, charge, mark what it changed
//
// A head that reached the front of a cell and failed at another cell, or for its width,
// Claim times joins a queue of claims. Only the first claim collects, and only slots: what is
// freed where it needs some is kept for it. So a call that needs two contended limits, or
// many slots, cannot be starved, and two half-collected claims cannot block each other.
//
// A class of slots may keep order instead: at its cells who comes later starts later, whatever the level,
// see order.go.
//
// Where all wait for what the call that ends has held, it goes to the next of them in one step, which
// comes to the same: see handover.go.
//
// Where nobody waits and nothing is unusual, calls need not ask the machine, nor its lock: see
// [NeedSet.Take].
//
// A limit may be a semaphore that other code uses too, see [Semaphore]. Buckets and slots may be kept elsewhere,
// shared with other processes, see [Stock] and [Leases].
package admit
