package record

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A decision is written in milliseconds, without what is empty.
func TestDecisionsAsJSON(t *testing.T) {
	type refusal struct{ Why string }
	for _, tt := range []struct {
		d    Decision[refusal]
		want string
	}{
		{Decision[refusal]{}, `{"wait_ms":0}`},
		{Decision[refusal]{Refusal: &refusal{"full"}, Costs: []Cost{}, Waits: []Wait{}}, `{"refusal":{"Why":"full"},"wait_ms":0}`},
		{Decision[refusal]{Wait: 1500 * time.Microsecond, Waits: []Wait{{"rate", time.Millisecond}, {"slot", time.Microsecond / 2}},
			Place: 2, Overtaken: 3, Attempts: 4, Costs: []Cost{{"", 1, 1}, {"tokens", 5, 7}}},
			`{"wait_ms":1.5,"waits":[{"by":"rate","ms":1},{"by":"slot","ms":0.0005}],"place":2,"overtaken":3,"attempts":4,` +
				`"costs":[{"unit":"","estimate":1,"actual":1},{"unit":"tokens","estimate":5,"actual":7}]}`},
	} {
		data, err := tt.d.MarshalJSON()
		require.NoError(t, err)
		require.Equal(t, tt.want, string(data))
	}
}

// The longest wait comes first, of two as long the earlier one; the record stays as it is.
func TestLongestWaitsComeFirst(t *testing.T) {
	r := &Record{Waits: []Wait{{"a", 1}, {"b", 3}, {"c", 3}, {"d", 2}}}
	require.Equal(t, []Wait{{"b", 3}, {"c", 3}, {"d", 2}, {"a", 1}}, r.Longest())
	require.Equal(t, "a", r.Waits[0].By)
	require.Nil(t, new(Record).Longest())
}
