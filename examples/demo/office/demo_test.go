package office

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The whole demo on virtual time: what it shows must be so.
func TestDemo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		start := time.Now()
		without, with, err := demo(t.Context(), terminal{w: &out}, pipes())
		t.Log("\n" + out.String())
		assert.NoError(t, err)
		if took := time.Since(start); took >= 20*time.Second {
			t.Errorf("took %v, want less than 20 s", took)
		}

		c := with.counts
		assert.Zero(t, c.TooMany, "guarded")
		assert.Zero(t, c.TooBusy, "guarded")
		if c := without.counts; c.TooMany == 0 || c.TooBusy == 0 {
			t.Errorf("unguarded: %d × 429 and %d × 503: the demo shows no trouble", c.TooMany, c.TooBusy)
		}
		if with.counts.Wasted >= without.counts.Wasted {
			t.Errorf("%d requests wasted with the breaker, %d without", with.counts.Wasted, without.counts.Wasted)
		}
		assert.NotZero(t, with.retried, "the breaker held nothing back")
		interactive := with.wait(sluice.PriorityInteractive, 0.5)
		normal := with.wait(sluice.PriorityNormal, 0.5)
		batch := with.wait(sluice.PriorityBatch, 0.5)
		if !(interactive < normal && normal < batch) {
			t.Errorf("waits p50 are %v interactive, %v normal, %v batch", interactive, normal, batch)
		}
		for _, c := range []column{without, with} {
			checkAnswers(t, c)
		}
	})
}

// checkAnswers: every tool call of every turn has one answer for the model, in order, which is its
// own result or says that it failed.
func checkAnswers(t *testing.T, c column) {
	t.Helper()
	turns, err := loadTurns(turnFiles)
	require.NoError(t, err)
	require.Len(t, c.answers, countCalls(turns))
	i := 0
	for _, tn := range turns {
		for _, call := range tn.Message.Calls {
			a := c.answers[i]
			i++
			require.Equal(t, call.Request.Tool, a.Tool)
			require.True(t, isAnswer(a.Sent, call.Request), "%s call %s is answered by %s", tn.Format, call.Request.ID, a.Sent)
			require.Equal(t, a.Err == nil, bytes.Contains(a.Sent, []byte(a.Tool+" done")), "%v: the model reads %s", a.Err, a.Sent)
			require.Equal(t, a.Err != nil, bytes.Contains(a.Sent, []byte("error")), "%v: the model reads %s", a.Err, a.Sent)
		}
	}
}

// The unguarded half alone: it shows the trouble, and answers every call nevertheless.
func TestUnguarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, err := loadTurns(turnFiles)
		require.NoError(t, err)
		var out bytes.Buffer
		c, err := pipes().run(t.Context(), terminal{w: &out}, turns, unguarded)
		require.NoError(t, err)
		n := c.counts
		if n.TooMany == 0 || n.TooBusy == 0 || n.Wasted < 10 || n.Peak <= serverSlots {
			t.Errorf("the server saw %+v: too little trouble", n)
		}
		if sum := n.OK + n.TooMany + n.TooBusy + n.Wasted; sum != n.Requests || n.Requests != len(c.answers) {
			t.Errorf("%d answers and %d requests for %d calls", sum, n.Requests, len(c.answers))
		}
		checkAnswers(t, c)
		if broken := c.brokenPromises(); len(broken) < 3 {
			t.Errorf("the promises find only %q wrong with it", broken)
		}
		if want := fmt.Sprintf("%d/%[1]d ended", countCalls(turns)); !strings.Contains(out.String(), want) {
			t.Errorf("progress is %q", out.String())
		}
	})
}
