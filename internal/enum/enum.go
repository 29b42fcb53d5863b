// Package enum names the values of small numbered types, in text and back.
//
// It keeps nothing and locks nothing.
package enum

import (
	"fmt"
	"slices"

	"github.com/sluice-go/sluice/internal/errtext"
)

// Names are what the values of T are called, from zero on.
type Names[T ~uint8] struct {
	Type string
	List []string
}

// Text is the name of v, or what stands for one where v is none of T's values.
func (n *Names[T]) Text(v T) string {
	if int(v) < len(n.List) {
		return n.List[v]
	}
	return fmt.Sprintf("%s(%d)", n.Type, uint8(v))
}

// Read makes v the value that has a name. It fails if none has, and leaves v as it is.
func (n *Names[T]) Read(name []byte, v *T) error {
	i := slices.Index(n.List, string(name))
	if i < 0 {
		return fmt.Errorf("sluice: %s is %s: must be one of %q", n.Type, errtext.Quote(string(name)), n.List)
	}
	*v = T(i)
	return nil
}
