package eventtext

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a layer says has a kind of its own, and a few plain attributes; else the error says what is wrong.
func TestCheck_SaysWhatIsWrong(t *testing.T) {
	for _, kind := range []string{"cache.hit", "a.b", "a1_.b_2.c", strings.Repeat("a", 62) + ".b"} {
		_, err := Check(kind, nil)
		assert.NoError(t, err, kind)
	}
	for _, kind := range []string{"", "cache", ".a", "a.", "a..b", "a.1", "1.a", "a._b", "A.b", "a.B", "a-b.c", "a.b ", "ä.b", strings.Repeat("a", 63) + ".b"} {
		_, err := Check(kind, nil)
		assert.ErrorContains(t, err, "must be words of [a-z0-9_]", kind)
	}
	for kind := range own {
		assert.True(t, isKind(kind), kind)
		_, err := Check(kind, nil)
		assert.EqualError(t, err, `the kind "`+kind+`" is one of the library's: must be another`)
	}
	many := make([]slog.Attr, MaxAttrs+1)
	for i := range many {
		many[i] = slog.Int(string(rune('a'+i)), i)
	}
	_, err := Check("a.b", many[1:])
	assert.NoError(t, err)
	for want, attrs := range map[string][]slog.Attr{
		"it has 17 attributes: must have at most 16":                         many,
		`the key of attribute 0 is "": must have from 1 to 64 bytes`:         {{}},
		`the key of attribute 1 is "` + strings.Repeat("k", 64) + `…": must`: {slog.Int("a", 1), slog.Int(strings.Repeat("k", 65), 1)},
		`it has attribute "a" twice: must have each once`:                    {slog.Int("a", 1), slog.Int("b", 1), slog.Int("a", 2)},
		`attribute "a" is a Any: must be a string`:                           {slog.Any("a", errors.New("x"))},
		`attribute "a" is a Group: must be a string`:                         {slog.Group("a", "b", 1)},
		`attribute "a" is a LogValuer: must be a string`:                     {slog.Any("a", valuer{t})},
	} {
		_, err := Check("a.b", attrs)
		assert.ErrorContains(t, err, want)
	}
}

// valuer must not be asked.
type valuer struct{ t *testing.T }

func (v valuer) LogValue() slog.Value { v.t.Error("asked"); return slog.Value{} }

// The answer is a copy, with long texts cut.
func TestCheck_Copies(t *testing.T) {
	given := []slog.Attr{slog.String("a", strings.Repeat("x", 257)), slog.Int("b", 1)}
	list, err := Check("a.b", given)
	require.NoError(t, err)
	given[1] = slog.Int("b", 2)
	assert.Equal(t, strings.Repeat("x", 256)+"…", list[0].Value.String())
	assert.Equal(t, int64(1), list[1].Value.Int64())
}

// JSON has them as an object and logs as a group; of an event that was made by hand what is not plain is left
// out.
func TestAttrs_AreWritten(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	e := Event{Kind: "cache.hit", InCall: true, ID: "c", Attrs: []slog.Attr{
		slog.String("s", "a\nb\u202e"), slog.Int("i", -1), slog.Uint64("u", math.MaxUint64), slog.Float64("f", 1e21), slog.Bool("b", true),
		slog.Time("t", at), slog.Duration("d", 1500*time.Microsecond), slog.Float64("nan", math.NaN()), slog.Float64("inf", math.Inf(-1)),
		slog.Any("secret", struct{ S string }{"canary"}), slog.Any("asked", valuer{t}),
	}}
	b := AppendJSON(nil, &e)
	require.True(t, json.Valid(b), "%s", b)
	assert.Contains(t, string(b), `,"attrs":{"s":"a\nb\u202e","i":-1,"u":18446744073709551615,"f":1e+21,"b":true,"t":"2026-01-02T03:04:05.000000006Z","d":1.5,"nan":"NaN","inf":"-Inf"}}`)
	text := slog.GroupValue(Attrs(nil, &e)...).String()
	assert.Contains(t, text, "attrs=[s=a\nb\u202e i=-1")
	assert.NotContains(t, text, "canary")

	e.Attrs = []slog.Attr{slog.Any("secret", &e)}
	assert.NotContains(t, string(AppendJSON(nil, &e)), "attrs")
	assert.NotContains(t, slog.GroupValue(Attrs(nil, &e)...).String(), "attrs")
	e.Attrs = nil
	for range 2 * MaxAttrs {
		e.Attrs = append(e.Attrs, slog.String(strings.Repeat("k", 999), strings.Repeat("v", 9999)))
	}
	b = AppendJSON(nil, &e)
	assert.True(t, json.Valid(b))
	assert.Less(t, len(b), MaxAttrs*(64+256+16)+300)
}

// A log minds failures, panics more, and attempts that are abandoned.
func TestLevel(t *testing.T) {
	level := func(kind string, code errtext.Code) slog.Level {
		return (&Event{Kind: kind, Step: StepOf(kind), Code: code}).level()
	}
	for kind := range own {
		want := slog.LevelDebug
		switch kind {
		case "tool.failed", "tool.denied":
			want = slog.LevelWarn
			assert.Equal(t, slog.LevelError, level(kind, "panic"))
			assert.Equal(t, slog.LevelError, level(kind, "goexit"))
		case "tool.abandoned":
			want = slog.LevelWarn
		}
		assert.Equal(t, want, level(kind, ""), kind)
		assert.Equal(t, want, level(kind, "timeout"), kind)
	}
	assert.Equal(t, slog.LevelDebug, level("cache.hit", "panic"))
}
