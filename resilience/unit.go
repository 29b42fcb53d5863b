package resilience

import (
	"fmt"
	"time"
)

// unit refuses a time that can only be one whose unit was forgotten, as the root package does: less than a
// microsecond.
func unit(field string, d time.Duration) error {
	if d > 0 && d < time.Microsecond {
		return fmt.Errorf("resilience: %s is %v: must be at least %v; a Duration without a unit? %d seconds are %[4]d*time.Second",
			field, d, time.Microsecond, int64(d))
	}
	return nil
}
