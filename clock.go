package sluice

import (
	"context"
	"time"
)

// clock turns the monotonic clock into nanoseconds since an epoch. All clocks outside
// testing/synctest bubbles have one epoch, and so have all clocks inside them, whose
// instants have no monotonic reading; so stages that become one agree on the time.
type clock struct{ epoch time.Time }

var (
	processEpoch = time.Now()
	bubbleEpoch  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	background   = context.Background()
)

func newClock() clock {
	if t := time.Now(); t == t.Round(0) {
		return clock{bubbleEpoch}
	}
	return clock{processEpoch}
}

func (c clock) now() int64 { return int64(time.Since(c.epoch)) }

func (c clock) time(ns int64) time.Time { return c.epoch.Add(time.Duration(ns)) }

func (c clock) instant(t time.Time) int64 { return int64(t.Sub(c.epoch)) }
