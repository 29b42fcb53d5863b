package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, rec := sluice.NewTestPipelineContext()
		ctx := sluice.WithPipelineContext(t.Context(), pc)
		a := sluice.Must(newAgent())
		defer a.exec.Close(t.Context())

		start := time.Now()
		require.NoError(t, a.ask(ctx, "go", "sluice", "gate"))
		if got, want := time.Since(start), 1010*time.Millisecond; got != want { // starts at 0, 500 and 1000 ms
			t.Errorf("took %v, want %v", got, want)
		}
		n, _, err := seen.Get(ctx)
		assert.Equal(t, 3, n)
		assert.NoError(t, err)
		assert.NoError(t, rec.Check())
		if got, want := len(rec.Events("search")), 11; got != want { // 3 × (invoked started completed) + 2 × queued
			t.Errorf("%d events, want %d: %s", got, want, rec.Trace())
		}
	})
}

// A call that cannot start before its deadline is refused at once, with the time to retry.
func TestAgentHasNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, _ := sluice.NewTestPipelineContext()
		ctx := sluice.WithPipelineContext(t.Context(), pc)
		a := sluice.Must(newAgent())
		defer a.exec.Close(t.Context())
		if err := a.ask(ctx, "go"); err != nil { // takes the only token, and 10 ms
			t.Fatal(err)
		}

		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := a.ask(ctx, "sluice")
		assert.Zero(t, time.Since(start), "the refusal took")
		e, ok := errors.AsType[*sluice.Error](err)
		if !ok || e.Reason != sluice.ErrWaitTooLong || !errors.Is(err, sluice.ErrRejected) {
			t.Fatalf("got %v, want ErrWaitTooLong", err)
		}
		assert.Equal(t, 490*time.Millisecond, e.RetryAfter, "retry after")
	})
}
