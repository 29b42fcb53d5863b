package bucket

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	sec    int64 = 1e9
	minute       = 60 * sec
	day          = 24 * 60 * minute
)

func mustRate(t testing.TB, n, per, burst int64) *Rate {
	t.Helper()
	r, err := NewRate(n, per, burst)
	require.NoError(t, err)
	return &r
}

// ceil is a*b/c, rounded up.
func ceil(a, b, c int64) int64 {
	q, rem := new(big.Int).QuoRem(new(big.Int).Mul(big.NewInt(a), big.NewInt(b)), big.NewInt(c), new(big.Int))
	if rem.Sign() > 0 {
		return q.Int64() + 1
	}
	return q.Int64()
}

// balance is what b holds, exactly.
func (b *Bucket) balance(r *Rate, now int64) *big.Rat {
	have := new(big.Rat).SetInt64(r.burst)
	if !b.Full(now) {
		have.Sub(have, r.missing(b.tat, now))
	}
	return have
}

// The n-th token after the burst comes at exactly n*Per/N, rounded up to a nanosecond,
// however many came before.
func TestNoDriftOver100000Tokens(t *testing.T) {
	for _, c := range []struct{ n, per, burst int64 }{
		{3, sec, 2},
		{90_000, minute, 2},
		{90_000, minute, 1000},
		{7, sec, 5},
		{999_999_937, sec, 10},
		{1, day, 2},
		{1, 3, 2},
		{1_000_000_000_000, sec, 2_000},
	} {
		r := mustRate(t, c.n, c.per, c.burst)
		var b Bucket
		now := int64(0)
		for range c.burst {
			require.Equal(t, now, b.Ready(r, now, 1), "%+v: the burst is not there: ready at", c)
			b.Take(r, now, 1)
		}
		for i := range int64(100_000) {
			if c.per == day && i == 3000 {
				break // eight years
			}
			now = b.Ready(r, now, 1)
			if want := ceil(i+1, c.per, c.n); now != want {
				t.Fatalf("%+v: token %d comes at %d, want %d", c, i+1, now, want)
			}
			b.Take(r, now, 1)
		}
	}
}

// With a burst of one nothing can be saved, so each token is at least a whole period, rounded
// up to a nanosecond, after the last one: anything else would be two in less than a period.
func TestBurstOfOne(t *testing.T) {
	for _, c := range []struct{ n, per, period int64 }{
		{3, sec, 333_333_334},
		{90_000, minute, 666_667},
		{1, day, day},
		{1_000_000_000_000, day, 87},
	} {
		r := mustRate(t, c.n, c.per, 1)
		var b Bucket
		b.Take(r, 0, 1)
		for i := range int64(3000) {
			now := b.Ready(r, i*c.period, 1)
			require.Equal(t, (i+1)*c.period, now, "%+v: token %d comes at", c, i+1)
			b.Take(r, now, 1)
		}
	}
}

// model is a token bucket in rational numbers that shares nothing with this package.
type model struct {
	n, per, burst int64
	have          *big.Rat
	at            int64
}

func newModel(n, per, burst int64) *model {
	return &model{n, per, burst, new(big.Rat).SetInt64(burst), 0}
}

func (m *model) pass(now int64) {
	if now > m.at {
		in := new(big.Rat).Mul(new(big.Rat).SetInt64(now-m.at), big.NewRat(m.n, m.per))
		m.have.Add(m.have, in)
		m.at = now
	}
	if top := new(big.Rat).SetInt64(m.burst); m.have.Cmp(top) > 0 {
		m.have = top
	}
}

// ready is the first nanosecond at which k tokens are there.
func (m *model) ready(now, k int64) int64 {
	m.pass(now)
	if k > m.burst {
		return Never
	}
	lack := new(big.Rat).Sub(new(big.Rat).SetInt64(k), m.have)
	if lack.Sign() <= 0 {
		return now
	}
	lack.Mul(lack, big.NewRat(m.per, m.n))
	q, rem := new(big.Int).QuoRem(lack.Num(), lack.Denom(), new(big.Int))
	if rem.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return now + q.Int64()
}

// entry is one thing that happened to a bucket, as an independent replay is told it: a
// charge of n, a cap, or another rate.
type entry struct {
	at, n int64
	what  int
	rate  *model // of another rate
	// of a charge: its handle, and how much was reported above the lowest amount known before
	charge *Charge
	low    int64
	excess int64
}

const (
	charged = iota
	capped
	rated
)

// replay works out the balance at now from the present amounts alone.
func replay(n, per, burst int64, log []*entry, now int64) *model {
	m := newModel(n, per, burst)
	for _, e := range log {
		m.pass(e.at)
		switch e.what {
		case charged:
			m.have.Sub(m.have, new(big.Rat).SetInt64(e.n))
		case capped:
			if one := big.NewRat(1, 1); m.have.Cmp(one) > 0 {
				m.have = one
			}
		case rated:
			m.n, m.per, m.burst = e.rate.n, e.rate.per, e.rate.burst
			m.pass(e.at)
			m.round()
		}
	}
	m.pass(now)
	return m
}

// round makes what is missing a whole number of the instants that the rate knows: 1/n ns.
func (m *model) round() {
	lack := new(big.Rat).Sub(new(big.Rat).SetInt64(m.burst), m.have)
	grains := new(big.Rat).Mul(lack, new(big.Rat).SetInt64(m.per))
	q, rem := new(big.Int).DivMod(grains.Num(), grains.Denom(), new(big.Int))
	if rem.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	lack.SetFrac(q, big.NewInt(m.per))
	m.have.Sub(new(big.Rat).SetInt64(m.burst), lack)
}

// ledger is a bucket, its log, and its charges that are still open.
type ledger struct {
	b             Bucket
	r             *Rate
	n, per, burst int64 // at first
	now           int64
	log           []*entry
	open          []*entry
	changed       bool // the rate
}

const aYear = 365 * day

// step does one random thing and compares the balance with a replay.
func (l *ledger) step(t testing.TB, rng *rand.Rand) {
	t.Helper()
	m := replay(l.n, l.per, l.burst, l.log, l.now)
	period := max(1, m.per/m.n)
	k := 1 + rng.Int64N(m.burst+m.burst/4+1)
	at := l.b.Ready(l.r, l.now, k)
	if want := m.ready(l.now, k); at != want {
		t.Fatalf("at %d: %d tokens are ready at %d, want %d", l.now, k, at, want)
	}
	pick := func() *entry { return l.open[rng.IntN(len(l.open))] }
	switch rng.IntN(12) {
	case 0: // time passes, any amount
		l.now += rng.Int64N(3 * period * min(m.burst, 1000))
		return
	case 1: // to the nanosecond before they are there
		if at > l.now && at != Never {
			l.now = at - 1
			require.Equal(t, at, l.b.Ready(l.r, l.now, k), "at %d, a nanosecond early, the answer changes", l.now)
		}
		return
	case 2, 3: // it used less, or nothing
		if len(l.open) > 0 {
			e := pick()
			l.correct(t, e, rng.Int64N(e.n+1))
		}
	case 4: // it used more
		if len(l.open) > 0 {
			e := pick()
			l.correct(t, e, e.n+rng.Int64N(2*m.burst))
		}
	case 5:
		if len(l.open) > 0 {
			i := rng.IntN(len(l.open))
			l.b.Close(l.open[i].charge)
			l.open[i].charge = nil
			l.open = slices.Delete(l.open, i, i+1)
		}
	case 6: // as at the end of a pause
		l.b.Cap(l.r, l.now)
		l.log = append(l.log, &entry{at: l.now, what: capped})
	case 7: // for good
		if at != Never {
			l.now = at
			l.b.Take(l.r, l.now, k)
			l.log = append(l.log, &entry{at: l.now, n: k})
		}
	default:
		if at == Never {
			return
		}
		l.now = at
		e := &entry{at: l.now, n: k, low: k, charge: opened(&l.b, l.r, l.now, k)}
		l.log, l.open = append(l.log, e), append(l.open, e)
	}
	l.compare(t)
}

func (l *ledger) correct(t testing.TB, e *entry, to int64) {
	t.Helper()
	was := e.n
	if e.n = l.b.Correct(l.r, l.now, e.charge, to, aYear); e.n > to || e.n < min(was, to) || e.n != e.charge.Tokens() {
		t.Fatalf("%d was to become %d, and is %d", was, to, e.n)
	}
	e.excess = max(e.excess, e.n-e.low)
	e.low = min(e.low, e.n)
}

// rate changes the rate.
func (l *ledger) rate(t testing.TB, n, per, burst int64) {
	to := mustRate(t, n, per, burst)
	l.b.Reconfigure(l.r, to, l.now)
	l.r, l.changed = to, true
	l.log = append(l.log, &entry{at: l.now, what: rated, rate: newModel(n, per, burst)})
	l.compare(t)
}

func (l *ledger) compare(t testing.TB) {
	t.Helper()
	m, b, r, now := replay(l.n, l.per, l.burst, l.log, l.now), &l.b, l.r, l.now
	got := b.balance(r, now)
	require.Zero(t, got.Cmp(m.have), "at %d: the balance is %s, want %s", now, got, m.have)
	floor := new(big.Int).Div(m.have.Num(), m.have.Denom())
	if got := b.Tokens(r, now); got != floor.Int64() {
		t.Fatalf("at %d: %d whole tokens, want %s", now, got, floor)
	}
	if full := m.have.Cmp(new(big.Rat).SetInt64(m.burst)) == 0; b.Full(now) != full || full != (b.FullAt() <= now) {
		t.Fatalf("at %d: full %v, full at %d, want %v", now, b.Full(now), b.FullAt(), full)
	}
	if f := b.FullAt(); f > now && m.ready(now, m.burst) != f {
		t.Fatalf("at %d: full at %d, want %d", now, f, m.ready(now, m.burst))
	}
	require.Equal(t, len(l.open) == 0, !b.book.open(),
		"%d charges are open, and there is a book: %v", len(l.open), b.book.open())
}

// checkWindows recounts promise 3: what was charged in any window, as it turned out, is no
// more than burst + rate*window + what was reported above the lowest amount known before.
func (l *ledger) checkWindows(t testing.TB) {
	t.Helper()
	if l.changed {
		return
	}
	for i := range l.log {
		sum := int64(0)
		for j := i; j < len(l.log); j++ {
			sum += l.log[j].n - l.log[j].excess
			legal := new(big.Rat).Mul(new(big.Rat).SetInt64(l.log[j].at-l.log[i].at), big.NewRat(l.n, l.per))
			legal.Add(legal, new(big.Rat).SetInt64(l.burst))
			if new(big.Rat).SetInt64(sum).Cmp(legal) > 0 {
				t.Fatalf("%d tokens from %d to %d, legal are %s", sum, l.log[i].at, l.log[j].at, legal.FloatString(9))
			}
		}
	}
}

func randomRate(rng *rand.Rand) (n, per, burst int64) {
	ns := []int64{1, 2, 3, 7, 60, 90_000, 999_999_937, 1e12}
	pers := []int64{1, 3, 1000, 1e6, sec, minute, 60 * minute, day}
	for {
		n, per, burst = ns[rng.IntN(len(ns))], pers[rng.IntN(len(pers))], 1+rng.Int64N(20)
		if rng.IntN(4) == 0 {
			burst *= 1e6
		}
		if _, err := NewRate(n, per, burst); err == nil && per/n < day {
			return n, per, burst
		}
	}
}

// However charges are corrected, closed, capped, and the rate changed: the balance is what a
// replay of the present amounts gives, exactly, and no window is exceeded.
func TestBalanceIsThatOfAReplay(t *testing.T) {
	events := 0
	for seed := range uint64(600) {
		rng := rand.New(rand.NewPCG(seed, 1))
		n, per, burst := randomRate(rng)
		l := &ledger{r: mustRate(t, n, per, burst), n: n, per: per, burst: burst}
		t.Run(fmt.Sprintf("seed %d: %d per %d ns, burst %d", seed, n, per, burst), func(t *testing.T) {
			for i := range 120 {
				if l.now > MaxSpan/4 {
					break // a debt of decades was waited out
				}
				l.step(t, rng)
				if seed%2 == 0 && i%20 == 19 {
					// not so much slower that a debt would take decades, which is cut
					l.rate(t, n+rng.Int64N(2*n), per+rng.Int64N(2*per), burst/2+1+rng.Int64N(burst))
				}
				events++
			}
			l.checkWindows(t)
		})
	}
	if events < 60_000 {
		t.Errorf("%d events: the seeds test less than they should", events)
	}
}

// What Ready says is enough, and one nanosecond less is not.
func TestReadyIsNeverEarlyNorLate(t *testing.T) {
	r := mustRate(t, 7, sec, 3)
	for k := int64(1); k <= 3; k++ {
		var b Bucket
		b.Take(r, 0, 3)
		at := b.Ready(r, 0, k)
		if want := ceil(k, sec, 7); at != want {
			t.Errorf("%d tokens are ready at %d, want %d", k, at, want)
		}
		if got := b.Ready(r, at, k); got != at {
			t.Errorf("at %d, as said, it says %d", at, got)
		}
		assert.Equal(t, at, b.Ready(r, at-1, k), "what Ready says at %d", at-1)
		got := b.Tokens(r, at-1)
		assert.Equal(t, k-1, got, "a nanosecond early there are %d tokens", got)
	}
}

func TestAfterCountsBeyondTheBurst(t *testing.T) {
	r := mustRate(t, 3, sec, 2)
	var b Bucket
	for _, c := range []struct{ k, want int64 }{
		{1, 0}, {2, 0}, {3, 333_333_334}, {5, sec}, {302, 100 * sec},
	} {
		assert.Equal(t, c.want, b.After(r, 0, c.k), "%d tokens are in after", c.k)
	}
	b.Take(r, 0, 2)
	assert.Equal(t, sec, b.After(r, 0, 3), "3 tokens are in after")
	if got := b.After(r, 0, math.MaxInt64); got < MaxSpan/2 {
		t.Errorf("as many tokens as there are numbers come in after %d", got)
	}
}

// A clock that goes back mints nothing: only takes move the bucket, and never back.
func TestClockGoesBack(t *testing.T) {
	r := mustRate(t, 1000, sec, 20)
	var b Bucket
	taken := int64(0)
	for i := range int64(20_000) {
		now := sec + i*500 // 10 ms in all
		if i%2 == 0 {
			now += 10_000_000
		}
		if b.Ready(r, now, 1) == now {
			b.Take(r, now, 1)
			taken++
		}
	}
	if legal := int64(20 + 20); taken > legal {
		t.Errorf("%d tokens within 20 ms, legal are %d", taken, legal)
	}
}

// What was taken and is corrected to nothing has not happened, in whatever order that is.
func TestCorrectingToNothingRestoresAll(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 23))
		n, per, burst := randomRate(rng)
		r := mustRate(t, n, per, burst)
		var b Bucket
		b.Take(r, 10, burst)
		before := b
		var open []*Charge
		for range 10 {
			open = append(open, opened(&b, r, 10, 1+rng.Int64N(burst)))
		}
		rng.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
		for _, c := range open {
			b.Correct(r, 10, c, 0, day)
			b.Close(c)
		}
		if b.tat != before.tat || b.book.open() {
			t.Errorf("seed %d: %d per %d ns: %+v has become %+v", seed, n, per, before, b)
		}
	}
}

// A refund counts from the instant of its charge: what time has brought back meanwhile is not
// given back again.
func TestALateRefundGivesOnlyWhatTimeHasNot(t *testing.T) {
	type do struct {
		at   int64
		take int64 // opens a charge, or
		of   int   // which charge is corrected
		to   int64
	}
	charge := func(at, n int64) do { return do{at: at, take: n} }
	settle := func(at int64, of int, to int64) do { return do{at: at, of: of, to: to} }
	for _, c := range []struct {
		name    string
		n       int64 // per second, and the burst
		burst   int64
		do      []do
		at, has int64
	}{
		{"all of it has come back", 4, 4, []do{charge(0, 4), charge(minute-1, 4), settle(minute, 0, 0)}, minute, 0},
		{"part of it has", 1, 10, []do{charge(0, 10), charge(5*sec, 5), settle(6*sec, 0, 0)}, 6 * sec, 6},
		{"nothing has", 1, 10, []do{charge(0, 10), settle(0, 0, 3)}, 0, 7},
		{"after a refund, a second and lower one", 1, 10, []do{charge(0, 10), settle(sec, 0, 5), settle(2*sec, 0, 2)}, 2 * sec, 10},
		{"down and up again", 1, 10, []do{charge(0, 10), settle(2*sec, 0, 0), settle(2*sec, 0, 10)}, 2 * sec, 2},
		{"up, late: as if from the start", 1, 10, []do{charge(0, 1), charge(20*sec, 10), settle(20*sec, 0, 5)}, 20 * sec, 0},
		{"up beyond what time has brought", 1, 10, []do{charge(0, 1), settle(20*sec, 0, 25)}, 20 * sec, 5},
		{"of the second of three", 1, 10, []do{charge(0, 5), charge(0, 5), charge(5*sec, 5), settle(6*sec, 1, 0)}, 6 * sec, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := mustRate(t, c.n, sec, c.burst)
			var b Bucket
			var open []*Charge
			for _, d := range c.do {
				if d.take > 0 {
					open = append(open, opened(&b, r, d.at, d.take))
				} else {
					b.Correct(r, d.at, open[d.of], d.to, day)
				}
			}
			assert.Equal(t, c.has, b.Tokens(r, c.at), "tokens are")
		})
	}
}

// A report, however absurd, closes the bucket for the longest debt at most, and taking it
// back is exact.
func TestDebtIsBounded(t *testing.T) {
	const hour = 60 * minute
	for _, c := range []struct {
		n, per, burst, report int64
		want                  int64 // amount
		debt                  int64 // until one token is there
	}{
		{1, hour, 1, 1 << 50, 25, 25 * hour},
		{1, hour, 1, math.MaxInt64, 25, 25 * hour},
		{1, hour, 1, 3, 3, 3 * hour},
		{1, day, 10, math.MaxInt64, 20, 11 * day}, // a refill takes longer than a day
		{90_000, minute, 90_000, math.MaxInt64, 90_000 * (24*60 + 1), day + minute/90_000 + 1},
	} {
		r := mustRate(t, c.n, c.per, c.burst)
		var b Bucket
		x := opened(&b, r, 0, 1)
		assert.Equal(t, c.want, b.Correct(r, 0, x, c.report, day), "%+v: the amount", c)
		assert.Equal(t, c.debt, b.Ready(r, 0, 1), "%+v: a token is there at", c)
		b.Correct(r, 0, x, 1, day)
		assert.Equal(t, c.burst-1, b.Tokens(r, 0), "%+v: corrected to 1 tokens are left", c)
		b.Correct(r, 0, x, 0, day)
		b.Close(x)
		assert.True(t, b.Full(0), "%+v: corrected to nothing, and not full", c)
	}
}

// A late report counts from the instant of its charge: what time has brought back since is no
// debt, and not cut.
func TestALateReportIsCutToTheSameDebt(t *testing.T) {
	r := mustRate(t, 1, sec, 10)
	var b Bucket
	x := opened(&b, r, 0, 1)
	assert.Equal(t, 10+100+day/sec, b.Correct(r, 100*sec, x, math.MaxInt64, day), "the amount")
	assert.Equal(t, 100*sec+day+sec, b.Ready(r, 100*sec, 1), "a token is there at")
}

// Others' debt stays when one charge is cut and corrected.
func TestCuttingForgetsNobodysDebt(t *testing.T) {
	r := mustRate(t, 1, sec, 10)
	var b Bucket
	x, y := opened(&b, r, 0, 5), opened(&b, r, 0, 5)
	b.Correct(r, 0, y, 1000, day)
	b.Correct(r, 0, x, math.MaxInt64, day)
	b.Correct(r, 0, x, 5, day)
	assert.Equal(t, int64(10-1005), b.Tokens(r, 0), "the balance")
}

func TestForgive(t *testing.T) {
	r := mustRate(t, 1, sec, 10)
	var b Bucket
	x := opened(&b, r, 0, 5)
	if b.Forgive(r, 0); b.Tokens(r, 0) != 5 {
		t.Errorf("no debt, and %d of 5 tokens are left", b.Tokens(r, 0))
	}
	b.Correct(r, 0, x, 1000, day)
	b.Forgive(r, sec)
	assert.Zero(t, b.Tokens(r, sec), "forgiven, the balance")
	b.Correct(r, sec, x, 1, day)
	assert.Zero(t, b.Tokens(r, sec), "what was forgiven was given back: tokens")
	if got := b.Correct(r, sec, x, 1003, day); got != 1003 || b.Tokens(r, sec) != -3 {
		t.Errorf("reported on to %d, the balance is %d, want -3", got, b.Tokens(r, sec))
	}
	b.Close(x)
}

// Asking changes nothing.
func TestRefusingChangesNothing(t *testing.T) {
	r := mustRate(t, 7, sec, 3)
	var b Bucket
	b.Take(r, 5, 3)
	before := b
	for i := range int64(1000) {
		b.Ready(r, i, 1+i%5)
		b.After(r, i, i)
		b.Tokens(r, i)
		b.Full(i)
		b.FullAt()
	}
	if b != before {
		t.Errorf("%+v has become %+v", before, b)
	}
}

// Slow, fast and enormous: never more than the burst at one instant.
func TestExtremeRates(t *testing.T) {
	for _, c := range []struct {
		n, per, burst int64
		ok            bool
	}{
		{1, day, 1, true},
		{1, 365 * day, 30, true},
		{1, 365 * day, 40, false}, // 40 years to refill
		{1, math.MaxInt64, 1, false},
		{1, MaxSpan - 1, 1, true},
		{1, MaxSpan, 1, false},
		{1e12, sec, 1e12, true},
		{1e12, 1, math.MaxInt64, true},
		{math.MaxInt64, 1, math.MaxInt64, true},
		{math.MaxInt64, math.MaxInt64, 1, true},
		{1, sec, math.MaxInt64, false},
		{1, 1, math.MaxInt64, false},
		{2, math.MaxInt64, 1, false},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64, false},
	} {
		r, err := NewRate(c.n, c.per, c.burst)
		if (err == nil) != c.ok {
			t.Errorf("%+v: error %v", c, err)
			continue
		}
		if err != nil {
			if !strings.Contains(err.Error(), fmt.Sprint(c.n)) || !strings.Contains(err.Error(), fmt.Sprint(c.burst)) {
				t.Errorf("%+v: %q names no values", c, err)
			}
			continue
		}
		for _, now := range []int64{0, 1_800_000_000 * sec} {
			var b Bucket
			if at := b.Ready(&r, now, c.burst); at != now {
				t.Errorf("%+v at %d: the burst is ready at %d", c, now, at)
			}
			b.Take(&r, now, c.burst)
			if at := b.Ready(&r, now, 1); at <= now {
				t.Errorf("%+v at %d: more than the burst, ready at %d", c, now, at)
			}
			assert.Zero(t, b.Tokens(&r, now), "%+v at %d: tokens are left", c, now)
			if at := b.Ready(&r, now, c.burst); at < now || c.burst < math.MaxInt64 && b.Ready(&r, now, c.burst+1) != Never {
				t.Errorf("%+v at %d: the burst is ready again at %d", c, now, at)
			}
			for range 4 {
				b.Correct(&r, now, opened(&b, &r, now, 1), math.MaxInt64, day) // however wrong
			}
			if at := b.Ready(&r, now, 1); at <= now || at == Never {
				t.Errorf("%+v at %d: in debt, and ready at %d", c, now, at)
			}
			if got := b.Tokens(&r, now); got > 0 {
				t.Errorf("%+v at %d: in debt, with %d tokens", c, now, got)
			}
		}
	}
}

func TestBadRates(t *testing.T) {
	for _, c := range []struct {
		n, per, burst int64
		want          string
	}{
		{0, sec, 1, "N is 0: must be at least 1"},
		{-5, sec, 1, "N is -5: must be at least 1"},
		{math.MinInt64, sec, 1, "N is -9223372036854775808: must be at least 1"},
		{1, 0, 1, "Per is 0 ns: must be positive"},
		{1, -sec, 1, "Per is -1000000000 ns: must be positive"},
		{1, sec, 0, "Burst is 0: must be at least 1"},
		{1, sec, -1, "Burst is -1: must be at least 1"},
	} {
		_, err := NewRate(c.n, c.per, c.burst)
		assert.EqualError(t, err, c.want, "%d per %d burst %d", c.n, c.per, c.burst)
	}
}

// Changing the rate carries the balance over: exactly, up to the last fraction that the new
// rate can express, which is rounded against the bucket.
func TestReconfigureCreatesNothing(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 5))
		n, per, burst := randomRate(rng)
		r := mustRate(t, n, per, burst)
		var b Bucket
		now := rng.Int64N(day)
		b.Take(r, now, 1+rng.Int64N(2*burst))
		now += rng.Int64N(2 * max(1, per/n) * burst)
		for range 5 {
			n2, per2, burst2 := randomRate(rng)
			to := mustRate(t, n2, per2, burst2)
			have := b.balance(r, now)
			if top := new(big.Rat).SetInt64(burst2); have.Cmp(top) > 0 {
				have = top
			}
			debt := new(big.Rat).Sub(new(big.Rat).SetInt64(burst2), have)
			beyond := debt.Mul(debt, big.NewRat(per2, n2)).Cmp(new(big.Rat).SetInt64(MaxSpan)) > 0
			b.Reconfigure(r, to, now)
			got := b.balance(to, now)
			lost := new(big.Rat).Sub(have, got)
			if beyond { // a debt that would take more than MaxSpan is cut to that
				require.Equal(t, now+MaxSpan, b.FullAt(), "seed %d: full at", seed)
			} else if lost.Sign() < 0 || lost.Cmp(big.NewRat(1, per2)) > 0 {
				t.Fatalf("seed %d: %s tokens at %d/%d ns have become %s at %d/%d ns burst %d", seed, have, n, per, got, n2, per2, burst2)
			}
			if b.tat.frac < 0 || b.tat.frac >= n2 {
				t.Fatalf("seed %d: fraction %d of %d", seed, b.tat.frac, n2)
			}
			r, n, per = to, n2, per2
			now += rng.Int64N(1 + 2*max(1, per/n))
		}
	}
}

func TestLowerBurstClips(t *testing.T) {
	r, small, large := mustRate(t, 1, sec, 10), mustRate(t, 1, sec, 4), mustRate(t, 1, sec, 100)
	for _, c := range []struct {
		taken int64
		to    *Rate
		want  int64
	}{
		{0, small, 4}, {3, small, 4}, {6, small, 4}, {8, small, 2}, {10, small, 0}, {12, small, -2},
		{0, large, 10}, {3, large, 7}, {10, large, 0}, {12, large, -2},
	} {
		var b Bucket
		b.Take(r, 0, c.taken)
		b.Reconfigure(r, c.to, 0)
		assert.Equal(t, c.want, b.Tokens(c.to, 0), "%d of 10 taken, burst then %d: tokens", c.taken, c.to.burst)
	}
}

func TestCapLeavesAtMostOneToken(t *testing.T) {
	r := mustRate(t, 2, sec, 4)
	for _, c := range []struct{ taken, at, next int64 }{
		{0, 10 * sec, 10*sec + sec/2},
		{4, 10 * sec, 10*sec + sec/2},
		{4, 0, sec}, // it never adds one
		{8, 0, 3 * sec},
		{8, sec, 3 * sec},           // a debt that outlasts the pause stays
		{8, 3 * sec, 3*sec + sec/2}, // and no more than one token of the pause is left
	} {
		var b Bucket
		x := opened(&b, r, 0, min(c.taken, 4))
		b.Correct(r, 0, x, c.taken, day)
		before := b.balance(r, c.at)
		b.Cap(r, c.at)
		b.Correct(r, c.at, x, 0, day) // what comes back of before does not undo it
		if c.taken <= 4 && c.at > 0 {
			assert.Equal(t, int64(1), b.Tokens(r, c.at), "%+v: tokens", c)
		}
		b.Correct(r, c.at, x, c.taken, day)
		assert.Equal(t, c.next, b.Ready(r, c.at, 2), "%+v: two tokens are there at", c)
		if b.balance(r, c.at).Cmp(before) > 0 {
			t.Errorf("%+v: %s tokens have become %s", c, before, b.balance(r, c.at))
		}
		if got := r.From(c.at, 2); c.taken <= 4 && c.at > 0 && got != c.next {
			t.Errorf("%+v: the forecast is %d", c, got)
		}
	}
}

func TestFillIsAShareOfTheBurst(t *testing.T) {
	old, r := mustRate(t, 1, 60*minute, 10), mustRate(t, 7, sec, 100)
	for taken, want := range map[int64]int64{0: 100, 4: 60, 10: 0} {
		var a, b Bucket
		a.Take(old, 5, taken)
		b.Fill(r, 5, a.Share(old, 5))
		assert.Equal(t, want, b.Tokens(r, 5), "%d of 10 taken: of 100", taken)
	}
}

func TestZeroBucketIsFull(t *testing.T) {
	r := mustRate(t, 1, minute, 5)
	for _, now := range []int64{0, 1, sec, 1_800_000_000 * sec} {
		var b Bucket
		if !b.Full(now) || b.Tokens(r, now) != 5 || b.Ready(r, now, 5) != now || b.FullAt() > now {
			t.Errorf("at %d: full %v, tokens %d", now, b.Full(now), b.Tokens(r, now))
		}
	}
}

func FuzzAnyRate(f *testing.F) {
	f.Add(int64(3), sec, int64(2), uint64(1))
	f.Add(int64(90_000), minute, int64(90_000), uint64(2))
	f.Add(int64(1e12), int64(1), int64(7), uint64(3))
	f.Add(int64(1), day, int64(1), uint64(4))
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), int64(1), uint64(5))
	f.Fuzz(func(t *testing.T, n, per, burst int64, seed uint64) {
		r, err := NewRate(n, per, burst)
		if err != nil {
			if n >= 1 && per >= 1 && burst >= 1 && per < 1<<30 && burst < 1<<30 {
				t.Fatalf("%d per %d, burst %d: %v", n, per, burst, err)
			}
			return
		}
		if burst > 1<<40 || per/n > day*365 {
			return // the model's sums stay small
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		l := &ledger{r: &r, n: n, per: per, burst: burst}
		for range 40 {
			if l.now > MaxSpan/4 {
				break
			}
			l.step(t, rng)
		}
		l.checkWindows(t)
	})
}

func TestNothingAllocates(t *testing.T) {
	r := mustRate(t, 90_000, minute, 1000)
	var b Bucket
	x, y, now := new(Charge), new(Charge), int64(0)
	assert.Zero(t, testing.AllocsPerRun(1000, func() {
		now = b.Ready(r, now, 3)
		b.Open(x, r, now, 3)
		b.Open(y, r, now, 0)
		b.Correct(r, now, x, 2, day)
		b.Close(y)
		b.Close(x)
		b.After(r, now, 5)
		b.Full(now)
		b.FullAt()
		b.Cap(r, now)
	}), "allocations")
}

func BenchmarkReadyAndTake(b *testing.B) {
	for _, k := range []int64{1, 3} {
		b.Run(fmt.Sprint("tokens=", k), func(b *testing.B) {
			r := mustRate(b, 90_000, minute, 1000)
			var u Bucket
			now := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				now = u.Ready(r, now, k)
				u.Take(r, now, k)
			}
		})
	}
}

func BenchmarkReadyRefuses(b *testing.B) {
	r := mustRate(b, 90_000, minute, 1000)
	var u Bucket
	u.Take(r, 0, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if u.Ready(r, 0, 1) == 0 {
			b.Fatal("a token is there")
		}
	}
}

// opened is a charge of k tokens that may still be corrected.
func opened(b *Bucket, r *Rate, now, k int64) *Charge {
	c := new(Charge)
	b.Open(c, r, now, k)
	return c
}
