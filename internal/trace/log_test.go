package trace

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What keeps events is bounded, says that it has had enough, and counts what it did not keep.
func TestLogIsBounded(t *testing.T) {
	l := Log[byte]{list: make([]byte, maxKept-1)}
	e := byte(7)
	assert.NoError(t, l.Keep(&e))
	for range 2 {
		assert.ErrorContains(t, l.Keep(&e), "1000000 events already", "kept too many")
	}
	assert.Equal(t, 2, l.Lost())
	assert.ErrorContains(t, Check(nil, l.Lost()), "2 events came after the first 1000000")
}

// Its events are copies, in the order they came, however many keep some at once.
func TestLogKeepsCopies(t *testing.T) {
	var l Log[int]
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 100 {
				require.NoError(t, l.Keep(&i))
				l.Events()
			}
		})
	}
	wg.Wait()
	require.Len(t, l.Events(), 400)
	first := l.Events()[0]
	l.Events()[0] = -1
	assert.Equal(t, first, l.Events()[0])
}

// A check says no more than twenty lines, and how many more there are.
func TestChecksAreBounded(t *testing.T) {
	assert.NoError(t, Check(Calls(events(1, "a", "isc")), 0))
	err := Check(Calls(events(1, "a", "i"+strings.Repeat("i", 50))), 0)
	require.Error(t, err)
	assert.Less(t, strings.Count(err.Error(), "\n"), maxBroken)
	var many []Event
	for key := range uint64(3 * maxBroken) {
		many = append(many, events(key+1, "a", "i")...)
	}
	err = Check(Calls(many), 0)
	assert.Equal(t, maxBroken, strings.Count(err.Error(), "\n"))
	assert.ErrorContains(t, err, "and 40 more")
}
