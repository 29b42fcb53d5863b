package sluice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sluice-go/sluice/internal/errtext"
)

// Recorder is an [EventSink] for tests: it keeps every event, and checks them. After a
// million events Emit refuses more, and Check says so. The zero value is ready to use, a
// nil Recorder discards, and all methods are safe for concurrent use. To see values, record
// through [WithPayloads].
type Recorder struct {
	mu     sync.Mutex
	events []Event
	lost   int
}

const maxRecorded = 1_000_000

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder { return new(Recorder) }

// Enabled is true for every kind.
func (r *Recorder) Enabled(EventKind) bool { return r != nil }

// Emit keeps a copy of e; the error says that there are too many.
func (r *Recorder) Emit(_ context.Context, e *Event) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) >= maxRecorded {
		r.lost++
		return fmt.Errorf("sluice: the Recorder has %d events already: it keeps no more", maxRecorded)
	}
	r.events = append(r.events, *e)
	return nil
}

// Events returns a copy of the events in the order they came; if tools are named, only
// those of calls of these.
func (r *Recorder) Events(tools ...string) []Event {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(tools) == 0 {
		return slices.Clone(r.events)
	}
	var found []Event
	for _, e := range r.events {
		if slices.Contains(tools, e.Call.Tool) {
			found = append(found, e)
		}
	}
	return found
}

// Trace is the story of each call, in the order of their first events:
//
//	search: invoked started completed; fetch: invoked failed
//
// Events outside calls are left out.
func (r *Recorder) Trace() string {
	var b strings.Builder
	for i, c := range r.calls() {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s:", printable(c.tool))
		for _, e := range c.events {
			b.WriteByte(' ')
			b.WriteString(strings.TrimPrefix(string(e.Kind), "tool."))
		}
	}
	return b.String()
}

// printable is a tool's name as it is, if it is one, else quoted and cut.
func printable(name string) string {
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return fmt.Sprintf("%q", cut(name, 128))
		}
	}
	return cut(name, 128)
}

// maxBroken is how many broken promises Check lists.
const maxBroken = 20

// Check reports broken promises about the calls seen so far, each of which must have
// ended: tool.invoked comes first and once, exactly one of tool.completed, tool.failed
// and tool.denied comes last, tool.started at most once per attempt; Seq counts from 1
// without gaps; all are of one tool and id; a call completed if and only if it has no
// error, and was denied only with [ErrDenied]. Calls are told apart by their keys, and
// events made by hand, which have none, by the ids of run and call. The error has a line
// for each, 20 at most.
func (r *Recorder) Check() error {
	var errs []error
	more := 0
	for _, c := range r.calls() {
		for _, problem := range c.broken() {
			if len(errs) == maxBroken {
				more++
				continue
			}
			errs = append(errs, fmt.Errorf("sluice: call %q of run %q (%s): %s",
				cut(c.id, maxName), cut(c.run, maxName), printable(c.tool), problem))
		}
	}
	if r != nil {
		r.mu.Lock()
		if r.lost > 0 {
			errs = append(errs, fmt.Errorf("sluice: %d events came after the first %d and were not kept", r.lost, maxRecorded))
		}
		r.mu.Unlock()
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("sluice: and %d more", more))
	}
	return errors.Join(errs...)
}

// recordedCall is the events of one call.
type recordedCall struct {
	run, id, tool string
	events        []Event
}

func (r *Recorder) calls() []*recordedCall {
	type key struct {
		key     CallKey
		run, id string
	}
	var calls []*recordedCall
	byKey := make(map[key]*recordedCall)
	for _, e := range r.Events() {
		if e.CallKey == 0 && e.Call.ID == "" && !strings.HasPrefix(string(e.Kind), "tool.") {
			continue
		}
		run := ""
		if e.Call.Pipeline != nil {
			run = e.Call.Pipeline.RunID
		}
		k := key{key: e.CallKey}
		if k.key == 0 {
			k.run, k.id = run, e.Call.ID
		}
		c := byKey[k]
		if c == nil {
			c = &recordedCall{run: run, id: e.Call.ID, tool: e.Call.Tool}
			byKey[k] = c
			calls = append(calls, c)
		}
		c.events = append(c.events, e)
	}
	return calls
}

// broken lists what is wrong with the call.
func (c *recordedCall) broken() (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if c.id == "" {
		bad("has no call id")
	}
	invoked, ended := 0, 0
	started := make(map[int32]int)
	seq := uint32(0)
	for i, e := range c.events {
		if seq++; e.Seq != seq {
			bad("%s has seq %d, want %d", e.Kind, e.Seq, seq)
			seq = e.Seq
		}
		if e.Call.Tool != c.tool {
			bad("%s is of tool %s", e.Kind, printable(e.Call.Tool))
		}
		if e.Call.ID != c.id {
			bad("%s has the call id %q", e.Kind, cut(e.Call.ID, maxName))
		}
		if ended > 0 && !isTerminal(e.Kind) {
			bad("%s after the call had ended", e.Kind)
		}
		switch e.Kind {
		case ToolInvoked:
			if invoked++; invoked == 1 && i > 0 {
				bad("tool.invoked is not first")
			}
		case ToolStarted:
			if started[e.Call.Attempt]++; started[e.Call.Attempt] == 2 {
				bad("attempt %d started twice", e.Call.Attempt)
			}
		case ToolCompleted:
			ended++
			if e.Err != nil {
				bad("tool.completed with an error: %s", messageOf(codeOf(&e), e.Err))
			}
		case ToolFailed, ToolDenied:
			ended++
			if e.Err == nil {
				bad("%s without an error", e.Kind)
			} else if e.Kind == ToolDenied && codeOf(&e) != errtext.Denied {
				bad("tool.denied for another reason than ErrDenied: %s", messageOf(codeOf(&e), e.Err))
			}
		}
	}
	if invoked != 1 {
		bad("%d times tool.invoked, want once", invoked)
	}
	if ended != 1 {
		bad("%d terminal events, want one", ended)
	}
	return problems
}
