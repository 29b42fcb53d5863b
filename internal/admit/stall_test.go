package admit

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

// stalled is the limits that were told to stall since the last look.
func (w *world) stalled() (names []string) {
	for _, n := range w.m.Notices(nil) {
		if n.Kind == Stalled {
			names = append(names, n.Cell.class.Name)
		}
	}
	return names
}

// look lets time pass up to now and does what is pending then.
func (w *world) look(now int64) {
	w.at(now)
	for w.m.Pending() {
		w.m.Step(w.now)
	}
	w.collect()
}

// The look for limits that stall is not put off by others that release, however late the timer.
func TestStallsAreSeenBesideBusyLimits(t *testing.T) {
	w := newWorld(t, standard())
	stuck, busy := slots("stuck", 0, 1), slots("busy", 0, 1)
	w.arrive("holds", 4, "", stuck)
	w.arrive("waits", 4, "", stuck)
	x := w.arrive("0", 4, "", busy)
	for i := range 3 {
		y := w.arrive(fmt.Sprint(i+1), 4, "", busy)
		w.now = 60*sec + int64(i)
		w.finish(x)
		x = y
	}
	w.look(w.now)
	assert.Equal(t, []string{"stuck"}, w.stalled(), "stall, want the one that releases nothing")
}

// A limit that releases nothing for a minute while calls wait is told, once until it does.
func TestALimitThatStallsIsTold(t *testing.T) {
	w := newWorld(t, standard())
	k, r := slots("tool", 0, 2), w.rate("rate", 0, 1, 3600*sec, 1)
	x, y := w.arrive("x", 4, "", k), w.arrive("y", 4, "", k)
	w.arrive("r", 4, "", r)
	w.look(100 * sec) // nobody waits
	w.arrive("waits", 4, "", k)
	w.arrive("waits too", 4, "", k)
	w.arrive("for a token", 4, "", r)
	w.look(160*sec - 1)
	assert.Empty(t, w.stalled(), "stalls told within the minute")
	w.look(160 * sec)
	assert.True(t, w.cell(k).Usage(w.now).Stalled, "it stalls, and does not say so")
	n := w.m.Notices(nil)
	if len(n) != 1 || n[0].Kind != Stalled || n[0].Cell != w.cell(k) || n[0].Holding != 2 || n[0].Waiting != 2 {
		t.Errorf("notices %+v, want that two hold it and two wait", n)
	}
	w.look(400 * sec)
	assert.Empty(t, w.stalled(), "stalls told again")
	w.finish(x)
	assert.False(t, w.cell(k).Usage(w.now).Stalled, "it has released a slot, and stalls")
	w.look(460*sec - 1)
	assert.Empty(t, w.stalled(), "stalls told within the minute")
	w.look(520 * sec)
	assert.Len(t, w.stalled(), 1, "stall, want the tool again")
	w.finish(y)
}

// A pause explains a wait, and who waits a minute for nothing else is not told of.
func TestAPauseIsNoStall(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool", 0, 1)
	w.pause(k, 300*sec)
	w.arrive("waits", 4, "", k)
	w.look(290 * sec)
	assert.Empty(t, w.stalled(), "stall")
}

// The look for stalls arms no timer once the queue has been empty for its time, or is put to rest.
func TestNobodyLooksForStallsInAnEmptyQueue(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool", 0, 1)
	x := w.arrive("x", 4, "", k)
	w.cancel(w.arrive("y", 4, "", k))
	assert.Equal(t, 60*sec, w.m.Due(), "due, want the look of the one that waited")
	w.look(60 * sec)
	assert.Equal(t, Never, w.m.Due(), "due, and nobody waits")
	w.cancel(w.arrive("z", 4, "", k))
	w.m.Rest()
	assert.Equal(t, Never, w.m.Due(), "due, and nobody waits")
	w.finish(x)
}
