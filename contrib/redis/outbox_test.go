package sluiceredis_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/outbox"
)

// A server that is killed twice while calls go on has all their events in the end, each once and in order: it writes
// down what it acknowledges, and the outbox has the rest meanwhile.
func TestOutbox_ServerIsKilled(t *testing.T) {
	server := start(t, "--appendonly", "yes", "--appendfsync", "no") // what is written outlives the process
	c := client(t, server.addr)
	e := open(t, sluiceredis.Config{Client: c, MaxEvents: 100_000})
	box, err := outbox.New(outbox.Config{Publisher: e.Events(), MaxEvents: 100_000, Timeout: 500 * time.Millisecond})
	require.NoError(t, err)
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: box})
	require.NoError(t, err)
	work, err := sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(ctx context.Context, n int) (int, error) {
		time.Sleep(time.Millisecond)
		return n, nil
	})
	require.NoError(t, err)
	stop := make(chan struct{})
	var callers sync.WaitGroup
	calls := make([]int, 8)
	for i := range calls {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := work(context.Background(), i); err != nil {
					t.Error(err)
					return
				}
				calls[i]++
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	for range 2 {
		require.Eventually(t, func() bool { return box.Stats().Waiting == 0 && box.Stats().Err == nil }, time.Minute, time.Millisecond)
		server.kill()
		require.Eventually(t, func() bool { return box.Stats().Err != nil && box.Stats().Waiting > 100 }, time.Minute, time.Millisecond)
		server.run()
	}
	require.Eventually(t, func() bool { return box.Stats().Waiting == 0 && box.Stats().Err == nil }, time.Minute, time.Millisecond)
	close(stop)
	callers.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(t, exec.Close(ctx))
	require.NoError(t, box.Close(ctx))

	made := 0
	for _, n := range calls {
		made += n
	}
	list, err := c.Do(ctx, c.B().Xrange().Key(e.Stream()).Start("-").End("+").Build()).AsXRange()
	require.NoError(t, err)
	require.Equal(t, outbox.Stats{Sent: uint64(3 * made)}, box.Stats())
	require.Len(t, list, 3*made, "of %d calls", made)
	last, ids := map[string]int{}, map[string]bool{}
	for _, x := range list {
		v := x.FieldValues
		seq, err := strconv.Atoi(v["seq"])
		require.NoError(t, err)
		require.Equal(t, last[v["call"]]+1, seq, "of call %s", v["call"])
		last[v["call"]] = seq
		require.False(t, ids[v["id"]], v["id"])
		ids[v["id"]] = true
		require.Contains(t, v["payload"], fmt.Sprintf(`"event_id":%q`, v["id"]))
	}
	require.Len(t, last, made)
}
