package office

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The story that the demo tells needs these turns.
func TestTurns(t *testing.T) {
	turns, err := loadTurns(turnFiles)
	require.NoError(t, err)
	require.Len(t, turns, 63)
	require.Equal(t, 223, countCalls(turns))
	assert.True(t, slices.IsSortedFunc(turns, func(a, b turn) int { return int(a.At - b.At) }),
		"the turns are not in order of arrival")

	tools := agentTools(newClient(nil), "")
	ofTenant := make(map[string]int)
	used := make(map[string]int)                   // by tool
	ofProvider := make(map[string]int)             // all
	wanted := make(map[string]map[string]int)      // normal calls by provider and tenant
	levelsOf := make(map[string][]sluice.Priority) // by tenant
	formatOf := make(map[string]agent.Format)      // by tenant
	ids := make(map[string]bool)
	several := 0
	for _, tn := range turns {
		formatOf[tn.Tenant] = tn.Format
		if len(tn.Message.Calls) > 1 {
			several++
		}
		if tn.At > 5*time.Second {
			t.Errorf("a turn of %s arrives after %v: the unguarded run would last that long", tn.Tenant, tn.At)
		}
		ofTenant[tn.Tenant] += len(tn.Message.Calls)
		levelsOf[tn.Tenant] = append(levelsOf[tn.Tenant], tn.Priority)
		for _, c := range tn.Message.Calls {
			provider := tools[c.Request.Tool].spec.Type
			used[c.Request.Tool]++
			if tn.Format != agent.Gemini { // whose calls have none
				require.NotEmpty(t, c.Request.ID)
			}
			require.False(t, c.Request.ID != "" && ids[c.Request.ID], "the id %q comes twice", c.Request.ID)
			ids[c.Request.ID] = true
			ofProvider[provider]++
			if tn.Priority == sluice.PriorityNormal {
				if wanted[provider] == nil {
					wanted[provider] = make(map[string]int)
				}
				wanted[provider][tn.Tenant]++
			}
		}
	}
	require.Equal(t, map[string]agent.Format{
		"acme": agent.OpenAIChat, "globex": agent.Anthropic, "hooli": agent.OpenAIResponses, "initech": agent.Gemini,
	}, formatOf)
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
		good = `{"tenant":"a","format":"openai-chat","turns":[{"at_ms":5,"priority":"batch","user":"u","body":` +
			`{"choices":[{"message":{"role":"assistant","content":null,"tool_calls":[` + call + `]},"finish_reason":"tool_calls"}]}}]}`
	)
	tests := []struct{ name, old, new, want string }{
		{"good", "", "", ""},
		{"not JSON", `{"tenant"`, `{tenant`, "turns/a.json: invalid character"},
		{"no tenant", `"tenant":"a"`, `"tenant":""`, "turns/a.json: no tenant"},
		{"format", `openai-chat`, `openai`, `turns/a.json: format "openai" is none of [openai-chat openai-responses anthropic gemini]`},
		{"another format", `openai-chat`, `gemini`, "turns/a.json: turn 1: agent: the gemini message has no message of that format"},
		{"no body", `"body"`, `"message"`, "turns/a.json: turn 1: agent: the openai-chat message"},
		{"priority", `batch`, `urgent`, `turn 1: priority "urgent"`},
		{"early", `"at_ms":5`, `"at_ms":-5`, "turn 1: at_ms is -5"},
		{"no calls", call, ``, "turn 1: no tool calls"},
		{"malformed", call, call + `,"search"`, "turn 1: tool call 2: "},
		{"cut off", `"finish_reason":"tool_calls"`, `"finish_reason":"length"`, "they were cut off"},
		{"unknown tool", `"search"`, `"teleport"`, `turn 1: tool call 1: no tool named "teleport"`},
		{"arguments", `"arguments":"{}"`, `"arguments":"{"`, "arguments must be a JSON object"},
		{"null arguments", `"arguments":"{}"`, `"arguments":"null"`, "arguments must be a JSON object"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := strings.Replace(good, tt.old, tt.new, 1)
			turns, err := loadTurns(fstest.MapFS{"turns/a.json": {Data: []byte(data)}})
			if tt.want == "" {
				require.NoError(t, err)
				require.Len(t, turns, 1)
				require.Equal(t, 5*time.Millisecond, turns[0].At)
				require.Equal(t, sluice.PriorityBatch, turns[0].Priority)
				return
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// In every format, an answer counts where it stands in the place of its call, and nowhere else.
func TestAnswersAreReadInEveryFormat(t *testing.T) {
	turns, err := loadTurns(turnFiles)
	require.NoError(t, err)
	for _, f := range formats {
		t.Run(f.String(), func(t *testing.T) {
			tn := turns[slices.IndexFunc(turns, func(tn turn) bool { return tn.Format == f })]
			replies := make([]agent.Reply, len(tn.Message.Calls))
			for i, c := range tn.Message.Calls {
				replies[i] = agent.Reply{Request: c.Request, Result: sluice.Result{Value: "done"}}
			}
			replies[0].Err = errors.New("refused")
			// sent counts the answers in what is rendered, changed by how.
			sent := func(how func(m *agent.Message, replies []agent.Reply)) (n int) {
				m, replies := *tn.Message, append(slices.Clone(replies), replies[0])
				m.Calls = slices.Clone(m.Calls)
				how(&m, replies)
				messages, err := f.Render(&m, replies[:len(m.Calls)])
				require.NoError(t, err)
				for _, a := range answersTo(tn, 0, &agent.Turn{Replies: replies, Messages: slices.Concat(m.Echo, messages)}, nil) {
					if a.Sent != nil {
						n++
					}
				}
				return n
			}
			all := len(replies)
			require.Equal(t, all, sent(func(*agent.Message, []agent.Reply) {}))
			require.Equal(t, all-2, sent(func(m *agent.Message, _ []agent.Reply) {
				m.Calls[0], m.Calls[1] = m.Calls[1], m.Calls[0]
			}), "two in each other's place")
			require.Equal(t, all-1, sent(func(m *agent.Message, _ []agent.Reply) { m.Calls[1] = m.Calls[0] }), "one twice")
			require.Equal(t, 0, sent(func(m *agent.Message, _ []agent.Reply) { m.Calls = m.Calls[:all-1] }), "one is missing")
			require.Equal(t, 0, sent(func(m *agent.Message, _ []agent.Reply) { m.Calls = append(m.Calls, m.Calls[0]) }), "one too many")
			require.Equal(t, all-1, sent(func(_ *agent.Message, replies []agent.Reply) { replies[1].Result.Value = "" }), "one says nothing")
		})
	}
}
