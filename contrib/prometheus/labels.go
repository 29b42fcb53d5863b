package sluiceprom

import (
	"strings"
	"sync"
	"unicode/utf8"
)

// other is the label of what has none of its own: tools that nobody has registered, keys beyond Config.MaxKeys, and
// what comes after a table is full.
const other = "_other"

// maxLabel is how many bytes of a text are a label.
const maxLabel = 200

// labelOf is s as a label. Prometheus takes valid UTF-8 alone: one key that is none would fail a whole scrape.
func labelOf(s string) string {
	if len(s) > maxLabel {
		s = s[:maxLabel]
		for i := 1; i < utf8.UTFMax; i++ { // do not cut a character
			if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// names are texts that are labels: those that came first, so many. All others are [other], so that the number of
// series is bounded for good, and one that is there stays.
type names struct {
	max  int
	mu   sync.RWMutex
	seen map[string]string // text → label
}

// known is the label of s, if s has one.
func (n *names) known(s string) (label string, ok bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	label, ok = n.seen[s]
	return label, ok
}

// full reports whether there is no room for another.
func (n *names) full() bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return len(n.seen) >= n.max
}

// of is the label of s, which gets one if there is room.
func (n *names) of(s string) string {
	if label, ok := n.known(s); ok {
		return label
	}
	if n.full() {
		return other
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if label, ok := n.seen[s]; ok {
		return label
	}
	if len(n.seen) >= n.max {
		return other
	}
	if n.seen == nil {
		n.seen = make(map[string]string)
	}
	label := labelOf(s)
	n.seen[strings.Clone(s)] = label
	return label
}
