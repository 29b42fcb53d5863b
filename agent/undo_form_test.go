package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// What is stored is the same for every process and version: others read it.
func TestUndo_StoredForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{Lease: 30 * time.Second}, sluice.Policy{})
		stored := func() string {
			raw, err := json.Marshal(s.state)
			require.NoError(t, err)
			text := strings.ReplaceAll(string(raw), s.key(0), "KEY")
			text = regexp.MustCompile(`"n":\d+,"tool"`).ReplaceAllString(text, `"n":"N","tool"`)
			return regexp.MustCompile(`"by":"[A-Z2-7]{26}"`).ReplaceAllString(text, `"by":"BY"`)
		}
		has := func(version int, more string) {
			require.Equal(t, fmt.Sprintf(`{"version":%d,"keys":{"undo/call/KEY":{"value":{"v":1,"seq":1,"n":"N","tool":"write",`+
				`"action_id":"call_1","pipeline_run_id":"run-1","session_id":"s","tenant":"o","group":"g","at":"2000-01-01T00:00:00Z"%s},`+
				`"version":%d,"expires":"2000-01-02T00:00:00Z"},"undo/sequence":{"value":1,"version":1}}}`, version, more, version), stored())
		}
		left := `,"steps":[{"n":1,"attempt":1,"data":{"file":"a"}}],"made":1`
		s.do = func(ctx context.Context, file string) error {
			require.NoError(t, agent.ReportUndo(ctx, undoData{file}))
			has(1, left+`,"running":"2000-01-01T00:00:30Z"`)
			time.Sleep(time.Second)
			return nil
		}
		require.NoError(t, s.write(agent.WithUndoGroup(s.ctx, "g"), "a"))
		has(2, left)
		s.undoes = func(context.Context, string) error {
			has(3, left+`,"by":"BY","hand":1,"lease":"2000-01-01T00:00:31Z"`)
			return nil
		}
		require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
		has(4, `,"made":1`)
		s.end()
	})
}
