//go:build race

package fleet_test

// Both are less with the race detector, which needs ten times as long for each.
const stormsHere, secondsHere = 8, 10
