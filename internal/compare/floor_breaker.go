package compare

// tripwire is a breaker that opens after failures in a row and closes after a cooldown. It
// is told the time and has no lock.
//
// It leaves out: half-open probes, generations, windows, neutral outcomes.
type tripwire struct {
	failed int
	open   int64
}

func (t *tripwire) ready(now int64) bool { return now >= t.open }

func (t *tripwire) done(now int64, ok bool) {
	if ok {
		t.failed = 0
		return
	}
	if t.failed++; t.failed >= 5 {
		t.failed, t.open = 0, now+30*second
	}
}
