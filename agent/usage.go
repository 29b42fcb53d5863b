package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sluice-go/sluice"
)

// Usage is how much calls use: as limits, where zero is none, and as what has been used.
type Usage struct {
	Calls int            `json:"calls,omitempty"` // whose code runs or has run; retries are part of a call
	Tools map[string]int `json:"tools,omitempty"` // such calls of each tool

	// Time is that of the tools' code, of calls at once added up. A call that is nested in another's code is part
	// of that, here and in Bytes.
	Time time.Duration `json:"time,omitempty"`

	Bytes int64 `json:"bytes,omitempty"` // of results: of texts as they are, of others as JSON

	// Units is what calls were charged of the units of rate limiters, as their [sluice.Decision] says: what they
	// have reported by [sluice.ReportUsage]. What no [sluice.RateLimiter] of a call counts is not known.
	Units map[string]int64 `json:"units,omitempty"`
}

// What becomes of calls in a Usage. The methods are pure: each answers the usage after a step, and changes no map
// that another may have.

// take has one more call of a tool begin, unless something is used up.
func (u Usage) take(limit *Usage, tool string) (Usage, *UsageLimitError) {
	if over := u.over(limit, tool); over != nil {
		return u, over
	}
	return u.count(limit, tool, 1), nil
}

// give has a call that was taken not have run after all.
func (u Usage) give(limit *Usage, tool string) Usage { return u.count(limit, tool, -1) }

// settle adds what a call has used besides itself, of what is limited.
func (u Usage) settle(limit *Usage, x Usage) Usage {
	if limit.Time > 0 {
		u.Time = plus(u.Time, x.Time)
	}
	if limit.Bytes > 0 {
		u.Bytes = plus(u.Bytes, x.Bytes)
	}
	own := false // whether u.Units is
	for unit, n := range x.Units {
		if _, limited := limit.Units[unit]; !limited || n <= 0 {
			continue
		}
		if !own {
			u.Units, own = copied(u.Units), true
		}
		u.Units[unit] = plus(u.Units[unit], n)
	}
	return u
}

// count adds n calls of a tool.
func (u Usage) count(limit *Usage, tool string, n int) Usage {
	u.Calls = max(u.Calls+n, 0)
	if _, limited := limit.Tools[tool]; limited {
		u.Tools = copied(u.Tools)
		u.Tools[tool] = max(u.Tools[tool]+n, 0)
	}
	return u
}

// over says what a call of tool finds used up, what concerns all tools first; nil if nothing is.
func (u Usage) over(limit *Usage, tool string) *UsageLimitError {
	switch {
	case limit.Calls > 0 && u.Calls >= limit.Calls:
		return &UsageLimitError{Limit: "calls", Max: int64(limit.Calls)}
	case limit.Time > 0 && u.Time >= limit.Time:
		return &UsageLimitError{Limit: "time", Max: int64(limit.Time)}
	case limit.Bytes > 0 && u.Bytes >= limit.Bytes:
		return &UsageLimitError{Limit: "bytes", Max: limit.Bytes}
	}
	name := "" // the first that is used up
	for unit, most := range limit.Units {
		if u.Units[unit] >= most && (name == "" || unit < name) {
			name = unit
		}
	}
	if name != "" {
		return &UsageLimitError{Limit: "units", Name: name, Max: limit.Units[name]}
	}
	if most := limit.Tools[tool]; most > 0 && u.Tools[tool] >= most {
		return &UsageLimitError{Limit: "tools", Name: tool, Max: int64(most)}
	}
	return nil
}

// concerns reports whether calls of a tool can find something used up.
func (u *Usage) concerns(tool string) bool {
	return u.Calls > 0 || u.Time > 0 || u.Bytes > 0 || len(u.Units) > 0 || u.Tools[tool] > 0
}

// limits reports whether there is a limit.
func (u *Usage) limits() bool { return u.concerns("") || len(u.Tools) > 0 }

// check returns an error that names what of a limit is wrong.
func (u *Usage) check(field string) error {
	switch {
	case u.Calls < 0:
		return fmt.Errorf("agent: %s.Calls is %d: must be zero (any number) or positive", field, u.Calls)
	case u.Time < 0:
		return fmt.Errorf("agent: %s.Time is %v: must be zero (any) or positive", field, u.Time)
	case u.Bytes < 0:
		return fmt.Errorf("agent: %s.Bytes is %d: must be zero (any number) or positive", field, u.Bytes)
	case len(u.Tools) > maxUsageNames || len(u.Units) > maxUsageNames:
		return fmt.Errorf("agent: %s has %d Tools and %d Units: must have at most %d of each", field, len(u.Tools), len(u.Units), maxUsageNames)
	}
	for _, tool := range slices.Sorted(maps.Keys(u.Tools)) {
		if n := u.Tools[tool]; n <= 0 || tool == "" {
			return fmt.Errorf("agent: %s.Tools has %d for %q: must be positive, for a tool's name", field, n, tool)
		}
	}
	for _, unit := range slices.Sorted(maps.Keys(u.Units)) {
		if n := u.Units[unit]; n <= 0 || unit == "" {
			return fmt.Errorf("agent: %s.Units has %d for %q: must be positive, for a unit's name", field, n, unit)
		}
	}
	return nil
}

// maxUsageNames bounds the tools and the units of a Usage.
const maxUsageNames = 1000

// clone shares nothing with u.
func (u Usage) clone() Usage {
	u.Tools, u.Units = maps.Clone(u.Tools), maps.Clone(u.Units)
	return u
}

// copied is a copy of m to write into.
func copied[V any](m map[string]V) map[string]V {
	c := make(map[string]V, len(m)+1)
	maps.Copy(c, m)
	return c
}

// plus is a+b, as far as there are such numbers.
func plus[N ~int64](a, b N) N {
	if b <= 0 {
		return a
	}
	return max(a, 0) + min(b, math.MaxInt64-max(a, 0))
}

// ExitBehavior is what becomes of a turn of a [Runner] if a limit refuses one of its calls. All its calls have replies in
// any case: the history stays one that the provider takes.
type ExitBehavior uint8

// What may become of a turn.
const (
	ExitContinue ExitBehavior = iota // the model reads why, and the loop goes on
	ExitEnd                          // the turn is the last: it is Done, and its Stop says why
	ExitError                        // likewise, and it comes with the error
)

// check returns an error if e is none of the constants.
func (e ExitBehavior) check(field string) error {
	if e > ExitError {
		return fmt.Errorf("agent: %s is %d: must be ExitContinue, ExitEnd or ExitError", field, e)
	}
	return nil
}

// exits is an error of a call that may end the turn.
type exits interface {
	error
	exit() ExitBehavior
}

// exitOf is what err, which may be anybody's, has become of a turn, as that of the call itself and not of one nested
// in it.
func exitOf(err error) (e ExitBehavior) {
	if err == nil {
		return ExitContinue
	}
	defer func() {
		if recover() != nil {
			e = ExitContinue
		}
	}()
	if x, ok := errors.AsType[exits](err); ok && errors.Is(err, sluice.ErrRejected) {
		return x.exit()
	}
	return ExitContinue
}

// UsageLimitError is why a call did not run that would have used more than a run, or a session, may.
type UsageLimitError struct {
	Scope string // whose limit it is: "run" or "session"
	Limit string // what is used up, a field of [Usage]: "calls", "tools", "time", "bytes" or "units"
	Name  string // of the tool or the unit; else empty
	Max   int64  // what is allowed; of time, nanoseconds
	Exit  ExitBehavior
}

// Error says it so that a model knows what to do. It speaks neither of runs nor of sessions.
func (e *UsageLimitError) Error() string {
	switch e.Limit {
	case "calls":
		return fmt.Sprintf("all %d tool calls that are allowed have been made; make no others, and answer with what you have", e.Max)
	case "tools":
		return fmt.Sprintf("all %d calls of this tool that are allowed have been made; do not call it again", e.Max)
	case "time":
		return "the time for tools is used up; make no more tool calls, and answer with what you have"
	case "bytes":
		return "tools have given as much output as is allowed; make no more tool calls, and answer with what you have"
	}
	return fmt.Sprintf("the %.64q that tools may use are used up; make no more tool calls, and answer with what you have", cmp.Or(e.Name, "units"))
}

// Code is that of the error.
func (e *UsageLimitError) Code() string { return "usage_limit" }

func (e *UsageLimitError) exit() ExitBehavior { return e.Exit }
