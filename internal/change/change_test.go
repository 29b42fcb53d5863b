package change

import (
	"errors"
	"sync"
	"testing"

	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/stretchr/testify/require"
)

// dial is a component of a stage that has a number.
type dial struct {
	ref  stage.Ref
	mu   sync.Mutex
	n    int
	does func(string) // is told what becomes of a change
}

// to is the change to n: zero means 7, a negative number is wrong, and none can be less than it was.
func (d *dial) to(n int) Change {
	return &Config[int]{Of: d, Ref: &d.ref, Mu: &d.mu, Conf: &d.n, To: n,
		Complete: func(n int) (int, error) {
			if n < 0 {
				return n, errors.New("negative")
			}
			if n == 0 {
				n = 7
			}
			return n, nil
		},
		Fits: func(was int, to *int) error {
			d.does("fits")
			if *to < was {
				return errors.New("less")
			}
			return nil
		},
		Turn: func(lk *Locked, s *stage.Stage, now int64, was, to int) {
			d.does("turn")
			lk.Changed(s, "dial", string(rune('0'+was)), string(rune('0'+to)))
		}}
}

// client is who lists a dial, and hears of it.
type client struct {
	d     *dial
	heard []stage.Notice
}

func (c *client) Members() []stage.Member { return []stage.Member{{Ref: &c.d.ref, Name: "dial"}} }
func (c *client) Names() []string         { return nil }
func (c *client) Hear(n *stage.Notice)    { c.heard = append(c.heard, *n) }
func (c *client) Missed()                 {}

func (c *client) Has(rules.Kind, string) bool { return false }

func (c *client) Listeners([]stage.Client) []stage.Listener { return []stage.Listener{c} }

// Foreign checks come first, then the library's, then all is applied, and foreign changes come last.
func TestAllIsOneAfterTheOther(t *testing.T) {
	var did []string
	note := func(what string) { did = append(did, what) }
	d := &dial{n: 3, does: note}
	c := &client{d: d}
	_, err := stage.Join(c, stage.Order{})
	require.NoError(t, err)
	mine := new(int)
	require.NoError(t, All("me", []Change{
		d.to(0), Own(mine, func() error { note("mine fits"); return nil }, func() { note("mine"); *mine = 1 }),
	}))
	require.Equal(t, []string{"mine fits", "fits", "turn", "mine"}, did)
	require.Equal(t, 7, d.n, "the default")
	require.Equal(t, 1, *mine)
	require.Len(t, c.heard, 1)
	n := c.heard[0]
	require.Equal(t, []string{"dial", "3", "7", "me"}, []string{n.By, n.From, n.To, n.Actor})
	require.Equal(t, stage.Changed, n.Kind)
}

// A change that is not possible, wherever it stands, leaves all others undone.
func TestNothingChangesIfOneCannot(t *testing.T) {
	quiet := func(string) {}
	mine := new(int)
	for _, tt := range []struct {
		name, want string
		wrong      func(d *dial) Change
	}{
		{"zero", "sluice: Reconfigure: change 2 is the zero Change: make one with a Change method", func(*dial) Change { return nil }},
		{"wrong", "negative", func(d *dial) Change { return (&dial{does: quiet}).to(-1) }},
		{"unfit", "less", func(d *dial) Change { return (&dial{n: 9, does: quiet}).to(8) }},
		{"second", "sluice: Reconfigure: change 2 is the second of one component: there must be one for each",
			func(d *dial) Change { return d.to(5) }},
		{"second of others", "sluice: Reconfigure: change 2 is the second of one component: there must be one for each",
			func(*dial) Change { return Own(mine, nil, func() {}) }},
		{"mine does not fit", "no", func(*dial) Change { return Own(new(int), func() error { return errors.New("no") }, func() {}) }},
		{"without a function", "sluice: NewChange: apply is nil: must be a function", func(*dial) Change { return Own(new(int), nil, nil) }},
		{"not to be compared", "sluice: NewChange: the component is []int: must be one that can be compared, as a pointer",
			func(*dial) Change { return Own([]int{}, nil, func() {}) }},
		{"no component", "sluice: NewChange: the component is <nil>: must be one that can be compared, as a pointer",
			func(*dial) Change { return Own(nil, nil, func() {}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &dial{n: 3, does: quiet}
			*mine = 0
			require.EqualError(t, All("me", []Change{d.to(4), Own(mine, nil, func() { *mine = 1 }), tt.wrong(d)}), tt.want)
			require.Equal(t, []int{3, 0}, []int{d.n, *mine}, "as they were")
		})
	}
}

// Changes of components of several stages, in any order and by several goroutines, do not wait for each
// other for ever, and each finds what the one before has left.
func TestChangesOfSeveralStages(t *testing.T) {
	quiet := func(string) {}
	a, b := &dial{n: 1, does: quiet}, &dial{n: 1, does: quiet}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				list := []Change{a.to(1 + i%2), b.to(1 + i%2)}
				if i%4 < 2 {
					list[0], list[1] = list[1], list[0]
				}
				if err := All("", list); err != nil && err.Error() != "less" {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, []int{2, 2}, []int{a.n, b.n}, "both, or neither")
}
