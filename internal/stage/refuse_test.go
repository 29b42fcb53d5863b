package stage

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/errtext"
)

// Behind each refusal stands what its caller can do something about: the bound that was met, as it was.
func TestBehindARefusalIsItsBound(t *testing.T) {
	full := errors.New("full")
	refused := func(r admit.Reason, f Refusal) Refusal {
		f.Reason, f.Detail = r, "a -> b"
		return f
	}
	for _, tt := range []struct {
		name string
		f    Refusal
		max  time.Duration
		want error
	}{
		{"queue", refused(admit.QueueFull, Refusal{Waiting: 3}), 0, &errtext.Bound{Waiting: 3}},
		{"gave way", refused(admit.Shed, Refusal{Waiting: 3}), 0, nil},
		{"saturated", refused(admit.Saturated, Refusal{Cause: full}), 0, full},
		{"saturated, of which there is no more to say", refused(admit.Saturated, Refusal{}), 0, nil},
		{"too wide", refused(admit.TooWide, Refusal{}), 0, errtext.ErrTooWide},
		{"rate", refused(admit.RateLimited, Refusal{}), 0, nil},
		{"breaker", refused(admit.BreakerOpen, Refusal{}), 0, nil},
		{"closed", refused(admit.Closed, Refusal{}), 0, nil},
		{"within MaxWait", refused(admit.TooLong, Refusal{}), time.Second, &errtext.Bound{Within: time.Second}},
		{"nested", refused(admit.TooLong, Refusal{Anonymous: true}), 0, &errtext.Bound{Within: time.Minute, Nested: true, Anonymous: true}},
		{"at once", refused(admit.TooLong, Refusal{AtOnce: true}), time.Second, &errtext.Bound{AtOnce: true}},
		{"its deadline", refused(admit.TooLong, Refusal{Deadline: true}), time.Second, &errtext.Bound{}},
	} {
		require.Equal(t, tt.want, tt.f.Behind(tt.max, time.Minute), tt.name)
	}
	cycle := refused(admit.Cycle, Refusal{})
	require.EqualError(t, cycle.Behind(0, 0), "sluice: nested calls wait for each other: a -> b")
}
