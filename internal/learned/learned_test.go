package learned

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestEstimatesFollowWhatCallsUsed(t *testing.T) {
	var c Costs
	assert.Equal(t, int64(1), c.Estimate("tokens"), "before anything is known")
	c.Learn("tokens", 800)
	assert.Equal(t, int64(800), c.Estimate("tokens"), "after the first call")
	c.Learn("tokens", 0)
	assert.Equal(t, int64(700), c.Estimate("tokens"), "an eighth of the way")
	assert.Equal(t, int64(1), c.Estimate("MB"), "of another unit")
	c.Learn("MB", 0)
	assert.Equal(t, int64(1), c.Estimate("MB"), "never less")
}
