// Package text bounds what foreign code says before it gets into an error or an event: in
// length, in lines, and in that its Error method may panic. It is pure and holds no state.
package text

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Cut keeps at most n bytes of s, and says so. It does not cut inside a character.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// What an error shows at most, in bytes, of a name or key and of what is told behind it.
const (
	maxName   = 128
	maxDetail = 512
)

// Quote is a name or key as an error shows it: cut, quoted, and so on one line.
func Quote(name string) string { return strconv.Quote(Cut(name, maxName)) }

// Line is the detail of an error: cut, and on one line, quoted unless all of it can be printed.
func Line(detail string) string {
	s := Cut(detail, maxDetail)
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// Of is err.Error(), or what there is to say if that panics.
func Of(err error) (s string) {
	defer func() {
		if recover() != nil {
			s = fmt.Sprintf("%T, whose Error method panicked", err)
		}
	}()
	return err.Error()
}

// Short is err with its text as [Line] has it.
func Short(err error) error { return shortError{err} }

type shortError struct{ error }

func (e shortError) Error() string { return Line(Of(e.error)) }
func (e shortError) Unwrap() error { return e.error }
