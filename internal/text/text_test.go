package text

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestTextIsShortAndOnOneLine(t *testing.T) {
	for _, c := range []struct{ name, got, want string }{
		{"cut", Cut("abcdef", 3), "abc…"},
		{"not cut", Cut("abc", 3), "abc"},
		{"not inside a character", Cut("aé", 2), "a…"},
		{"of nothing that begins a character", Cut("\xa9\xa9\xa9", 2), "…"},
		{"line", Line("plain é"), "plain é"},
		{"line of several", Line("a\nb"), `"a\nb"`},
		{"line that turns round", Line("a\u202e"), `"a\u202e"`},
		{"line that is no text", Line("a\xff"), `"a\xff"`},
		{"line, cut", Line(strings.Repeat("a", 600)), strings.Repeat("a", 512) + "…"},
		{"line of several, cut", Line("\n" + strings.Repeat("a", 600)), `"\n` + strings.Repeat("a", 511) + `…"`},
		{"quote", Quote("a\"\n"), `"a\"\n"`},
		{"quote, cut", Quote(strings.Repeat("a", 200)), `"` + strings.Repeat("a", 128) + `…"`},
		{"of an error", Of(io.EOF), "EOF"},
		{"of one that panics", Of((*panics)(nil)), "*text.panics, whose Error method panicked"},
		{"short", Short(errors.New("a\nb")).Error(), `"a\nb"`},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, c.got, c.want)
		}
	}
	if !errors.Is(Short(io.EOF), io.EOF) {
		t.Error("the error behind a short one is lost")
	}
}

type panics struct{ text string }

func (p *panics) Error() string { return p.text }
