package clock

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// Clocks of one kind agree, wherever and whenever they were made.
func TestClocksOfOneKindAgree(t *testing.T) {
	if a, b := New(), New(); a != b {
		t.Error("two clocks of the process differ")
	}
	var inside [2]Clock
	for i := range inside {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Duration(i) * time.Hour)
			c := New()
			inside[i] = c
			was := c.Now()
			time.Sleep(time.Minute)
			d := c.Now() - was
			assert.Equal(t, int64(time.Minute), d, "a minute in a bubble took %v", time.Duration(d))
		})
	}
	if inside[0] != inside[1] || inside[0] == New() {
		t.Errorf("want one clock for all bubbles, and another outside: %v, %v, %v", inside[0], inside[1], New())
	}
}

// A clock of the process shows in a bubble that no time passes for it there.
func TestClockOfTheProcessIsBeforeItsEpochInABubble(t *testing.T) {
	c := New()
	synctest.Test(t, func(t *testing.T) {
		if c.Now() >= 0 {
			t.Errorf("it shows %d, want less than zero", c.Now())
		}
	})
}

// Instant reads what Time made.
func TestInstantIsTheInverseOfTime(t *testing.T) {
	c := New()
	for _, ns := range []int64{-1, 0, 1, int64(time.Hour)} {
		if got := c.Instant(c.Time(ns)); got != ns {
			t.Errorf("the time of %d is the instant %d", ns, got)
		}
	}
}

func TestTheClockOfABubbleIsVirtual(t *testing.T) {
	process := New()
	assert.False(t, process.IsVirtual())
	synctest.Test(t, func(t *testing.T) {
		c := New()
		assert.True(t, c.IsVirtual())
		assert.False(t, process.IsVirtual())
	})
}
