package stage

import (
	"strings"
	"testing"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/stretchr/testify/assert"
)

// A throttle is about the last of its parts that some limit counts by; what is wider pauses shortly.
func TestAThrottleIsAboutTheNarrowestPart(t *testing.T) {
	type part struct{ Kind, Key string }
	host := &admit.Class{Name: "host"}
	classes := func(kind string) []*admit.Class {
		if kind == "host" {
			return []*admit.Class{host}
		}
		return nil
	}
	for _, tt := range []struct {
		name  string
		parts []part
		want  Aim
	}{
		{"none", nil, Aim{Bound: MaxPause}},
		{"counted", []part{{"host", "a"}}, Aim{[]*admit.Class{host}, "a", MaxPause}},
		{"the last of two", []part{{"host", "a"}, {"host", "b"}}, Aim{[]*admit.Class{host}, "b", MaxPause}},
		{"an earlier one", []part{{"host", "a"}, {"model", "m"}}, Aim{[]*admit.Class{host}, "a", MaxWider}},
		{"not counted", []part{{"model", "m"}}, Aim{Bound: MaxWider}},
		{"ignored", []part{{"host", ""}, {"", "a"}, {"host", strings.Repeat("x", rules.MaxKeyBytes+1)}}, Aim{Bound: MaxPause}},
	} {
		assert.Equal(t, tt.want, Narrowest(tt.parts, classes), tt.name)
	}
}
