package office

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// The page shows what the executor does, which goes on after the last turn with the first, and ends with its context.
func TestPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, err := loadTurns(turnFiles)
		require.NoError(t, err)
		here := pipes()
		l, err := here.listen()
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		made, ended := make(chan *sluice.Executor, 1), make(chan error, 1)
		go func() { ended <- pipes().page(ctx, l, Observer{Watch: func(e *sluice.Executor) { made <- e }}) }()
		exec := <-made

		client := newClient(here.dial)
		defer client.CloseIdleConnections()
		get := func(view string) string {
			r, err := client.Get("http://localhost/" + view)
			require.NoError(t, err)
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, r.StatusCode, "%s", body)
			return string(body)
		}
		time.Sleep(time.Minute)
		s := exec.Snapshot()
		require.Greater(t, s.Completed, uint64(2*countCalls(turns)), "rounds")
		require.Contains(t, get("tools"), slowTool)
		require.Contains(t, get("change"), "backend", "limits that can be changed")
		require.True(t, strings.Contains(get("recent.json"), `"breaker.state_changed"`), "each round has trouble")
		var limits struct{ Rows []sluice.GateState }
		require.NoError(t, json.Unmarshal([]byte(get("limits.json")), &limits))
		require.Len(t, limits.Rows, 1+len(workTime))
		require.EqualValues(t, guardSlots, limits.Rows[0].Limit, "what is in use stands first")

		stop()
		require.NoError(t, <-ended)
	})
}

func TestListenHere(t *testing.T) {
	for address, ok := range map[string]bool{"localhost:0": true, "127.0.0.1:0": true, ":0": false, "0.0.0.0:0": false, "192.0.2.1:0": false, "localhost": false} {
		l, err := ListenHere(address)
		if ok {
			require.NoError(t, err, address)
			require.NoError(t, l.Close())
		} else {
			require.ErrorContains(t, err, "address", address)
		}
	}
}
