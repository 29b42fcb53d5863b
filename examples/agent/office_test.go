package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

const firstHalf = `%v, %s
  user   Pay Ada her 900 euros, note it in the ledger, and archive that. Is there anything else?
  model  I pay her & note it.
         pay {"to":"Ada","euros":900}
           waits for approval
         write {"file":"ledger","text":"Ada: 900"}
           written
         write {"file":"ledger","text":"Ada: 900, paid"}, waited 100ms for concurrency/resources per resource
           written
         read {"file":"ledger"}, waited 200ms for concurrency/resources per resource
           Ada: 900, paid
  -- the process ends, and another goes on --
`

const secondHalf = `  boss   yes, pay 900 euros to Ada
  model  pay {"to":"Ada","euros":900}
           paid
  model  archive {"file":"ledger"}
           {"type":"tool_error","message":"the archive is full","retryable":false}
         search {"for":"Ada"}
           ["Ada, 3 May: the offer","Ada, 9 June: the bill"]
         mail {}
           no new mail
  office has undone what archive has left
  model  mail {}
           no new mail
         read {"file":"ledger"}
           Ada: 900, paid
  model  mail {}
           no new mail
  model  mail {}
           {"type":"loop_detected","message":"the call was denied: this call has been made 3 times with the same arguments and the same result, and nothing has changed since; do not repeat it: use the result that you have, try another way, or say what is in the way","retryable":false}
  model  Ada is paid. The ledger says "Ada: 900, paid", and is not archived. Letters to her: ["Ada, 3 May: the offer","Ada, 9 June: the bill"]. There is no mail.
`

// Whatever comes in the way of a process, the next has what it left.
func TestOffice(t *testing.T) {
	for _, c := range combinations {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			var out bytes.Buffer
			began := time.Now()
			require.NoError(t, runOffice(t.Context(), &out, pipes(), c.format, c.stream, dir))
			require.Equal(t, fmt.Sprintf(firstHalf, c.format, how(c.stream)), out.String())
			took := time.Since(began)
			time.Sleep(20 * time.Hour) // people take hours, and what is pending holds nothing

			began = time.Now()
			out.Reset()
			require.NoError(t, runOffice(t.Context(), &out, pipes(), c.format, c.stream, dir))
			require.Equal(t, secondHalf, out.String())
			if !c.stream {
				// An answer of the model takes 20 ms, and the two writes 100 each. The payment takes 100; then
				// there are five answers; the search takes 300, and two times mail 100.
				require.Equal(t, 220*time.Millisecond, took)
				require.Equal(t, (100+5*20+300+100+100)*time.Millisecond, time.Since(began))
			}
			text, err := os.ReadFile(filepath.Join(dir, "ledger.txt"))
			require.NoError(t, err)
			require.Equal(t, "Ada: 900, paid", string(text))
			require.NoFileExists(t, filepath.Join(dir, savedName))
		})
	}
}

// The payment is made once, however many processes go on with what the first has saved.
func TestOffice_GoesOnTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var out bytes.Buffer
		require.NoError(t, runOffice(t.Context(), &out, pipes(), agent.OpenAIChat, false, dir))
		raw, err := os.ReadFile(filepath.Join(dir, savedName))
		require.NoError(t, err)
		last := saved{State: new(sluice.SharedState)}
		require.NoError(t, json.Unmarshal(raw, &last))

		d, stop, err := newDesk(&out, pipes(), agent.OpenAIChat, false, dir, last.State)
		require.NoError(t, err)
		defer func() { require.NoError(t, stop(context.Background())) }()
		pc, rec := sluice.NewTestPipelineContext()
		pc.Tenant, pc.OrgID = "", "" // as that of the process before
		ctx := agent.WithRun(sluice.WithPipelineContext(t.Context(), pc))
		_, err = d.goOn(ctx, last.History, last.Turn)
		require.NoError(t, err)
		again, err := d.runner.Resume(ctx, d.model.format, last.Turn)
		require.NoError(t, err)
		require.Equal(t, "paid", outcome(again.Replies[0]))
		paid := 0
		for _, e := range rec.Events() {
			if e.Kind == sluice.ToolStarted && e.Call.Tool == "pay" {
				paid++
			}
		}
		require.Equal(t, 1, paid)
	})
}

// Nobody has decided when the time is over: the model reads that, and nothing is paid.
func TestOffice_NobodyDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var out bytes.Buffer
		require.NoError(t, runOffice(t.Context(), &out, pipes(), agent.OpenAIChat, false, dir))
		time.Sleep(25 * time.Hour)
		err := runOffice(t.Context(), &out, pipes(), agent.OpenAIChat, false, dir)
		x, ok := errors.AsType[*agent.ApprovalError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, agent.ApprovalExpired, x.Approval.State)
		require.NotContains(t, out.String(), "           paid\n")
	})
}

// The program itself, with a process for each part.
func TestProgram(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	c := exec.CommandContext(t.Context(), self, "-provider", "anthropic", "-stream")
	c.Env = append(os.Environ(), asProgram+"=1")
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, rest, ok := strings.Cut(string(out), fmt.Sprintf(firstHalf, agent.Anthropic, "streamed"))
	require.True(t, ok, "%s", out)
	require.Equal(t, secondHalf, rest)
}

const asProgram = "SLUICE_AGENT"

// TestMain is the program where the tests ask for it.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	m.Run()
}
