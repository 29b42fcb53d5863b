package agent

import "time"

// recent is the calls of a run that have ended lately, as far as [Loops] looks at them. Who has it is told the present
// instant, and guards it.
type recent struct {
	list  []repeatable // up to most
	next  int          // where in list the oldest is, once it is full
	most  int
	lives time.Duration // how long each counts
}

// repeatable is a call that has ended.
type repeatable struct {
	at      time.Time
	call    uint64 // its tool and arguments
	outcome uint64
	failed  bool
	changed bool // it may have changed something that others depend on
}

// back is the i-th of the calls from the latest on; false if there is none that counts still.
func (r *recent) back(now time.Time, i int) (*repeatable, bool) {
	if i >= len(r.list) {
		return nil, false
	}
	x := &r.list[(r.next-1-i+2*len(r.list))%len(r.list)]
	return x, now.Sub(x.at) < r.lives
}

// row is how many of the latest have been the same call and have come to the same outcome, without a change by another
// call since, and whether they failed.
func (r *recent) row(now time.Time, call uint64) (n int, failed bool) {
	var outcome uint64
	for i := 0; ; i++ {
		x, ok := r.back(now, i)
		switch {
		case !ok:
			return n, failed
		case x.call != call && x.changed:
			return n, failed
		case x.call != call:
		case n == 0:
			n, outcome, failed = 1, x.outcome, x.failed
		case x.outcome != outcome:
			return n, failed
		default:
			n++
		}
	}
}

// ends says that a call has ended at the instant now. It may change something if it is of a tool that does.
func (r *recent) ends(now time.Time, call, outcome uint64, failed, mayChange bool) {
	x := repeatable{now, call, outcome, failed, mayChange && !failed && !r.has(now, call, outcome)}
	if len(r.list) < r.most {
		r.list = append(r.list, x)
		r.next = len(r.list) % r.most
		return
	}
	r.list[r.next] = x
	r.next = (r.next + 1) % r.most
}

// has reports whether a call has come to that outcome.
func (r *recent) has(now time.Time, call, outcome uint64) bool {
	for i := 0; ; i++ {
		x, ok := r.back(now, i)
		if !ok {
			return false
		}
		if x.call == call && x.outcome == outcome {
			return true
		}
	}
}
