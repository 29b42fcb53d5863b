package value

import (
	"errors"
	"testing"

	"github.com/sluice-go/sluice/internal/kv"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An error of the store gets its reason; one of the user's passes.
func TestErrorsSayTheirKeyAndReason(t *testing.T) {
	conflict, wrong := errors.New("conflict"), errors.New("wrong type")
	reasons := []error{kv.Conflict: conflict, kv.WrongType: wrong}
	err := Explain("a\nb", kv.Conflict, reasons)
	require.ErrorIs(t, err, conflict)
	require.EqualError(t, err, `sluice: shared state key "a\nb": conflict: `+kv.Conflict.Error())
	require.ErrorIs(t, Explain("k", new(Mismatch), reasons), wrong)
	mine := errors.New("mine")
	assert.Same(t, mine, Explain("k", mine, reasons))
	require.NoError(t, Explain("k", nil, reasons))
	require.EqualError(t, &Error{Reason: wrong}, "sluice: shared state: wrong type")
}
