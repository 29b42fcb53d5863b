package check

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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
