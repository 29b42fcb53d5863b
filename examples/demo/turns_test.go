package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The story that the demo tells needs these turns.
func TestTurns(t *testing.T) {
	turns, err := loadTurns(turnFiles)
	require.NoError(t, err)
	if len(turns) < 60 {
		t.Errorf("%d turns, want at least 60", len(turns))
	}
	assert.True(t, slices.IsSortedFunc(turns, func(a, b turn) int { return int(a.At - b.At) }),
		"the turns are not in order of arrival")

	tools := agentTools(newClient(nil), "")
	ofTenant := make(map[string]int)
	used := make(map[string]int)                   // by tool
	ofProvider := make(map[string]int)             // all
	wanted := make(map[string]map[string]int)      // normal calls by provider and tenant
	levelsOf := make(map[string][]sluice.Priority) // by tenant
	several := 0
	for _, tn := range turns {
		if len(tn.Calls) > 1 {
			several++
		}
		if tn.At > 5*time.Second {
			t.Errorf("a turn of %s arrives after %v: the unguarded run would last that long", tn.Tenant, tn.At)
		}
		ofTenant[tn.Tenant] += len(tn.Calls)
		levelsOf[tn.Tenant] = append(levelsOf[tn.Tenant], tn.Priority)
		for _, c := range tn.Calls {
			provider := tools[c.Function.Name].spec.Type
			used[c.Function.Name]++
			ofProvider[provider]++
			if tn.Priority == sluice.PriorityNormal {
				if wanted[provider] == nil {
					wanted[provider] = make(map[string]int)
				}
				wanted[provider][tn.Tenant]++
			}
		}
	}
	if several != len(turns) {
		t.Errorf("%d of %d turns call several tools, want all", several, len(turns))
	}
	for name := range workTime {
		if used[name] < 5 {
			t.Errorf("%s is called %d times, want at least 5", name, used[name])
		}
	}
	require.Len(t, ofTenant, 4, "tenants")
	for tenant, n := range ofTenant {
		if tenant != "hooli" && n >= ofTenant["hooli"] {
			t.Errorf("%s makes %d calls and hooli, which floods, only %d", tenant, n, ofTenant["hooli"])
		}
		for _, l := range levels {
			assert.True(t, slices.Contains(levelsOf[tenant], l.priority), "%s has no %s turn", tenant, l.name)
		}
	}
	// For a share to be measured, everyone must want enough of what they compete for.
	for _, provider := range []string{"web", "office"} {
		for tenant := range ofTenant {
			if n := wanted[provider][tenant]; n < 8 {
				t.Errorf("%s makes %d normal calls of %s, want at least 8", tenant, n, provider)
			}
		}
	}
	// At guardRate, the guarded run fits into twelve seconds.
	for provider, n := range ofProvider {
		if fastest := time.Duration(n-guardBurst) * time.Second / guardRate; fastest > 12*time.Second {
			t.Errorf("%d calls of %s take %v at best", n, provider, fastest)
		}
	}
}

func TestLoadTurnsRefusesWhatCannotBeReplayed(t *testing.T) {
	const (
		call = `{"id":"c1","type":"function","function":{"name":"search","arguments":"{}"}}`
		good = `{"tenant":"a","turns":[{"at_ms":5,"priority":"batch","user":"u","message":{"role":"assistant","content":null,"tool_calls":[` + call + `]}}]}`
	)
	tests := []struct{ name, old, new, want string }{
		{"good", "", "", ""},
		{"not JSON", `{"tenant"`, `{tenant`, "turns/a.json: invalid character"},
		{"no tenant", `"tenant":"a"`, `"tenant":""`, "turns/a.json: no tenant"},
		{"priority", `batch`, `urgent`, `turn 1: priority "urgent"`},
		{"early", `"at_ms":5`, `"at_ms":-5`, "at_ms is -5"},
		{"role", `assistant`, `user`, `role is "user"`},
		{"no calls", call, ``, "no tool calls"},
		{"no id", `"id":"c1"`, `"id":" "`, "has no id"},
		{"same id", call, call + "," + call, `"c1" is also in`},
		{"type", `"type":"function"`, `"type":"custom"`, "must be function"},
		{"unknown tool", `"search"`, `"teleport"`, `no tool named "teleport"`},
		{"arguments", `"arguments":"{}"`, `"arguments":"{"`, "holds a JSON object"},
		{"null arguments", `"arguments":"{}"`, `"arguments":"null"`, "holds a JSON object"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := strings.Replace(good, tt.old, tt.new, 1)
			turns, err := loadTurns(fstest.MapFS{"turns/a.json": {Data: []byte(data)}})
			if tt.want == "" {
				require.NoError(t, err)
				require.Len(t, turns, 1)
				require.Equal(t, 5*time.Millisecond, turns[0].At)
				assert.Equal(t, sluice.PriorityBatch, turns[0].Priority)
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestContent(t *testing.T) {
	assert.Equal(t, `{"a":1}`, content([]byte(`{"a":1}`), nil))
	assert.Equal(t, `{"error":"say \"no\""}`, content(nil, errors.New(`say "no"`)))
}
