package classify

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

type outcome uint8

type function = func(c, r string, err error) outcome

// says is a function with one answer.
func says(o outcome) function { return func(string, string, error) outcome { return o } }

func panics(string, string, error) outcome { panic("x") }

func TestAsk(t *testing.T) {
	for want, f := range map[outcome]function{0: panics, 3: says(3), 4: says(4)} {
		require.Equal(t, want, Ask(f, 4, "c", "r", nil))
	}
	require.Zero(t, Ask(says(5), 4, "c", "r", nil), "which there is not")
	Ask(func(c, r string, err error) outcome {
		require.Equal(t, []string{"c", "r"}, []string{c, r})
		require.ErrorIs(t, err, errors.ErrUnsupported)
		return 0
	}, 4, "c", "r", errors.ErrUnsupported)
}

// Goexit ends the goroutine that asks.
func TestAskGoesOnUp(t *testing.T) {
	done, answered := make(chan struct{}), false
	go func() {
		defer close(done)
		Ask(func(string, string, error) outcome { runtime.Goexit(); return 1 }, 4, "c", "r", nil)
		answered = true
	}()
	<-done
	require.False(t, answered)
}

// The first is asked first, and the other where that has no opinion, in whatever way.
func TestFirst(t *testing.T) {
	require.Nil(t, First[string, string, outcome](nil, nil, 4))
	for _, tt := range []struct {
		own, common function
		want        outcome
	}{
		{says(1), nil, 1}, {nil, says(2), 2}, {says(1), says(2), 1}, {says(0), says(2), 2}, {panics, says(2), 2}, {says(5), says(2), 2},
	} {
		require.Equal(t, tt.want, First(tt.own, tt.common, 4)("c", "r", nil))
	}
}

type speaking struct {
	o       outcome
	panicks bool
}

func (speaking) Error() string { return "x" }

func (e speaking) Outcome() outcome {
	if e.panicks {
		panic("x")
	}
	return e.o
}

// An error says what it means where no function does, wherever it stands in the tree; the outermost is asked.
func TestOf(t *testing.T) {
	inner := fmt.Errorf("b: %w", speaking{o: 2})
	for name, tt := range map[string]struct {
		f    function
		said outcome
		err  error
		want outcome
	}{
		"nothing":        {},
		"said":           {said: 4, want: 4},
		"said, no error": {f: says(0), said: 4, err: speaking{o: 3}, want: 4},
		"said too":       {f: says(1), said: 4, want: 1},
		"plain":          {err: errors.ErrUnsupported},
		"function":       {f: says(1), want: 1},
		"function first": {f: says(1), err: speaking{o: 3}, want: 1},
		"no opinion":     {f: says(0), err: speaking{o: 3}, want: 3},
		"f panics":       {f: panics, err: speaking{o: 3}, want: 3},
		"wrapped":        {err: inner, want: 2},
		"outermost":      {err: errors.Join(speaking{o: 3}, inner), want: 3},
		"panics":         {err: speaking{panicks: true}},
		"no such":        {err: speaking{o: 5}},
	} {
		require.Equal(t, tt.want, Of(tt.f, tt.said, 4, "c", "r", tt.err), name)
	}
}
