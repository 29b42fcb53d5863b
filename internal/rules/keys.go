package rules

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// MaxCallKeys bounds how many keys of one ByKeys scope a call can have.
const MaxCallKeys = 64

// CheckKey says what is wrong with a key of a call.
func CheckKey(key string) error {
	if len(key) > MaxKeyBytes {
		return fmt.Errorf("sluice: key has %d bytes: must have at most %d", len(key), MaxKeyBytes)
	}
	return nil
}

// JoinKeys makes the keys of a call one value, which [EachKey] takes apart: the same for lists that
// differ in order and repetitions. Empty keys do not count; without others it is empty.
func JoinKeys(list []string) (string, error) {
	if len(list) > MaxCallKeys { // before it is copied; the same key twice is no reason to have so many
		return "", fmt.Errorf("sluice: the call has %d keys: must have at most %d", len(list), MaxCallKeys)
	}
	list = slices.Clone(list)
	slices.Sort(list)
	var b strings.Builder
	for _, k := range slices.Compact(list) {
		if k == "" {
			continue
		}
		if err := CheckKey(k); err != nil {
			return "", err
		}
		b.Write([]byte{byte(len(k) >> 8), byte(len(k))})
		b.WriteString(k)
	}
	return b.String(), nil
}

// EachKey is the keys of which JoinKeys made joined, sorted, each once.
func EachKey(joined string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for len(joined) > 0 {
			end := 2 + int(joined[0])<<8 + int(joined[1])
			if !yield(joined[2:end]) {
				return
			}
			joined = joined[end:]
		}
	}
}

// KeysText is those keys for people.
func KeysText(joined string) string { return strings.Join(slices.Collect(EachKey(joined)), ", ") }
