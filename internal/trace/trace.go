// Package trace sorts recorded events by the call that they belong to, tells each call's
// story in a line, and finds what in it breaks the rules: a call is invoked first and once,
// ends last and once, starts and abandons each attempt at most once, counts its events from 1 without
// gaps, and keeps its tool and id.
//
// It is pure: it reads what it is given, and locks nothing.
package trace

import (
	"fmt"
	"strings"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// Event is what is looked at of an event of a call.
type Event struct {
	Kind          string // as in its JSON form
	Key           uint64 // the call's; zero if it has none and goes by Run and ID
	Run, ID, Tool string
	Seq           uint32
	Attempt       int32
	Wrong         string // what is wrong with the event alone; empty if nothing is
}

// Call is the events of one call, in the order they came.
type Call struct {
	Run, ID, Tool string
	events        []Event
}

// Calls sorts events by call, in the order of their first events.
func Calls(events []Event) (calls []*Call) {
	type key struct {
		key     uint64
		run, id string
	}
	known := make(map[key]*Call)
	for _, e := range events {
		k := key{key: e.Key}
		if k.key == 0 {
			k.run, k.id = e.Run, e.ID
		}
		c := known[k]
		if c == nil {
			c = &Call{Run: e.Run, ID: e.ID, Tool: e.Tool}
			known[k] = c
			calls = append(calls, c)
		}
		c.events = append(c.events, e)
	}
	return calls
}

// Story is what happened in calls:
//
//	search: invoked started completed; fetch: invoked failed
func Story(calls []*Call) string {
	var b strings.Builder
	for i, c := range calls {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s:", printable(c.Tool))
		for _, e := range c.events {
			b.WriteByte(' ')
			b.WriteString(strings.TrimPrefix(e.Kind, "tool."))
		}
	}
	return b.String()
}

// maxName bounds the bytes of an id in a text.
const maxName = 256

// String says which call it is.
func (c *Call) String() string {
	return fmt.Sprintf("call %q of run %q (%s)", short(c.ID), short(c.Run), printable(c.Tool))
}

// Broken lists what is wrong with the call.
func (c *Call) Broken() (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if c.ID == "" {
		bad("has no call id")
	}
	invoked, ended := 0, 0
	started, abandoned := make(map[int32]int), make(map[int32]int)
	seq := uint32(0)
	for i, e := range c.events {
		if seq++; e.Seq != seq {
			bad("%s has seq %d, want %d", e.Kind, e.Seq, seq)
			seq = e.Seq
		}
		if e.Tool != c.Tool {
			bad("%s is of tool %s", e.Kind, printable(e.Tool))
		}
		if e.ID != c.ID {
			bad("%s has the call id %q", e.Kind, short(e.ID))
		}
		if ended > 0 && !ends(e.Kind) {
			bad("%s after the call had ended", e.Kind)
		}
		if e.Wrong != "" {
			bad("%s", e.Wrong)
		}
		switch {
		case e.Kind == "tool.invoked":
			if invoked++; invoked == 1 && i > 0 {
				bad("%s is not first", e.Kind)
			}
		case e.Kind == "tool.started":
			if started[e.Attempt]++; started[e.Attempt] == 2 {
				bad("attempt %d started twice", e.Attempt)
			}
		case e.Kind == "tool.abandoned":
			if abandoned[e.Attempt]++; abandoned[e.Attempt] == 2 {
				bad("attempt %d was abandoned twice", e.Attempt)
			}
		case ends(e.Kind):
			ended++
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

// ends reports whether an event of that kind ends its call.
func ends(kind string) bool {
	return kind == "tool.completed" || kind == "tool.failed" || kind == "tool.denied"
}

// printable is a tool's name as it is, if it is one, else quoted and cut.
func printable(name string) string {
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return fmt.Sprintf("%q", jsonx.Cut(name, 128, "…"))
		}
	}
	return jsonx.Cut(name, 128, "…")
}

func short(s string) string { return jsonx.Cut(s, maxName, "…") }
