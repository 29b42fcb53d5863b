//go:build race

package promises_test

// underRace reports whether the race detector is on: everything takes ten times as long.
const underRace = true
