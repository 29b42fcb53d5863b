package breaker

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// end has a call of b end so.
func (p *paper) end(b *Breaker, o Outcome) {
	x, _ := b.Take(p.now)
	b.Done(p.now, x, o)
}

// others has b hear that others have met so many failures in a row; none of one who has taken that back.
func (p *paper) others(b *Breaker, rows ...uint32) {
	for i, row := range rows {
		b.HearVote(p.now, string(rune('r'+i)), row, min(1, int64(row))*rowTold)
	}
}

// A success ends the rows that it came after, not those that begin when it is over and was nothing to tell any more.
func TestMember_ASuccessEndsWhatWasBefore(t *testing.T) {
	var p paper
	b := p.member("a", 2, five)
	p.others(b, 4, 4)
	p.end(b, Success)
	p.others(b, 0, 0)
	_, more := b.Errand(p.now, [16]byte{1})
	require.False(t, more, "they have found out by themselves")
	p.others(b, 4, 4)
	_, more = b.Errand(p.now, [16]byte{2})
	require.False(t, more)

	p.end(b, Success)
	p.now += rowTold
	require.False(t, b.Begin(p.now), "they count no more")
	p.others(b, 4, 4)
	_, more = b.Errand(p.now, [16]byte{3})
	require.False(t, more)
}

// A success is told before failures that came after it and before it could be told, and those do not open all together
// with what it has ended. They count on.
func TestMember_ASuccessComesFirst(t *testing.T) {
	for failures := 1; failures <= 5; failures++ {
		var p paper
		b := p.member("a", 2, five)
		p.others(b, 4, 4, 1)
		p.end(b, Success)
		for range failures {
			p.end(b, Failure)
		}
		e, more := b.Errand(p.now, [16]byte{1})
		require.True(t, more)
		require.Equal(t, Rule{By: "a"}, *e.Rule)
		require.Zero(t, e.Row)
		require.Equal(t, failures == 5, e.Vote > 0, "that it is open can be told at once")
		b.Told(p.now, &e, 1, Done)
		require.Zero(t, b.evidence(p.now))
		e, more = b.Errand(p.now, [16]byte{2})
		require.Equal(t, failures < 5, more)
		require.EqualValues(t, failures%5, e.Row, "its own row, which began after that")
	}
}

// A row of which nobody knows whether it has been told is told again.
func TestMember_AnUnsureRow(t *testing.T) {
	var p paper
	b := p.member("a", 2, five)
	p.end(b, Failure)
	e, _ := b.Errand(p.now, [16]byte{1})
	b.Told(p.now, &e, 0, Unsure)
	p.now += 60 * second
	again, more := b.Errand(p.now, [16]byte{2})
	require.True(t, more)
	require.EqualValues(t, 1, again.Row)
	require.Equal(t, [16]byte{2}, again.Op)
}

// What is there of a row is taken back, also if it is heard late that there was none.
func TestMember_HearsLateOfItsOwnRow(t *testing.T) {
	var p paper
	b := p.member("a", 2, five)
	p.end(b, Failure)
	p.tell(t, b)
	b.HearVote(p.now, "a", 0, 0) // of an earlier one
	b.HearVote(p.now, "a", 1, rowTold)
	p.end(b, Success)
	e, more := b.Errand(p.now, [16]byte{1})
	require.True(t, more)
	require.EqualValues(t, -1, e.Vote)

	b = p.member("a", 2, five)
	p.now += hush
	for range 5 {
		p.end(b, Failure)
	}
	b.HearVote(p.now, "a", 4, rowTold)
	e, more = b.Errand(p.now, [16]byte{2})
	require.True(t, more, "it has opened since")
	require.Zero(t, e.Row)
}

// Who hears first of the end of all rows that it has asked for itself ends no later ones when it is told that it is done.
func TestMember_HearsOfItsSuccessFirst(t *testing.T) {
	var p paper
	b := p.member("a", 2, five)
	p.others(b, 4, 4)
	p.end(b, Success)
	e, _ := b.Errand(p.now, [16]byte{1})
	b.Hear(p.now, *e.Rule, 1, 0, false)
	p.others(b, 1)
	p.end(b, Failure)
	b.Told(p.now, &e, 1, Done)
	require.EqualValues(t, 1, b.evidence(p.now))
	require.EqualValues(t, 1, b.row())
}

// Rows of others hold no room for a key, which is for who is open, and for one's own.
func TestMember_RowsHoldNoRoom(t *testing.T) {
	var p paper
	b := p.member("a", 2, five)
	p.others(b, 4, 4)
	require.Equal(t, past, b.IdleAt())
	b.HearVote(p.now, "b", 0, second)
	require.Equal(t, second, b.IdleAt())
}

// Who opens while a row is being told tells that, too, and counts as open.
func TestMember_OpensWhileItTells(t *testing.T) {
	for _, cooldowns := range []bool{false, true} {
		var p paper
		b := p.member("a", 2, five)
		p.end(b, Failure)
		e, _ := b.Errand(p.now, [16]byte{1})
		for range 4 {
			p.end(b, Failure)
		}
		b.Told(p.now, &e, 1, Done)
		if cooldowns { // so long that there is no time for it
			p.now += second
			p.end(b, Success)
			p.now += second
			e, more := b.Errand(p.now, [16]byte{2})
			require.True(t, more)
			require.EqualValues(t, -1, e.Vote, "what was told is to be taken back")
			continue
		}
		e, more := b.Errand(p.now, [16]byte{2})
		require.True(t, more)
		require.Equal(t, second, e.Vote)
		require.Zero(t, e.Row)
		b.Told(p.now, &e, 2, Done)
		_, more = b.Errand(p.now, [16]byte{3})
		require.False(t, more)
	}
}

// What was done late is there for longer, and is taken back as well.
func TestMember_ARowToldLate(t *testing.T) {
	var p paper
	b := p.member("a", 2, five)
	p.end(b, Failure)
	e, _ := b.Errand(p.now, [16]byte{1})
	p.now += 30 * second
	b.Told(p.now, &e, 0, Done)
	p.now += rowTold - 1
	p.end(b, Success)
	e, more := b.Errand(p.now, [16]byte{2})
	require.True(t, more)
	require.EqualValues(t, -1, e.Vote)
}
