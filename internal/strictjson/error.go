package strictjson

import (
	"errors"
	"strconv"
	"strings"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// Error says what is wrong and where. It shows no value: not in its text, and not in that of
// an error behind it, which can be asked for by Is and As alone.
type Error struct {
	Path   string // like $.items[3].name; at most 256 bytes, ASCII
	Reason string // "is a number: must be a string"
	cause  error  // of the method that reads or writes the value at Path, or nil
}

func (e *Error) Error() string { return e.Path + " " + e.Reason }

// Is reports whether the method's error is target.
func (e *Error) Is(target error) bool { return e.cause != nil && errors.Is(e.cause, target) }

// As finds the method's error by its type.
func (e *Error) As(target any) bool { return e.cause != nil && errors.As(e.cause, target) }

const (
	maxPath = 256
	maxKey  = 64
)

// within moves e into the value at a key or index of its parent.
func (e *Error) within(segment string) {
	e.Path = "$" + segment + strings.TrimPrefix(e.Path, "$")
	if len(e.Path) > maxPath {
		e.Path = e.Path[:maxPath/2-3] + "..." + e.Path[len(e.Path)-maxPath/2:]
	}
}

func keySegment(key []byte) string {
	for i, c := range key {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') || i == maxKey {
			return "[" + quote(key) + "]"
		}
	}
	if len(key) == 0 {
		return `[""]`
	}
	return "." + string(key)
}

// ordinalSegment stands for a key that may not be shown, counted from 1.
func ordinalSegment(i int) string { return "[key " + strconv.Itoa(i) + "]" }

func indexSegment(i int) string { return "[" + strconv.Itoa(i) + "]" }

// quote shows a key so that it cannot pass for another: in ASCII, and cut.
func quote(key []byte) string { return strconv.QuoteToASCII(jsonx.Cut(string(key), maxKey, "...")) }
