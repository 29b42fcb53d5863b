package agent

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"time"

	"github.com/sluice-go/sluice"
)

// loopDenied is told before the tool.denied of a call.
const loopDenied sluice.EventKind = "loop.denied"

// LoopsConfig configures [Loops]. The zero value refuses the fourth call.
type LoopsConfig struct {
	Repeats  int           // so many calls that came to the same in a row, that the next is refused; zero means 3; up to 1,000
	Window   int           // the latest calls of a run that are looked at; zero means 64; from Repeats to 10,000
	Lifetime time.Duration // for how long each of them is; zero means 10 min
	Exit     ExitBehavior  // what a refusal is to the turn

	// Exempt says which tools may repeat: those that poll. They are no part of anything here. It is asked once per tool
	// and executor, and must not wait. nil exempts none.
	Exempt func(tool sluice.Spec) bool
	_      struct{}
}

const (
	maxLoopRepeats = 1000
	maxLoopWindow  = 10_000
)

// complete fills in the defaults.
func (c LoopsConfig) complete() (LoopsConfig, error) {
	c.Repeats, c.Lifetime = cmp.Or(c.Repeats, 3), cmp.Or(c.Lifetime, 10*time.Minute)
	c.Window = cmp.Or(c.Window, max(64, c.Repeats))
	switch {
	case c.Repeats < 1 || c.Repeats > maxLoopRepeats:
		return c, fmt.Errorf("agent: LoopsConfig.Repeats is %d: must be zero (3) or 1 to %d", c.Repeats, maxLoopRepeats)
	case c.Window < c.Repeats || c.Window > maxLoopWindow:
		return c, fmt.Errorf("agent: LoopsConfig.Window is %d: must be zero (64) or from Repeats, %d, to %d", c.Window, c.Repeats, maxLoopWindow)
	case c.Lifetime < 0:
		return c, fmt.Errorf("agent: LoopsConfig.Lifetime is %v: must be zero (10 min) or positive", c.Lifetime)
	}
	return c, cmp.Or(unit("LoopsConfig.Lifetime", c.Lifetime), c.Exit.check("LoopsConfig.Exit"))
}

// Loops refuses a call that would only repeat what is known. So it is if the latest calls of its run with the same tool
// and the same arguments have all come to the same outcome, Repeats of them, and nothing has changed since. Other calls
// may stand between them, so that a model that goes round between two calls is found, too. It is refused at once,
// with a [*LoopError] as the cause of a [sluice.ErrDenied], which tells the model to change course.
//
// What changes something is another call that has succeeded, of a tool that is not [sluice.Hints].ReadOnly, and that
// is no repetition itself, of one in the Window with the same arguments and outcome: after an edit the tests may run
// again. An outcome that differs ends a row, so polling what moves on is no loop; tools that poll what stays the same
// for long are for Exempt. Calls that were refused, and those that code of a tool makes, are neither counted nor refused.
//
// Arguments are compared as JSON, whatever its form, results by their JSON, errors by code and text. What has no JSON,
// as a stream, repeats nothing.
//
// It is an interceptor that stands where [UsageLimits] does, for the calls of a run, see [WithRun]. Make it with
// [NewLoops]; it is safe for concurrent use, and never waits.
type Loops struct {
	conf LoopsConfig
	seed maphash.Seed
}

// NewLoops returns Loops, or an error that names the wrong field.
func NewLoops(c LoopsConfig) (*Loops, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	return &Loops{conf: c, seed: maphash.MakeSeed()}, nil
}

// String is the name in snapshots.
func (l *Loops) String() string { return "loops" }

// Wrap makes l an interceptor.
func (l *Loops) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return l.Steps(tool).Wrap(next)
}

// Steps makes l a [sluice.Stepper].
func (l *Loops) Steps(tool sluice.Spec) sluice.Steps {
	if l.conf.Exempt != nil && l.conf.Exempt(tool) {
		return sluice.Steps{}
	}
	reads := tool.Hints.ReadOnly && !tool.Hints.Untrusted
	return sluice.Steps{
		Before: func(ctx context.Context, s *sluice.Step) {
			if r, _ := ctx.Value(runKey{}).(*run); r != nil {
				l.before(ctx, r, s)
			}
		},
		After: func(ctx context.Context, s *sluice.Step) {
			if x, ok := s.State.(looked); ok {
				l.after(ctx, x, s, reads)
			}
		},
	}
}

// looked is a call that may be part of a loop.
type looked struct {
	run  *run
	call uint64 // its tool and arguments
}

// before lets a call through that is part of no loop.
func (l *Loops) before(ctx context.Context, r *run, s *sluice.Step) {
	c := s.Call()
	args, err := argumentsOf(c)
	if err != nil {
		return
	}
	by, _ := sluice.CallFrom(ctx)
	call := l.hash(c.Tool, args)
	nested, x, err := l.look(r, c.Key, by.Key, call)
	switch {
	case err != nil:
		s.Answer(sluice.Result{}, err)
	case nested:
	case x != nil:
		_ = s.Emit(ctx, loopDenied, slog.String("reason", x.Code()), slog.Int("repeats", x.Repeats), slog.Bool("failed", x.Failed))
		s.Answer(sluice.Result{}, x)
	default:
		s.State = looked{r, call}
	}
}

// look says whether a call is nested in that of the key by, or why it must not be made again, if that is so.
func (l *Loops) look(r *run, key, by sluice.CallKey, call uint64) (nested bool, x *LoopError, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[key] == nil {
		return false, nil, errLostRun
	}
	if r.open[by] != nil {
		return true, nil, nil
	}
	if past := r.past[l]; past != nil {
		if n, failed := past.row(time.Now(), call); n >= l.conf.Repeats {
			return false, &LoopError{Repeats: n, Failed: failed, Exit: l.conf.Exit}, nil
		}
	}
	return false, nil, nil
}

// after takes note of what a call has come to.
func (l *Loops) after(ctx context.Context, x looked, s *sluice.Step, reads bool) {
	a := s.Attempt()
	if a.Held || s.Err != nil && (!a.Ran || ctx.Err() != nil) {
		return
	}
	var outcome uint64
	if failed := s.Err != nil; failed {
		outcome = l.hash(sluice.CodeOf(s.Err), []byte(textOf(s.Err)))
	} else if raw, err := s.Result.JSON(); err == nil {
		outcome = l.hash("", raw)
	} else {
		return
	}
	r := x.run
	r.mu.Lock()
	defer r.mu.Unlock()
	past := r.past[l]
	if past == nil {
		if r.past == nil {
			r.past = map[*Loops]*recent{}
		}
		past = &recent{most: l.conf.Window, lives: l.conf.Lifetime}
		r.past[l] = past
	}
	past.ends(time.Now(), x.call, outcome, s.Err != nil, !reads)
}

// hash is a short form of a name and a text.
func (l *Loops) hash(name string, text []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	_, _ = h.WriteString(name)
	_ = h.WriteByte(0)
	_, _ = h.Write(text)
	return h.Sum64()
}

// LoopError is why a call did not run that had been made before, with the same outcome each time.
type LoopError struct {
	Repeats int  // so often, in a row
	Failed  bool // each time it had failed
	Exit    ExitBehavior
}

// Error says it so that a model knows what to do.
func (e *LoopError) Error() string {
	if e.Failed {
		return fmt.Sprintf("this call has been made %d times with the same arguments and has failed in the same way each time; "+
			"do not repeat it: change the arguments, try another way, or say what is in the way", e.Repeats)
	}
	return fmt.Sprintf("this call has been made %d times with the same arguments and the same result, and nothing has changed since; "+
		"do not repeat it: use the result that you have, try another way, or say what is in the way", e.Repeats)
}

// Code is that of the error.
func (e *LoopError) Code() string { return "loop_detected" }

func (e *LoopError) exit() ExitBehavior { return e.Exit }
