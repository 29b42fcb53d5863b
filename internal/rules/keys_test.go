package rules

import (
	"fmt"
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
		require.Equal(t, x.keys, slices.Collect(EachKey(joined)))
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
	require.Len(t, slices.Collect(EachKey(joined)), MaxCallKeys)
	_, err = JoinKeys(append(list, "0"))
	require.EqualError(t, err, "sluice: the call has 65 keys: must have at most 64")
	_, err = JoinKeys([]string{strings.Repeat("x", MaxKeyBytes+1)})
	require.EqualError(t, err, "sluice: key has 1025 bytes: must have at most 1024")
}
