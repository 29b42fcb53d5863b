//go:build !race

// The race detector allocates for its own purposes.

package upstream

import (
	"net/http"
	"testing"
)

// Most responses say nothing, and are not to pay for being asked.
func TestParse_AllocatesNothingForQuietResponses(t *testing.T) {
	for name, h := range map[string]http.Header{
		"nothing":     header("Content-Type: application/json", "Date: Mon, 02 Mar 2026 15:04:05 GMT", "X-Request-Id: abc"),
		"retry-after": header("Date: Mon, 02 Mar 2026 15:04:05 GMT", "Retry-After: Mon, 02 Mar 2026 15:05:05 GMT"),
	} {
		if n := testing.AllocsPerRun(100, func() { Parse(h, 429, now) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}
