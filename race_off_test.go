//go:build !race

package sluice_test

// underRace reports whether the race detector is on: everything takes ten times as long.
const underRace = false
