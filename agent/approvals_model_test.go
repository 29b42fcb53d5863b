package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// modelled is an approval as the model knows it.
type modelled struct {
	id      string
	cents   int64 // of its call, which no other call has
	edited  int64 // what it is to have instead; zero if it stays
	state   agent.ApprovalState
	expires time.Time
	kept    time.Time // until when it is known, once nothing can change any more
	known   bool      // what the call gave
	gone    bool
	runs    int
}

const modelLife = time.Hour

// at lets time pass for m, which somebody looks at.
func (m *modelled) at(now time.Time) {
	open := m.state == agent.ApprovalPending || m.state == agent.ApprovalApproved
	switch {
	case m.gone:
	case open && !now.Before(m.expires.Add(modelLife)), !open && !now.Before(m.kept):
		m.gone = true
	case open && !now.Before(m.expires):
		m.state, m.kept = agent.ApprovalExpired, now.Add(modelLife)
	}
}

// world is processes, one after the other, with one state and one ledger.
type world struct {
	t    *testing.T
	r    *rand.Rand
	b    *bank
	all  []*modelled
	said map[string]int // decisions that were told, by approval
	dies string         // where the process is to die: "paying", "requested" or "decided"
	last []byte         // the state when it died
}

func (w *world) snapshot() []byte {
	raw, err := json.Marshal(w.b.state)
	require.NoError(w.t, err)
	return raw
}

// Enabled and Emit are of the run's sink, which sees what is told.
func (w *world) Enabled(sluice.EventKind) bool { return true }

func (w *world) Emit(_ context.Context, e *sluice.Event) error {
	if e.Kind == "approval.decided" {
		for _, a := range e.Attrs {
			if a.Key == "request_id" {
				w.said[a.Value.String()]++
			}
		}
	}
	if string(e.Kind) == "approval."+w.dies {
		w.last = w.snapshot()
	}
	return nil
}

func (w *world) start(state *sluice.SharedState) {
	w.b = newBank(w.t, state, w.b.paid, agent.ApprovalsConfig{Lifetime: modelLife, Sink: w})
	pc := sluice.PipelineContextFrom(w.b.ctx)
	pc.Sink = sluice.MultiSink(w, w.b.rec)
	w.b.ctx = sluice.WithPipelineContext(w.b.ctx, pc)
}

// restart is a process that ends, whenever the state was as it is in the snapshot, and the next one.
func (w *world) restart(snapshot []byte) {
	w.b.close()
	w.start(restored(w.t, snapshot))
}

func (w *world) args(cents int64) string { return fmt.Sprintf(`{"to":"ada","cents":%d}`, cents) }

// step does one thing, and has the process die in it, maybe.
func (w *world) step(n int) {
	w.dies, w.last = []string{"", "", "paying", "requested", "decided"}[w.r.IntN(5)], nil
	defer func() {
		if w.last != nil {
			w.restart(w.last)
		}
	}()
	now := time.Now()
	var m *modelled
	if len(w.all) > 0 {
		m = w.all[w.r.IntN(len(w.all))]
		m.at(now)
	}
	switch op := w.r.IntN(8); {
	case op == 0 || m == nil:
		m := &modelled{cents: int64(n + 1), state: agent.ApprovalPending, expires: now.Add(modelLife)}
		_, err := w.b.pay(w.b.ctx, w.args(m.cents))
		m.id = awaited(w.t, err).ID
		w.all = append(w.all, m)
	case op == 1:
		d := agent.Decision{Approve: w.r.IntN(3) > 0, By: "ada"}
		if d.Approve && w.r.IntN(2) == 0 {
			d.Arguments = json.RawMessage(w.args(m.cents + 1_000_000))
		}
		if w.decided(m, w.b.approvals.Decide(w.b.ctx, m.id, d)) {
			m.state, m.kept = agent.ApprovalDenied, now.Add(modelLife)
			if d.Approve {
				m.state, m.expires = agent.ApprovalApproved, now.Add(modelLife)
			}
			if d.Arguments != nil {
				m.edited = m.cents + 1_000_000
			}
		}
	case op == 2:
		if w.decided(m, w.b.approvals.Cancel(w.b.ctx, m.id, "ada", "over")) {
			m.state, m.kept = agent.ApprovalCancelled, now.Add(modelLife)
		}
	case op == 3:
		time.Sleep(time.Duration(w.r.IntN(40)) * time.Minute)
	case op == 4: // to the last instant, or before it
		if open := m.state == agent.ApprovalPending || m.state == agent.ApprovalApproved; open && m.expires.After(now) {
			time.Sleep(m.expires.Sub(now) - time.Duration(w.r.IntN(2)))
		}
	case op == 5:
		w.restart(w.snapshot())
	default:
		w.comes(m, now)
	}
}

// decided reports whether a decision about m that ended with err counts, as it should.
func (w *world) decided(m *modelled, err error) bool {
	if m.gone {
		require.ErrorIs(w.t, err, sluice.ErrAbsent)
		return false
	}
	if m.state == agent.ApprovalPending {
		require.NoError(w.t, err)
		return true
	}
	x, ok := errors.AsType[*agent.ApprovalError](err)
	require.True(w.t, ok, "%v", err)
	require.Equal(w.t, m.state, x.Approval.State)
	return false
}

// comes is the call of m that comes again, or another one that says it was that.
func (w *world) comes(m *modelled, now time.Time) {
	other := w.r.IntN(4) == 0
	cents := m.cents
	if m.edited != 0 && w.r.IntN(2) == 0 {
		cents = m.edited
	}
	if other {
		cents += 7_000_000
	}
	w.b.paid.inside = func() {
		if w.dies == "paying" {
			w.last = w.snapshot()
		}
	}
	before := len(w.b.paid.all())
	res, err := w.b.pay(agent.WithApproval(w.b.ctx, m.id), w.args(cents))
	ran := w.b.paid.all()[before:]
	switch {
	case m.gone:
		refusedFor(w.t, err, agent.ApprovalExpired)
	case other:
		x := awaited(w.t, err)
		require.NotEqual(w.t, m.id, x.ID)
		w.all = append(w.all, &modelled{id: x.ID, cents: cents, state: agent.ApprovalPending, expires: now.Add(modelLife)})
	case m.state == agent.ApprovalApproved:
		require.NoError(w.t, err)
		want := m.cents
		if m.edited != 0 {
			want = m.edited
		}
		require.Equal(w.t, []payment{{To: "ada", Cents: want}}, ran, "what was approved")
		m.runs++
		m.state, m.kept, m.known = agent.ApprovalUsed, now.Add(modelLife), w.last == nil
		return
	case m.known:
		require.NoError(w.t, err)
		require.Equal(w.t, "paid ada", res.Value)
	default:
		refusedFor(w.t, err, m.state)
	}
	require.Empty(w.t, ran)
}

// check compares all that is known with the model.
func (w *world) check() {
	now, pending := time.Now(), []string{}
	for _, m := range w.all {
		m.at(now)
		x, err := w.b.approvals.Get(w.b.ctx, m.id)
		if m.gone {
			require.ErrorIs(w.t, err, sluice.ErrAbsent)
			continue
		}
		require.NoError(w.t, err)
		require.Equal(w.t, m.state, x.State)
		require.LessOrEqual(w.t, m.runs, 1)
		told := w.said[m.id]
		if m.state == agent.ApprovalPending {
			pending = append(pending, m.id)
			require.Zero(w.t, told)
		} else {
			require.Equal(w.t, 1, told, "a decision is told once")
		}
	}
	list, err := w.b.approvals.Pending(w.b.ctx)
	require.NoError(w.t, err)
	require.ElementsMatch(w.t, pending, idsOf(list))
}

// Approvals are what the model of them says, whatever comes in whatever order, also if the process dies in it.
func TestApprovals_Model(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	runs := 60
	if testing.Short() {
		runs = 10
	}
	for run := range runs {
		synctest.Test(t, func(t *testing.T) {
			w := &world{t: t, r: rand.New(rand.NewPCG(seed, uint64(run))), said: map[string]int{}, b: &bank{paid: &ledger{}}}
			w.start(nil)
			for n := range 80 {
				w.step(n)
				w.check()
			}
			total := 0
			for _, m := range w.all {
				total += m.runs
			}
			require.Len(t, w.b.paid.all(), total)
			w.b.close()
		})
	}
}
