//go:build !race

package fleet_test

const stormsHere = 25
