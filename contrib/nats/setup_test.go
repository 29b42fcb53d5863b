package sluicenats_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sluicenats "github.com/sluice-go/sluice/contrib/nats"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	s := start(t)
	js := jetStream(t, connect(t, s.addr()))
	buffers := jetStream(t, connect(t, s.addr(), nats.ReconnectBufSize(nats.DefaultReconnectBufSize)))
	for _, one := range []struct {
		conf sluicenats.Config
		want string
	}{
		{sluicenats.Config{}, "sluicenats: Config.JetStream is nil: must be a client"},
		{sluicenats.Config{JetStream: buffers}, "sluicenats: Config.JetStream's ReconnectBufSize is 8388608: must be -1, by nats.ReconnectBufSize(-1)"},
		{sluicenats.Config{JetStream: js, Bucket: "a.b"}, `sluicenats: Config.Bucket is "a.b": must be empty (sluice) or 1 to 64 letters, digits, _ and -`},
		{sluicenats.Config{JetStream: js, Replicas: 6}, "sluicenats: Config.Replicas is 6: must be zero (1) or from 1 to 5"},
		{sluicenats.Config{JetStream: js, OpMemory: time.Millisecond}, "sluicenats: Config.OpMemory is 1ms: must be zero (2 minutes) or from 1s to a year"},
		{sluicenats.Config{JetStream: js, MaxValue: 1 << 20}, "sluicenats: Config.MaxValue is 1048576: must be zero (256 KiB) or from 1 to 1044480, by the server's max_payload"},
		{sluicenats.Config{JetStream: js, MaxEvents: -1}, "sluicenats: Config.MaxEvents is -1: must be zero (100,000) or positive"},
	} {
		_, err := sluicenats.New(bg(t), one.conf)
		assert.EqualError(t, err, one.want)
	}
	_, err := js.CreateKeyValue(bg(t), jetstream.KeyValueConfig{Bucket: "theirs"})
	require.NoError(t, err)
	_, err = sluicenats.New(bg(t), sluicenats.Config{JetStream: js, Bucket: "theirs"})
	assert.ErrorContains(t, err, `the bucket "theirs" was made by others: must have allow_atomic`)
}

// TestKeys: any text is a key, and prefixes are of keys as they are.
func TestKeys(t *testing.T) {
	t.Parallel()
	s := start(t)
	e := open(t, s.addr(), sluicenats.Config{Memory: true})
	keys := []string{"with space", "x:y", "ключ", "a*b", ".a", "a.", "a.b", "a>b", "=41", "A", "a\nb", "a/b-c_d"}
	long := make([]byte, engine.MaxKey)
	for i := range long {
		long[i] = '.'
	}
	f := follow(t, e, "a")
	for _, key := range append(keys, string(long)) {
		_, err := e.Store().Write(bg(t), key, 0, []byte(key), 0)
		require.NoError(t, err, "%q", key)
	}
	for _, key := range append(keys, string(long)) {
		require.Equal(t, key, value(t, e, key))
	}
	want := map[string]string{"a*b": "a*b", "a.": "a.", "a.b": "a.b", "a>b": "a>b", "a\nb": "a\nb", "a/b-c_d": "a/b-c_d"}
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return assert.ObjectsAreEqual(want, f.seen)
	}, 10*time.Second, time.Millisecond)
	list := []engine.Event{{ID: "line\nbreak", CallID: "c é", Type: "a: b"}}
	for range 2 {
		_, err := e.Events().Publish(bg(t), list)
		require.NoError(t, err)
	}
	got := published(t, jetStream(t, connect(t, s.addr())), e.Stream())
	require.Len(t, got, 1)
	require.Equal(t, [3]string{"line\nbreak", "c é", "a: b"}, [3]string{got[0].ID, got[0].CallID, got[0].Type})
}

// TestForgets: what has ended leaves the bucket, though nobody asks for it.
func TestForgets(t *testing.T) {
	t.Parallel()
	s := start(t)
	e := open(t, s.addr(), sluicenats.Config{Memory: true, OpMemory: time.Second})
	for i := range 20 {
		_, err := e.Store().Write(bg(t), string(rune('a'+i)), 0, nil, 10*time.Millisecond)
		require.NoError(t, err)
		_, err = e.Quota().Take(bg(t), engine.Draw{Op: engine.NewOpID(), Meters: []engine.Meter{{Key: string(rune('a' + i)), N: 100, Per: time.Second}}})
		require.NoError(t, err)
	}
	js := jetStream(t, connect(t, s.addr()))
	require.Eventually(t, func() bool {
		stream, err := js.Stream(bg(t), "KV_sluice")
		require.NoError(t, err)
		return stream.CachedInfo().State.Msgs == 0
	}, 20*time.Second, 50*time.Millisecond)
}
