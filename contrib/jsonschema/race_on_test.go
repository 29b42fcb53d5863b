//go:build race

package jsonschema

// raceEnabled says that the race detector runs, under which pools forget.
const raceEnabled = true
