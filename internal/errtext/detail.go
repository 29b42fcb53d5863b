package errtext

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// What an error shows at most, in bytes, of a name or key and of a detail behind it.
const (
	maxQuote  = 128
	maxDetail = 512
)

// Quote is a name or key as an error shows it: cut, quoted, and so on one line.
func Quote(name string) string { return strconv.Quote(jsonx.Cut(name, maxQuote, "…")) }

// Line is the detail of an error: cut, and on one line, quoted unless all of it can be printed.
func Line(detail string) string {
	s := jsonx.Cut(detail, maxDetail, "…")
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
