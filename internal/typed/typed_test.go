package typed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// touchy panics at any JSON but a number.
type touchy struct{ n int }

func (x *touchy) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		panic("a text")
	}
	return json.Unmarshal(b, &x.n)
}

// A function gets the value that was accepted, the zero value for nil, and answers nothing with an error.
func TestFuncOfAnyValues(t *testing.T) {
	failed := errors.New("failed")
	f := Func(func(_ context.Context, n int) (string, error) {
		if n == 0 {
			return "half", failed
		}
		return fmt.Sprint(n), nil
	})
	v, err := f(t.Context(), 7)
	require.NoError(t, err)
	require.Equal(t, "7", v)
	v, err = f(t.Context(), nil)
	require.Equal(t, failed, err)
	require.Nil(t, v)
}

func TestAccepts(t *testing.T) {
	require.True(t, Accepts[int](1))
	require.False(t, Accepts[int](int64(1)))
	require.False(t, Accepts[int](nil))
	require.False(t, Accepts[*int](nil))
	require.True(t, Accepts[any](nil))
	require.True(t, Accepts[error](nil))
	require.True(t, Accepts[error](errors.New("x")))
	require.False(t, Accepts[error]("x"))
}

func TestDecode(t *testing.T) {
	v, err := Decode[[]int](json.RawMessage(`[1,2]`))
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, v)
	v, err = Decode[int](json.RawMessage(`"x"`))
	require.ErrorContains(t, err, "sluice: decoding a result as int: json: cannot unmarshal")
	require.Nil(t, v)
	v, err = Decode[touchy](json.RawMessage(`"x"`))
	require.EqualError(t, err, "sluice: decoding a result as typed.touchy: it panicked")
	require.Nil(t, v)
}

// An answer is itself, or comes from its JSON; only what is neither is an error.
func TestAnswer(t *testing.T) {
	n, err := Answer[int]("x", 7)
	require.NoError(t, err)
	require.Equal(t, 7, n)
	n, err = Answer[int]("x", json.RawMessage(`8`))
	require.NoError(t, err)
	require.Equal(t, 8, n)
	raw, err := Answer[json.RawMessage]("x", json.RawMessage(`{`))
	require.NoError(t, err, "asked for as it is")
	require.Equal(t, json.RawMessage(`{`), raw)
	n, err = Answer[int]("x", nil)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = Answer[int]("x", json.RawMessage(`{`))
	require.ErrorContains(t, err, "sluice: decoding a result as int: unexpected end")
	require.Zero(t, n)
	_, err = Answer[int]("x", "seven")
	require.EqualError(t, err, `sluice: tool "x" answered string: want int, was it replaced?`)
}
