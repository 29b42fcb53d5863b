package stage

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/record"
)

// What is left of a call's memory says nothing of that call, and what somebody may still have is not left.
func TestTally_Spare(t *testing.T) {
	var first, second, third, fourth Tally
	require.Equal(t, Spare{}, first.Spare(), "of one that had nothing to say")
	m := first.own()
	m.queued.Store(int64(time.Second))
	m.record, m.blank = record.New(nil), record.New(nil)

	second.Reuse(first.Spare())
	require.True(t, second.IsPlain())
	require.Zero(t, second.Queued())
	third.Reuse(second.Spare()) // which has not used it
	require.Same(t, m, third.own())
	require.Equal(t, &more{}, m)
	require.Nil(t, third.spare)
	require.Same(t, m, third.own(), "asked again")

	m.sealed = true
	require.Equal(t, Spare{}, third.Spare(), "whose record somebody has while attempts go on")
	fourth.own().streams = new(streams)
	require.Equal(t, Spare{}, fourth.Spare(), "that has held a stream")
}
