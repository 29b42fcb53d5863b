// Package check holds what several packages demand of the fields of a configuration, so that
// a wrong one is refused in the same words everywhere.
//
// A function gets the field's name as it is to stand in the error, with the package before it:
// "sluice: Config.Timeout". Nothing here keeps or changes anything.
package check

import (
	"fmt"
	"time"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// MaxDuration bounds configured durations, so that sums of instants cannot overflow.
const MaxDuration = 10 * 365 * 24 * time.Hour

// Duration refuses what is negative, longer than MaxDuration, or has no unit; see [Unit].
func Duration(field string, d time.Duration) error {
	if d < 0 || d > MaxDuration {
		return fmt.Errorf("%s is %v: must be zero or positive, up to %v", field, d, MaxDuration)
	}
	return Unit(field, d)
}

// Unit refuses what only a Duration can be whose unit was forgotten: less than a microsecond.
func Unit(field string, d time.Duration) error {
	if d > 0 && d < time.Microsecond {
		return fmt.Errorf("%s is %v: must be at least %v; a Duration without a unit? %d seconds are %[4]d*time.Second",
			field, d, time.Microsecond, int64(d))
	}
	return nil
}

// maxName is how many bytes a name can have.
const maxName = 128

// Name refuses a name that is long, or that cannot be printed as it is.
func Name(field, name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%s has %d bytes: must have at most %d", field, len(name), maxName)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == 0xfffd || jsonx.Unsafe(r) {
			return fmt.Errorf("%s %q has a control character: must be printable", field, name)
		}
	}
	return nil
}
