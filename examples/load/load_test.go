package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLoad(t *testing.T) {
	var out strings.Builder
	require.NoError(t, (load{calls: 200, limit: 20, waiting: 3000, hour: 10 * time.Second}).run(&out, false),
		"after:\n%s", &out)
	for _, want := range []string{
		`200 calls at once of a tool that takes 10ms, without a limit\n  all done after +\d`,
		`at most 20 at once\n  all done after +\d\S+, where 100ms is the least`,
		`3,000 calls wait in 3,000 lanes`,
		`\d bytes per waiting call`,
		`goroutines +\d+ more`,
		`started +[\d,]+ a second, 64 at once\n  time from Submit +p50 \d`,
		`10s of traffic, simulated in`,
		`chat: ask +\d+\.\d/s done`,
	} {
		assert.True(t, regexp.MustCompile(want).MatchString(out.String()), "no %q in:\n%s", want, &out)
	}
	if t.Failed() {
		return
	}
	t.Log(out.String())
}

func TestLoad_Live(t *testing.T) {
	var out strings.Builder
	if err := (load{calls: 100, limit: 1, waiting: 100}).run(&out, true); err != nil { // a second
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "[=") || !strings.Contains(out.String(), " of 100") {
		t.Errorf("no progress in %q", out.String())
	}
}

func TestLoad_BadFlags(t *testing.T) {
	for _, l := range []load{{0, 1, 1, 0}, {1, 0, 1, 0}, {1, 1, 0, 0}, {1, 1, 1, -1}} {
		assert.ErrorContains(t, l.run(&strings.Builder{}, false), "must be", "%+v", l)
	}
}
