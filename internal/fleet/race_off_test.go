//go:build !race

package fleet_test

const stormsHere, secondsHere = 25, 60
