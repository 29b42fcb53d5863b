package trace

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// events are those of one call: a letter each, for invoked, started, completed, queued and abandoned.
func events(key uint64, id string, letters string) (list []Event) {
	kinds := map[rune]string{'i': "tool.invoked", 's': "tool.started", 'q': "tool.queued", 'a': "tool.abandoned",
		'c': "tool.completed", 'f': "tool.failed", 'd': "tool.denied"}
	for i, c := range letters {
		list = append(list, Event{Kind: kinds[c], Key: key, Run: "r", ID: id, Tool: "search", Seq: uint32(i + 1), Attempt: 1})
	}
	return list
}

func TestBrokenRulesAreNamed(t *testing.T) {
	gap := events(0, "a", "isc")
	gap[2].Seq = 9
	other := events(7, "a", "isc")
	other[1].Tool, other[1].ID, other[2].Wrong = "fetch x", "b", "odd"
	for _, tt := range []struct {
		name   string
		events []Event
		want   []string
	}{
		{"fine", events(0, "a", "iqsc"), nil},
		{"gap", gap, []string{"tool.completed has seq 9, want 3"}},
		{"each end", events(0, "a", "icfd"), []string{"3 terminal events, want one"}},
		{"no end", events(0, "a", "is"), []string{"0 terminal events, want one"}},
		{"two starts of an attempt", events(0, "a", "issc"), []string{"attempt 1 started twice"}},
		{"abandoned", events(0, "a", "isac"), nil},
		{"an attempt abandoned twice", events(0, "a", "isaac"), []string{"attempt 1 was abandoned twice"}},
		{"not first", events(0, "a", "sic"), []string{"tool.invoked is not first"}},
		{"after the end", events(0, "a", "icq"), []string{"tool.queued after the call had ended"}},
		{"no id", events(1, "", "c"), []string{"has no call id", "0 times tool.invoked, want once"}},
		{"of another", other, []string{`tool.started is of tool "fetch x"`, `tool.started has the call id "b"`, "odd"}},
	} {
		calls := Calls(tt.events)
		require.Len(t, calls, 1, "%s: calls", tt.name)
		assert.Equal(t, tt.want, calls[0].Broken(), tt.name)
	}
}

// Calls are told apart by their keys, and without keys by run and id.
func TestCallsAreToldApart(t *testing.T) {
	list := slices.Concat(events(1, "a", "is"), events(2, "a", "ic"), events(0, "a", "i"), events(0, "b", "i"))
	calls := Calls(list)
	assert.Equal(t, "search: invoked started; search: invoked completed; search: invoked; search: invoked", Story(calls))
	assert.Equal(t, `call "b" of run "r" (search)`, calls[3].String())
}
