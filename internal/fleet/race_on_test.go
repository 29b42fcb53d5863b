//go:build race

package fleet_test

// stormsHere is fewer with the race detector, which needs ten times as long for each.
const stormsHere = 8
