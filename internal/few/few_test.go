package few

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestList(t *testing.T) {
	var l List[int]
	for i := range 9 {
		l.Add(i * i)
	}
	for i := range 9 {
		assert.Equal(t, i*i, l.At(i), "value %d", i)
	}
	few := func() {
		var l List[string]
		for range 4 {
			l.Add("a")
		}
		_ = l.At(3)
	}
	assert.Zero(t, testing.AllocsPerRun(100, few), "allocations for four values")
}

func TestIndexAddsWhatIsNotThere(t *testing.T) {
	var list []string
	for _, v := range []string{"a", "b", "a", "c", "b"} {
		i := Index(&list, v)
		assert.Equal(t, v, list[i])
	}
	assert.Equal(t, []string{"a", "b", "c"}, list)
}

// A list is made value by value, and of none there is none.
func TestMapMakesEachValue(t *testing.T) {
	double := func(i int) string { return strconv.Itoa(2 * i) }
	assert.Equal(t, []string{"2", "4", "2"}, Map([]int{1, 2, 1}, double))
	assert.Equal(t, []string{}, Map([]int{}, double))
	assert.Nil(t, Map(nil, double))
}
