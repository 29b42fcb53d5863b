// Package sluicetest holds what tests of Sluice's plug-ins need: conformance kits for
// engines ([Store], [Quota], [Slots], [Publisher], [Engine] for what concerns all of them,
// and [Processes]) and for event sinks ([Sink]);
// [Chaos], an engine that is slow, gone, lying or restarting; and, for tests of agents,
// [Faults], which make tools fail.
//
// A kit checks one rule after the other and explains the one that is broken, in words, by
// T.Errorf. It uses keys of its own, random ones, so that it can run against a server
// that others use, too. The rules about time need [Options]: by default they run in real
// time with short waits and tolerances; inside a testing/synctest bubble, with
// Options.Exact, they hold to the nanosecond and take no time at all.
//
//	func TestStore(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			m, err := engine.NewMemory(engine.MemoryConfig{})
//			...
//			sluicetest.Store(t, m.Store, sluicetest.Options{Exact: true})
//		})
//	}
package sluicetest
