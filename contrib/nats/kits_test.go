package sluicenats_test

import (
	"testing"
	"time"

	sluicenats "github.com/sluice-go/sluice/contrib/nats"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// inTime says how late a server may be on a machine that has other things to do.
var inTime = sluicetest.Options{Tick: 200 * time.Millisecond, Slack: 120 * time.Millisecond}

// TestKits: all that an engine must do. What needs records that end, and the loss of all data,
// comes after the rest.
func TestKits(t *testing.T) {
	t.Parallel()
	s := start(t)
	l := newLink(t, s.addr())
	conn := connect(t, l.addr())
	js := jetStream(t, conn)
	e := open(t, "", sluicenats.Config{JetStream: js, Bucket: "kit", Memory: true})
	t.Run("kits", func(t *testing.T) {
		t.Run("store", func(t *testing.T) {
			t.Parallel()
			sluicetest.Store(t, e.Store, inTime)
		})
		t.Run("publisher", func(t *testing.T) {
			t.Parallel()
			sluicetest.Publisher(t, func() (engine.Publisher, func() []engine.Event) {
				return e.Events(), func() []engine.Event { return published(t, js, e.Stream()) }
			}, inTime)
		})
	})
	require.NotNil(t, e)
}
