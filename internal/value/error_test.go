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

// Who has no store, or one that is closed, learns which of them it is.
func TestUnusableStoresSayWhy(t *testing.T) {
	reason := errors.New("no state")
	v := newTest(t)
	require.NoError(t, Usable(&v, "k", reason))
	for _, tt := range []struct {
		v    *kv.View
		want string
	}{{nil, "the context has none: use the context that a tool gets, or WithState"}, {new(kv.View), "the SharedState was not made by NewSharedState"}, {&v, kv.Closed.Error()}} {
		if tt.v != nil {
			tt.v.Close()
		}
		err := Usable(tt.v, "k", reason)
		require.ErrorIs(t, err, reason)
		require.EqualError(t, err, `sluice: shared state key "k": no state: `+tt.want)
	}
}

// A snapshot that is none changes nothing, and neither does one that does not fit: the first says what
// it is, the second is a code.
func TestRestoreFailsAsAWhole(t *testing.T) {
	v := New(1, 1<<20)
	defer v.Close()
	require.EqualError(t, Restore(&v, []byte("[]")), "sluice: shared state snapshot: it is no object")
	require.Equal(t, kv.Full, Restore(&v, []byte(`{"keys":{"a":{"value":1},"b":{"value":2}}}`)))
	data, err := Marshal(&v)
	require.NoError(t, err)
	require.JSONEq(t, `{"version":0,"keys":{}}`, string(data))
}
