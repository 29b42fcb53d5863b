package few

import (
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
