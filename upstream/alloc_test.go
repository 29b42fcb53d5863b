//go:build !race

// The race detector allocates for its own purposes.

package upstream

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Most responses say nothing, and are not to pay for being asked.
func TestParse_AllocatesNothingForQuietResponses(t *testing.T) {
	for name, h := range map[string]http.Header{
		"nothing":     header("Content-Type: application/json", "Date: Mon, 02 Mar 2026 15:04:05 GMT", "X-Request-Id: abc"),
		"retry-after": header("Date: Mon, 02 Mar 2026 15:04:05 GMT", "Retry-After: Mon, 02 Mar 2026 15:05:05 GMT"),
	} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { Parse(h, 429, now) }), "%s: allocations", name)
	}
}
