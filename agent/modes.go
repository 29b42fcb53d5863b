package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/sluice-go/sluice"
)

// modeDenied is told before the tool.denied of a call, which says reason and behavior, but not what would be allowed.
const modeDenied sluice.EventKind = "mode.denied"

// maxModes bounds how many modes a tool is allowed in, and maxMode how long the name of one may be, in bytes.
const (
	maxModes = 64
	maxMode  = 64
)

// Modes allows tools in some modes of the program only, as writing in "act" and not in "plan". The mode of a call is
// the ExecutionMode of its [sluice.PipelineContext], and is empty without one. It is an interceptor that stands
// outside all others. A call whose tool is not allowed in its mode is refused with a [*ModeError] as the cause of a
// [sluice.ErrDenied], at once, and holds nothing.
//
// Make it with [NewModes]; it is safe for concurrent use, and never waits.
type Modes struct {
	allowed func(tool sluice.Spec) []string
}

// NewModes returns Modes. allowed says in which modes a tool is: nil means in all, an empty list in none. It is asked
// once per tool and executor, and must not wait. A tool has at most 64 modes, of at most 64 bytes each; one that has
// others is allowed in none.
func NewModes(allowed func(tool sluice.Spec) []string) (*Modes, error) {
	if allowed == nil {
		return nil, errors.New("agent: NewModes: allowed is nil: must say in which modes a tool is allowed")
	}
	return &Modes{allowed}, nil
}

// String is the name in snapshots.
func (m *Modes) String() string { return "modes" }

// Wrap makes m an interceptor.
func (m *Modes) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return m.Steps(tool).Wrap(next)
}

// Steps makes m a [sluice.Stepper].
func (m *Modes) Steps(tool sluice.Spec) sluice.Steps {
	allowed := m.allowed(tool)
	if allowed == nil {
		return sluice.Steps{}
	}
	allowed = slices.Clone(allowed)
	wrong := wrongModes(allowed)
	return sluice.Steps{Before: func(ctx context.Context, s *sluice.Step) {
		mode := s.Call().Pipeline.ExecutionMode
		if wrong != nil {
			s.Answer(sluice.Result{}, wrong)
			return
		}
		if slices.Contains(allowed, mode) {
			return
		}
		err := &ModeError{Mode: mode, Allowed: allowed}
		s.Emit(ctx, modeDenied, slog.String("reason", err.Code()), slog.String("behavior", mode),
			slog.String("allowed_behaviors", strings.Join(allowed, ",")))
		s.Answer(sluice.Result{}, err)
	}}
}

// wrongModes says what is wrong with a list of modes, if something is.
func wrongModes(list []string) error {
	if len(list) > maxModes {
		return fmt.Errorf("agent: Modes: the tool has %d modes: at most %d are allowed", len(list), maxModes)
	}
	for i, mode := range list {
		if len(mode) > maxMode {
			return fmt.Errorf("agent: Modes: mode %d of the tool has %d bytes: at most %d are allowed", i, len(mode), maxMode)
		}
	}
	return nil
}

// ModeError is why a call did not run whose tool is not allowed in its mode.
type ModeError struct {
	Mode    string   // of the call
	Allowed []string // in which its tool is; must not be changed
}

// Error says it so that a model knows what to do.
func (e *ModeError) Error() string {
	if len(e.Allowed) == 0 {
		return fmt.Sprintf("the tool is not allowed in mode %q, nor in any other", e.Mode)
	}
	quoted := make([]string, len(e.Allowed))
	for i, mode := range e.Allowed {
		quoted[i] = fmt.Sprintf("%q", mode)
	}
	return fmt.Sprintf("the tool is not allowed in mode %q: it is in %s", e.Mode, strings.Join(quoted, ", "))
}

// Code is that of the error.
func (e *ModeError) Code() string { return "mode_denied" }
