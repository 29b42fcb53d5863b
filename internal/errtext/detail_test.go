package errtext

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNamesAndDetailsAreShortAndOnOneLine(t *testing.T) {
	long := strings.Repeat("a", 600)
	for _, c := range []struct{ name, got, want string }{
		{"line", Line("plain é"), "plain é"},
		{"line of several", Line("a\nb"), `"a\nb"`},
		{"line that turns round", Line("a\u202e"), `"a\u202e"`},
		{"line that is no text", Line("a\xff"), `"a\xff"`},
		{"line, cut", Line(long), long[:512] + "…"},
		{"line of several, cut", Line("\n" + long), `"\n` + long[:511] + `…"`},
		{"quote", Quote("a\"\n"), `"a\"\n"`},
		{"quote, cut", Quote(long), `"` + long[:128] + `…"`},
	} {
		assert.Equal(t, c.want, c.got, c.name)
	}
}
