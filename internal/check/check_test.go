package check

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDurationsAreRefusedInOneWording(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{0, "<nil>"},
		{time.Microsecond, "<nil>"},
		{MaxDuration, "<nil>"},
		{-1, "x.Wait is -1ns: must be zero or positive, up to 87600h0m0s"},
		{MaxDuration + 1, "x.Wait is 87600h0m0.000000001s: must be zero or positive, up to 87600h0m0s"},
		{30, "x.Wait is 30ns: must be at least 1µs; a Duration without a unit? 30 seconds are 30*time.Second"},
	} {
		assert.Equal(t, tt.want, fmt.Sprint(Duration("x.Wait", tt.d)), "Duration(%d)", tt.d)
	}
}

func TestUnitLeavesNegativeDurationsToItsCaller(t *testing.T) {
	for _, d := range []time.Duration{-1, 0, time.Microsecond, MaxDuration + 1} {
		assert.NoError(t, Unit("x.Wait", d), "Unit(%d)", d)
	}
}

func TestNamesAreShortAndPrintable(t *testing.T) {
	for name, want := range map[string]string{
		"":                       "<nil>",
		"größe 2":                "<nil>",
		strings.Repeat("x", 128): "<nil>",
		strings.Repeat("x", 129): "x.Name has 129 bytes: must have at most 128",
		"a\nb":                   `x.Name "a\nb" has a control character: must be printable`,
		"a\u202eb":               `x.Name "a\u202eb" has a control character: must be printable`,
		"a\xff":                  `x.Name "a\xff" has a control character: must be printable`,
	} {
		assert.Equal(t, want, fmt.Sprint(Name("x.Name", name)), "%q", name)
	}
}

func TestNumbersAndDurationsHaveDefaults(t *testing.T) {
	for n, want := range map[int]string{
		0:  "7 <nil>",
		9:  "9 <nil>",
		-1: "-1 x.Max is -1: must be zero (7) or positive, up to 9",
		10: "10 x.Max is 10: must be zero (7) or positive, up to 9",
	} {
		err := Count("x.Max", &n, 7, 9)
		assert.Equal(t, want, fmt.Sprint(n, " ", err))
	}
	n := -1
	assert.EqualError(t, Count("x.Max", &n, 7, math.MaxInt), "x.Max is -1: must be zero (7) or positive")
	for d, want := range map[time.Duration]string{
		0:               "1m0s <nil>",
		time.Second:     "1s <nil>",
		-1:              "-1ns x.Wait is -1ns: must be zero (1m0s) or positive, up to 87600h0m0s",
		30:              "30ns x.Wait is 30ns: must be at least 1µs; a Duration without a unit? 30 seconds are 30*time.Second",
		MaxDuration + 1: "87600h0m0.000000001s x.Wait is 87600h0m0.000000001s: must be zero (1m0s) or positive, up to 87600h0m0s",
	} {
		err := Span("x.Wait", &d, time.Minute)
		assert.Equal(t, want, fmt.Sprint(d, " ", err))
	}
}

func TestToolsHaveNamesThatModelsTake(t *testing.T) {
	for name, want := range map[string]string{
		"a-Z_0.9":                "<nil>",
		"":                       `x.Name "" has 0 bytes: must have 1 to 128`,
		"a b":                    `x.Name "a b" has ' ' at 1: must be of A-Z a-z 0-9 _ . -`,
		strings.Repeat("x", 129): `x.Name "` + strings.Repeat("x", 128) + `…" has 129 bytes: must have 1 to 128`,
	} {
		assert.Equal(t, want, fmt.Sprint(Tool("x.Name", name)))
	}
}

func TestNotToWaitIsAValueOfItsOwn(t *testing.T) {
	const none = time.Duration(-5)
	for d, want := range map[time.Duration]string{
		none:        "<nil>",
		0:           "<nil>",
		time.Second: "<nil>",
		-1:          "x.Wait is -1ns: must be zero or positive, up to 87600h0m0s, or NoWait",
		30:          "x.Wait is 30ns: must be at least 1µs; a Duration without a unit? 30 seconds are 30*time.Second",
	} {
		assert.Equal(t, want, fmt.Sprint(Wait("x.Wait", d, none)))
	}
}

func TestWhatCannotChange(t *testing.T) {
	require.NoError(t, Same("x.Name", "a", "a"))
	require.EqualError(t, Same("x.Name", "b", "a"), `x.Name is "b": cannot change from "a"`)
	require.NoError(t, SameLength("x.Rates", 2, 2))
	require.EqualError(t, SameLength("x.Rates", 1, 2),
		"x.Rates has 1 entries, the component was made with 2: their number cannot change")
}
