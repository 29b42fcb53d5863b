//go:build race

package sim

// raced shortens tests that measure: nothing here runs at the same time as anything else,
// and the race detector makes it many times slower.
const raced = true
