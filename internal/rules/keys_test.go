package rules

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The keys of a call are a set: one value, whatever their order, of which each comes back as it was.
func TestKeysOfACallAreASet(t *testing.T) {
	long := strings.Repeat("é", MaxKeyBytes/2)
	for _, x := range []struct{ list, keys []string }{
		{nil, nil},
		{[]string{"", ""}, nil},
		{[]string{"b", "a", "b", "", "a"}, []string{"a", "b"}},
		{[]string{"ab", "a", "b", "\x00\x01a", "\xff"}, []string{"\x00\x01a", "a", "ab", "b", "\xff"}},
		{[]string{long, "x"}, []string{"x", long}},
	} {
		was := slices.Clone(x.list)
		joined, err := JoinKeys(x.list)
		require.NoError(t, err)
		require.Equal(t, was, x.list, "the caller's list")
		require.Equal(t, x.keys, collect(joined))
		slices.Reverse(x.list)
		again, err := JoinKeys(x.list)
		require.NoError(t, err)
		require.Equal(t, joined, again)
	}
	joined, err := JoinKeys([]string{"b", "a"})
	require.NoError(t, err)
	require.Equal(t, "a, b", KeysText(joined))
	for key := range EachKey(joined) {
		require.Equal(t, "a", key)
		break
	}
	one, err := JoinKeys([]string{"ab"})
	require.NoError(t, err)
	require.NotEqual(t, joined, one)
}

func TestKeysOfACallAreBounded(t *testing.T) {
	var list []string
	for i := range MaxCallKeys {
		list = append(list, fmt.Sprint(i))
	}
	joined, err := JoinKeys(list)
	require.NoError(t, err)
	require.Len(t, collect(joined), MaxCallKeys)
	_, err = JoinKeys(append(list, "0"))
	require.EqualError(t, err, "sluice: the call has 65 keys: must have at most 64")
	_, err = JoinKeys([]string{strings.Repeat("x", MaxKeyBytes+1)})
	require.EqualError(t, err, "sluice: key has 1025 bytes: must have at most 1024")
}

// collect is the keys of joined.
func collect(joined string) (keys []string) {
	for k := range EachKey(joined) {
		keys = append(keys, k)
	}
	return keys
}

// Keys with weights are a set as well, of which each weight comes back.
func TestKeysOfACallHaveWeights(t *testing.T) {
	long := strings.Repeat("é", MaxKeyBytes/2)
	for _, want := range []map[string]int64{
		{}, {"a": 1}, {"a": 2}, {"a": 1, "b": 7, "\x00": MaxLimit}, {long: MaxLimit + 1, "x": 1, "\x80\x01y": 3},
	} {
		joined, err := JoinWeights(want)
		require.NoError(t, err)
		got := map[string]int64{}
		for k, n := range EachKey(joined) {
			got[k] = n
		}
		require.Equal(t, want, got)
		require.True(t, slices.IsSorted(collect(joined)))
	}
	joined, err := JoinWeights(map[string]int64{"": 3, "none": 0, "b": 1, "a": math.MaxInt64})
	require.NoError(t, err)
	require.Equal(t, "a, b", KeysText(joined))
	for _, n := range EachKey(joined) {
		require.Equal(t, int64(MaxLimit+1), n, "too wide whatever it is")
		break
	}
	ones, err := JoinWeights(map[string]int64{"a": 1, "b": 1})
	require.NoError(t, err)
	keys, err := JoinKeys([]string{"b", "a"})
	require.NoError(t, err)
	require.Equal(t, keys, ones)
	many := map[string]int64{}
	for i := range MaxCallKeys + 1 {
		many[fmt.Sprint(i)] = 1
	}
	for want, m := range map[string]map[string]int64{
		"sluice: the call has 65 keys: must have at most 64":   many,
		"sluice: the weight of a key is negative: must not be": {"a": -1},
		"sluice: key has 1025 bytes: must have at most 1024":   {strings.Repeat("x", MaxKeyBytes+1): 2},
	} {
		_, err := JoinWeights(m)
		require.EqualError(t, err, want)
	}
}
