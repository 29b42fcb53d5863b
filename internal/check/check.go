// Package check holds what several packages demand of the fields of a configuration, so that
// a wrong one is refused in the same words everywhere.
//
// A function gets the field's name as it is to stand in the error, with the package before it:
// "sluice: Config.Timeout". One that gets a pointer also puts the default where nothing is set.
// Nothing here keeps anything.
package check

import (
	"cmp"
	"fmt"
	"math"
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

// Most demands of d, the most that may come of a time called least, that it is zero, or a time as long as that.
func Most(field string, d time.Duration, least string, than time.Duration) error {
	if d > 0 && d < than {
		return fmt.Errorf("%s is %v: must be zero, or at least %s, which is %v", field, d, least, than)
	}
	return Duration(field, d)
}

// Unit refuses what only a Duration can be whose unit was forgotten: less than a microsecond.
func Unit(field string, d time.Duration) error {
	if d > 0 && d < time.Microsecond {
		return fmt.Errorf("%s is %v: must be at least %v; a Duration without a unit? %d seconds are %[4]d*time.Second",
			field, d, time.Microsecond, int64(d))
	}
	return nil
}

// Percent is what an error adds of a share that somebody may have given in percent.
func Percent(share float64) string {
	if !(share > 1 && share <= 100) {
		return ""
	}
	return fmt.Sprintf("; %v %% is %v", share, share/100)
}

// Wait is Duration for how long a call may wait, where none says that it may not at all.
func Wait(field string, d, none time.Duration) error {
	switch {
	case d == none:
		return nil
	case d < 0:
		return fmt.Errorf("%s is %v: must be zero or positive, up to %v, or NoWait", field, d, MaxDuration)
	}
	return Duration(field, d)
}

// Span completes a duration whose default is def.
func Span(field string, d *time.Duration, def time.Duration) error {
	if *d < 0 || *d > MaxDuration {
		return fmt.Errorf("%s is %v: must be zero (%v) or positive, up to %v", field, *d, def, MaxDuration)
	}
	*d = cmp.Or(*d, def)
	return Unit(field, *d)
}

// Count completes a number whose default, if it has one, is def, and which is at most most.
func Count(field string, n *int, def, most int) error {
	if *n < 0 || *n > most {
		zero, bound := "zero", ""
		if def != 0 {
			zero = fmt.Sprintf("zero (%d)", def)
		}
		if most < math.MaxInt {
			bound = fmt.Sprintf(", up to %d", most)
		}
		return fmt.Errorf("%s is %d: must be %s or positive%s", field, *n, zero, bound)
	}
	*n = cmp.Or(*n, def)
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

// NameOr completes a name whose default is def.
func NameOr(field string, name *string, def string) error {
	err := Name(field, *name)
	*name = cmp.Or(*name, def)
	return err
}

// Tool refuses a name that no tool can have.
func Tool(field, name string) error {
	if len(name) == 0 || len(name) > maxName {
		return fmt.Errorf("%s %q has %d bytes: must have 1 to %d", field, jsonx.Cut(name, maxName, "…"), len(name), maxName)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return fmt.Errorf("%s %q has %q at %d: must be of A-Z a-z 0-9 _ . -", field, name, c, i)
		}
	}
	return nil
}

// Same refuses another text than before.
func Same(field, to, was string) error {
	if to != was {
		return fmt.Errorf("%s is %q: cannot change from %q", field, to, was)
	}
	return nil
}

// Kept refuses a field that is not as it was.
func Kept(field string, same bool) error {
	if !same {
		return fmt.Errorf("%s changes: it cannot change", field)
	}
	return nil
}

// SameLength refuses more or fewer entries than before.
func SameLength(field string, n, was int) error {
	if n != was {
		return fmt.Errorf("%s has %d entries, the component was made with %d: their number cannot change", field, n, was)
	}
	return nil
}
