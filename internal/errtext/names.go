package errtext

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-go/sluice/internal/jsonx"
)

const (
	maxNames   = 3      // that are shown
	maxNameLen = 256    // of a name that may have been meant otherwise
	maxNear    = 10_000 // names among which near ones are looked for
)

// Names is behind the refusal of an unknown name: those that may have been meant.
type Names []string

func (n Names) Error() string {
	quoted := make([]string, len(n))
	for i, name := range n {
		quoted[i] = strconv.Quote(name)
	}
	return "did you mean " + strings.Join(quoted, " or ") + "?"
}

// ErrNoTools is behind the refusal of a tool's name where there are no tools at all.
var ErrNoTools = errors.New("the registry of the executor has no tools: register them in that one")

// Meant is the [Names] of tools that may have been meant by one that is none of theirs; nil if none is
// near, or there are too many to look at; [ErrNoTools] if there are none.
func Meant[T any](name string, tools map[string]T) error {
	switch n := len(tools); {
	case n == 0:
		return ErrNoTools
	case n > maxNear:
		return nil
	}
	if near := Nearest(name, maps.Keys(tools)); near != nil {
		return near
	}
	return nil
}

// Unregistered is the error of an operation of a registry of these tools on one that it does not have, and what
// to do instead.
func Unregistered[T any](operation, tool string, tools map[string]T, instead string) error {
	err := fmt.Sprintf("sluice: %stool %s is not registered: %s", operation, Quote(tool), instead)
	if near, ok := Meant(tool, tools).(Names); ok {
		err += "; " + near.Error()
	}
	return errors.New(err)
}

// Nearest is the few of names that are nearest to one that is none of them; nil if none is near.
func Nearest(name string, names iter.Seq[string]) Names {
	if len(name) > maxNameLen {
		return nil
	}
	type near struct {
		name string
		far  int
	}
	var list []near
	folded := string(jsonx.AppendFolded(nil, name))
	for n := range names {
		if far := distance(folded, string(jsonx.AppendFolded(nil, n))); far >= 0 {
			list = append(list, near{n, far})
		}
	}
	slices.SortFunc(list, func(a, b near) int { return cmp.Or(a.far-b.far, strings.Compare(a.name, b.name)) })
	var out Names
	for _, n := range list[:min(len(list), maxNames)] {
		out = append(out, n.name)
	}
	return out
}

// distance is how far a folded name is from another, in changed, left out and added bytes; -1
// if it is too far to be meant: more than a third of it, or than 3. One that only has more
// before or behind it, as "functions.search" has, is as far as the last that may be meant.
func distance(a, b string) int {
	most := min(max(len(a), len(b))/3, 3)
	short, long := a, b
	if len(short) > len(long) {
		short, long = long, short
	}
	if len(long)-len(short) <= most {
		if d := editDistance(a, b); d <= most {
			return d
		}
	}
	if len(short) >= 4 && (strings.HasPrefix(long, short) || strings.HasSuffix(long, short)) {
		return most
	}
	return -1
}

// editDistance counts bytes to change, leave out or add (Levenshtein 1966), and two that
// have changed places as one (Damerau 1964).
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			d := min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			row[j+1] = d
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
