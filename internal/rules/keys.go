package rules

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// MaxCallKeys bounds how many keys of one ByKeys scope a call can have.
const MaxCallKeys = 64

// OneKey is the key of a call, or what is wrong with it.
func OneKey(key string) (string, error) {
	if len(key) > MaxKeyBytes {
		return key, fmt.Errorf("sluice: key has %d bytes: must have at most %d", len(key), MaxKeyBytes)
	}
	return key, nil
}

// JoinKeys makes the keys of a call one value, which [EachKey] takes apart: the same for lists that
// differ in order and repetitions. Empty keys do not count; without others it is empty.
func JoinKeys(list []string) (string, error) {
	if err := checkCount(len(list)); err != nil { // before it is copied; the same key twice is no reason to have so many
		return "", err
	}
	list = slices.Clone(list)
	slices.Sort(list)
	var b strings.Builder
	for _, k := range slices.Compact(list) {
		if err := join(&b, k, 1); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// JoinWeights is JoinKeys for keys of which a call takes that many each. Those of which it takes none do
// not count.
func JoinWeights(m map[string]int64) (string, error) {
	if err := checkCount(len(m)); err != nil || len(m) == 0 {
		return "", err
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch n := m[k]; {
		case n < 0:
			return "", errors.New("sluice: the weight of a key is negative: must not be")
		case n > 0:
			if err := join(&b, k, n); err != nil {
				return "", err
			}
		}
	}
	return b.String(), nil
}

func checkCount(n int) error {
	if n > MaxCallKeys {
		return fmt.Errorf("sluice: the call has %d keys: must have at most %d", n, MaxCallKeys)
	}
	return nil
}

// weighs marks a key that a weight other than 1 follows, in the first byte of its length.
const weighs = 0x80

// join appends the key k, unless it is empty: its length, the key, and its weight.
func join(b *strings.Builder, k string, n int64) error {
	if k == "" {
		return nil
	}
	if _, err := OneKey(k); err != nil {
		return err
	}
	if n == 1 {
		b.Write([]byte{byte(len(k) >> 8), byte(len(k))})
		b.WriteString(k)
		return nil
	}
	b.Write([]byte{byte(len(k)>>8) | weighs, byte(len(k))})
	b.WriteString(k)
	var weight [8]byte
	binary.BigEndian.PutUint64(weight[:], uint64(min(n, MaxLimit+1))) // too wide whatever it is
	b.Write(weight[:])
	return nil
}

// EachKey is the keys of which JoinKeys or JoinWeights made joined, sorted, each once, with their weights.
func EachKey(joined string) iter.Seq2[string, int64] {
	return func(yield func(string, int64) bool) {
		for len(joined) > 0 {
			end, n := 2+int(joined[0]&^weighs)<<8+int(joined[1]), int64(1)
			key, rest := joined[2:end], joined[end:]
			if joined[0]&weighs != 0 {
				n = 0
				for _, x := range []byte(rest[:8]) {
					n = n<<8 | int64(x)
				}
				rest = rest[8:]
			}
			if joined = rest; !yield(key, n) {
				return
			}
		}
	}
}

// KeysText is those keys for people.
func KeysText(joined string) string {
	var list []string
	for k := range EachKey(joined) {
		list = append(list, k)
	}
	return strings.Join(list, ", ")
}
