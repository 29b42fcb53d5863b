package jsonx

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever a text holds, it is one JSON string, says the same if it is UTF-8, and shows no
// character that a terminal would act on.
func FuzzStringsAreSafeAndSayTheSame(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\xff\u2028", "\u202e\x00", "\\\"\x7f", "é\U000e0041", strings.Repeat("é", 9)} {
		f.Add(s, 7)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(limit, 0)
		b := AppendString(nil, s, limit)
		if n, _, ok := String(b); !ok || n != len(b) {
			t.Fatalf("String measures %d of %q", n, b)
		}
		var back string
		if err := json.Unmarshal(b, &back); err != nil || !utf8.Valid(b) {
			t.Fatalf("%q: %v", b, err)
		}
		require.False(t, strings.ContainsFunc(string(b), func(r rune) bool { return r < ' ' || r == 0x7f || Unsafe(r) }),
			"%q is not safe", b)
		require.Equal(t, back, string(Unescape(b[1:len(b)-1])), "Unescape")
		if want := Cut(s, limit, "…"); utf8.ValidString(want) && back != want {
			t.Fatalf("got %q, want %q", back, want)
		}
	})
}

// What String, Number and Word measure is what encoding/json takes.
func FuzzTokensAreThoseOfEncodingJSON(f *testing.F) {
	for _, s := range []string{`"a\u00e9\n"`, `"\ud800\udc00"`, `"\ud800"`, `"\x"`, `"a`, "\"\n\"", `-0.5e+3`, `01`, `1.`, `1e`, `-`, `true`, `nul`, `"\`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		if len(s) == 0 {
			return
		}
		n, ok := 0, false
		switch c := s[0]; {
		case c == '"':
			n, _, ok = String(s)
			if n > len(s) || ok && Paired(s[1:n-1]) < 0 != !strings.Contains(string(Unescape(s[1:n-1])), "\ufffd") &&
				!strings.Contains(string(s), "\ufffd") && !strings.Contains(strings.ToLower(string(s)), `\ufffd`) {
				t.Fatalf("%q: %d", s, n)
			}
		case c == '-' || c >= '0' && c <= '9':
			n, _, ok = Number(s)
		case c == 't' || c == 'f' || c == 'n':
			n = Word(s)
			ok = n > 0
		default:
			return
		}
		require.Equal(t, (json.Valid(s) && Space(s) == 0 && s[len(s)-1] > ' '), ok && n == len(s),
			"%q: %d of %d bytes, %v", s, n, len(s), ok)
	})
}

func TestNumbersSayWhereADigitIsMissing(t *testing.T) {
	for s, want := range map[string]struct {
		n         int
		whole, ok bool
	}{
		"":       {0, false, false},
		"-":      {1, false, false},
		"0":      {1, true, true},
		"01":     {1, true, true},
		"-12":    {3, true, true},
		"1.":     {2, false, false},
		"1.50":   {4, false, true},
		"1e+":    {3, false, false},
		"1E-7,2": {4, false, true},
	} {
		n, whole, ok := Number([]byte(s))
		assert.Equal(t, want.n, n, "%q", s)
		assert.Equal(t, want.whole, whole, "%q", s)
		assert.Equal(t, want.ok, ok, "%q", s)
	}
}

func TestTimesAreWrittenSoThatTextSortsAsTime(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 80_000_000, time.FixedZone("", 3600))
	for _, tt := range []struct{ got, want string }{
		{string(AppendTime(nil, at)), "2026-03-04T04:06:07.080000000Z"},
		{string(AppendTime(nil, at.Truncate(time.Second))), "2026-03-04T04:06:07.000000000Z"},
		{string(AppendTime(nil, at.Add(1))), "2026-03-04T04:06:07.080000001Z"},
		{string(AppendMillis(nil, 1500*time.Microsecond)), "1.5"},
		{string(AppendMillis(nil, 1)), "0.000001"},
		{string(AppendMillis(nil, -time.Hour)), "0"},
		{string(AppendMillis(nil, time.Hour)), "3600000"},
		{string(AppendFolded(nil, "X-Api_Key ſ\u200bK.a")), "xapikeyska"},
	} {
		assert.Equal(t, tt.want, tt.got)
	}
}

// A cut never splits a character, and says that it was made.
func TestCutsAreMarkedAndWhole(t *testing.T) {
	for n, want := range []string{"…", "…", "é…", "é…", "éé"} {
		assert.Equal(t, want, Cut("éé", n, "…"), "%d", n)
	}
}
