package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-go/sluice"
)

// undoEntry is what is kept of a call, as JSON where others read it. A method that changes it is a step: it is told the
// instant, waits for nothing, and leaves what it refers to alone, which others may read.
type undoEntry struct {
	V       int        `json:"v"`
	Seq     int64      `json:"seq"` // among all calls, by their first report
	N       uint64     `json:"n"`   // of the call, in the process where it ran
	Tool    string     `json:"tool"`
	ID      string     `json:"action_id"`
	Run     string     `json:"pipeline_run_id,omitempty"`
	Request string     `json:"request_id,omitempty"`
	Session string     `json:"session_id,omitempty"`
	User    string     `json:"user_id,omitempty"`
	Tenant  string     `json:"tenant,omitempty"`
	Group   string     `json:"group,omitempty"`
	At      time.Time  `json:"at"`               // of the first report
	Steps   []undoStep `json:"steps,omitempty"`  // to undo, the last first
	Made    int64      `json:"made"`             // how many steps there have been
	Running time.Time  `json:"running,omitzero"` // until when code of the call is taken to run
	By      string     `json:"by,omitempty"`     // which undoing has a step in hand
	Hand    int64      `json:"hand,omitempty"`   // which
	Lease   time.Time  `json:"lease,omitzero"`   // until when its process is taken to live
}

// undoStep is what one attempt has left.
type undoStep struct {
	N       int64           `json:"n"` // from 1 on
	Attempt int32           `json:"attempt"`
	Data    json.RawMessage `json:"data"`
}

// undoKept is an entry and the key of its call.
type undoKept struct {
	undoEntry
	key string
}

const (
	undoVersion   = 1
	undoPrefix    = "call/"
	undoSequence  = sluice.Key[int64]("sequence")
	undoStepBytes = 64 // that a step counts beside its data
)

type undoKey = sluice.Key[undoEntry]

// state is how the call stands.
func (e *undoEntry) state(now time.Time) UndoState {
	switch {
	case e.By != "" && now.Before(e.Lease):
		return UndoUndoing
	case e.By != "":
		return UndoInDoubt
	case now.Before(e.Running):
		return UndoRunning
	case len(e.Steps) == 0:
		return UndoDone
	}
	return UndoOpen
}

// report has the attempt leave data in place of what it has left before, or nothing if it is nil.
func (e *undoEntry) report(attempt int32, data json.RawMessage, most int) error {
	steps := slices.Clone(e.Steps)
	at := slices.IndexFunc(steps, func(s undoStep) bool { return s.Attempt == attempt && (e.By == "" || s.N != e.Hand) })
	e.Made++
	switch s := (undoStep{N: e.Made, Attempt: attempt, Data: data}); {
	case data == nil && at >= 0:
		steps = slices.Delete(steps, at, at+1)
	case data == nil:
	case at >= 0:
		steps[at] = s
	default:
		steps = append(steps, s)
	}
	bytes := 0
	for _, s := range steps {
		bytes += len(s.Data) + undoStepBytes
	}
	if bytes > most {
		return fmt.Errorf("the data of the call would have %d bytes: must have at most %d", bytes, most)
	}
	e.Steps = steps
	return nil
}

// claim has by take the last step in hand, and answers that, unless the call cannot be undone.
func (e *undoEntry) claim(by string, now time.Time, lease time.Duration) (undoStep, UndoState) {
	if s := e.state(now); s != UndoOpen {
		return undoStep{}, s
	}
	return e.take(by, now, lease), UndoOpen
}

// take has by take the last step in hand.
func (e *undoEntry) take(by string, now time.Time, lease time.Duration) undoStep {
	s := e.Steps[len(e.Steps)-1]
	e.By, e.Hand, e.Lease = by, s.N, wall(now.Add(lease))
	return s
}

// settle says what has become of the step in hand: it stays unless it is undone.
func (e *undoEntry) settle(undone bool) {
	if undone {
		e.Steps = slices.DeleteFunc(slices.Clone(e.Steps), func(s undoStep) bool { return s.N == e.Hand })
	}
	e.Hand = 0
}

// Why an entry is not changed.
var (
	errUndoAbsent = errors.New("there is none")
	errUndoNew    = errors.New("it has no number yet")
	errUndoLost   = errors.New("it is another's")
)

// change makes of the entry of key what f says, with another lifetime if there is one.
func (u *Undo) change(key string, lifetime time.Duration, f func(e *undoEntry, now time.Time) error) error {
	var ttl []sluice.TTL
	if lifetime > 0 {
		ttl = []sluice.TTL{sluice.TTL(lifetime)}
	}
	_, err := undoKey(undoPrefix+key).Update(u.kept, func(e undoEntry, ok bool) (undoEntry, error) {
		switch {
		case !ok:
			return e, errUndoAbsent
		case e.V != undoVersion:
			return e, fmt.Errorf("its entry is of version %d: must be %d", e.V, undoVersion)
		}
		return e, f(&e, time.Now())
	}, ttl...)
	return err
}

// look is the entry of key, if ctx may see it.
func (u *Undo) look(ctx context.Context, key string) (undoEntry, error) {
	e, _, err := undoKey(undoPrefix + key).Get(u.kept)
	switch {
	case errors.Is(err, sluice.ErrAbsent), err == nil && e.Tenant != tenantOf(sluice.PipelineContextFrom(ctx)):
		return e, &UndoError{Key: key, Reason: string(UndoUnknown)}
	case err != nil:
		return e, &UndoError{Key: key, Reason: "state", Err: err}
	}
	return e, nil
}
