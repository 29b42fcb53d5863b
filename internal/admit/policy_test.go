package admit

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// Policies are equal if all that they say is: no field is left out.
func TestPoliciesAreEqual(t *testing.T) {
	whole := func() Policy {
		return Policy{Ordered: true, Ageing: 1, Claim: 2, MaxQueue: 3, MaxPerTenant: 4, RefuseLate: true, Standing: true,
			Shed: true, Weights: map[string]int{"a": 5}, HandOff: true}
	}
	a, b := whole(), whole()
	require.True(t, a.Equal(&b))
	for i := range reflect.TypeFor[Policy]().NumField() {
		b := whole()
		f := reflect.ValueOf(&b).Elem().Field(i)
		require.False(t, f.IsZero(), "field %d of the whole", i)
		f.SetZero()
		require.False(t, a.Equal(&b), reflect.TypeFor[Policy]().Field(i).Name)
		require.False(t, b.Equal(&a), reflect.TypeFor[Policy]().Field(i).Name)
	}
	b.Weights = map[string]int{"a": 6}
	require.False(t, a.Equal(&b), "another weight")
	none, empty := Policy{}, Policy{Weights: map[string]int{}}
	require.True(t, none.Equal(&empty), "of no weights")
}
