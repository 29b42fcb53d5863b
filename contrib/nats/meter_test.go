package sluicenats

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// shelf is cells without a server: the decisions of quota and slots alone, at exact instants.
type shelf struct {
	cells map[string]*cell
	seq   uint64
}

// view is what a decision over these cells rests on, now.
func (s *shelf) view(keys ...string) *view {
	v := &view{sent: time.Now(), lo: time.Now().UnixNano(), hi: time.Now().UnixNano()}
	for _, key := range keys {
		if c := s.cells[key]; c != nil {
			v.cells = append(v.cells, *c)
		} else {
			v.cells = append(v.cells, cell{subject: key})
		}
	}
	return v
}

func (s *shelf) put(list []put) {
	for _, p := range list {
		s.seq++
		s.cells[p.subject] = &cell{subject: p.subject, seq: s.seq, data: p.data, marker: p.marker}
	}
}

const modelMemory = time.Minute

func (s *shelf) take(t *testing.T, d engine.Draw) engine.Grant {
	d, err := d.Normal()
	require.NoError(t, err)
	var keys []string
	every := time.Duration(0)
	for _, m := range d.Meters {
		keys, every = append(keys, m.Key), max(every, m.Every())
	}
	v := s.view(keys...)
	var meters []*meter
	for i, m := range d.Meters {
		one, err := loadMeter(v, &v.cells[i], m, modelMemory, 0)
		require.NoError(t, err)
		meters = append(meters, one)
	}
	g := grantOf(v.hi, d, every, meters)
	if g.Units == 0 {
		return g.seen(v.hi)
	}
	name := ""
	if !d.Op.IsZero() {
		name = d.Op.String()
	}
	charge(v.hi, d, &g, meters, name)
	for i, m := range meters {
		s.put(m.save(v, &v.cells[i], modelMemory))
	}
	return g.seen(v.hi)
}

// TestMeterModel: the meters decide as those of engine.Memory do, to the nanosecond, whatever is
// taken, booked, corrected and held.
func TestMeterModel(t *testing.T) {
	seed := rand.Uint64()
	for round := range 300 {
		rnd := rand.New(rand.NewPCG(seed, uint64(round)))
		synctest.Test(t, func(t *testing.T) { meterModel(t, rnd, fmt.Sprintf("seed %d, round %d", seed, round)) })
	}
}

func meterModel(t *testing.T, rnd *rand.Rand, where string) {
	e, err := engine.NewMemory(engine.MemoryConfig{OpMemory: modelMemory})
	require.NoError(t, err)
	defer e.Close()
	s := &shelf{cells: map[string]*cell{}}
	ctx := t.Context()
	meters := make([]engine.Meter, 2)
	for i := range meters {
		per := []time.Duration{time.Second, 7 * time.Millisecond, time.Minute, 1_000_003}[rnd.IntN(4)]
		meters[i] = engine.Meter{Key: string(rune('a' + i)), N: 1 + rnd.Int64N(9), Per: per, Burst: 1 + rnd.Int64N(20)}
	}
	var named []engine.OpID
	log := ""
	for range 50 {
		list := meters[:1+rnd.IntN(2)]
		if rnd.IntN(3) == 0 {
			list = meters[1:]
		}
		switch rnd.IntN(8) {
		case 0, 1, 2:
			d := engine.Draw{Meters: append([]engine.Meter(nil), list...), Min: 1 + rnd.Int64N(3)}
			for i := range d.Meters {
				d.Meters[i].Each = 1 + rnd.Int64N(2)
				d.Meters[i].Burst = max(d.Meters[i].Burst, 1)
			}
			d.Max = d.Min + rnd.Int64N(5)
			if rnd.IntN(2) == 0 {
				d.MaxWait = time.Duration(rnd.Int64N(int64(4 * d.Meters[0].Per)))
			}
			if rnd.IntN(3) == 0 {
				d.Keep = rnd.Int64N(4)
			}
			if rnd.IntN(2) == 0 {
				d.Op = engine.NewOpID()
			}
			if _, err := d.Normal(); err != nil {
				continue
			}
			want, err := e.Quota().Take(ctx, d)
			require.NoError(t, err)
			got := s.take(t, d)
			log += fmt.Sprintf("%v take %d-%d keep %d wait %v named %v of %v: %+v\n", time.Now().UnixNano(), d.Min, d.Max, d.Keep, d.MaxWait, !d.Op.IsZero(), d.Meters, want)
			require.Equal(t, want, got, "%s\n%s", where, log)
			if want.Units > 0 && !d.Op.IsZero() {
				named = append(named, d.Op)
			}
		case 3, 4:
			c := engine.Correction{Meter: list[0], Delta: rnd.Int64N(13) - 8}
			if len(named) > 0 && rnd.IntN(5) > 0 {
				c.Of = named[rnd.IntN(len(named))]
			}
			if rnd.IntN(30) == 0 {
				c.Delta = 1 << 62
			}
			require.NoError(t, e.Quota().Settle(ctx, engine.OpID{}, []engine.Correction{c}))
			v := s.view(c.Meter.Key)
			m, err := loadMeter(v, &v.cells[0], c.Meter, modelMemory, 0)
			require.NoError(t, err)
			m.correct(v.hi, c.Of.String(), c.Delta)
			s.put(m.save(v, &v.cells[0], modelMemory))
			log += fmt.Sprintf("settle %d of %v at %s\n", c.Delta, c.Of, c.Meter.Key)
		case 5:
			d := time.Duration(rnd.Int64N(int64(3 * list[0].Per)))
			if rnd.IntN(3) == 0 {
				d = 0
			}
			require.NoError(t, e.Quota().Hold(ctx, list[0], d))
			v := s.view(list[0].Key)
			if c := v.cells[0]; d == 0 && (c.seq == 0 || c.marker) {
				continue
			}
			m, err := loadMeter(v, &v.cells[0], list[0], modelMemory, 0)
			require.NoError(t, err)
			m.hold(v.hi, int64(d))
			s.put(m.save(v, &v.cells[0], modelMemory))
			log += fmt.Sprintf("hold %s for %v\n", list[0].Key, d)
		default:
			d := time.Duration(rnd.Int64N(int64(4 * list[0].Per)))
			time.Sleep(d)
			log += fmt.Sprintf("sleep %v\n", d)
		}
	}
}

// TestMeterChange: a meter whose rate is another keeps its tokens, up to the new burst, and
// creates none, and one whose server's clock went back neither gains nor loses.
func TestMeterChange(t *testing.T) {
	v := &view{lo: 1e18, hi: 1e18}
	conf := engine.Meter{Key: "k", N: 3, Per: time.Second, Burst: 10}
	m, err := loadMeter(v, &cell{}, conf, modelMemory, 0)
	require.NoError(t, err)
	m.charge(v.hi, 8, "")
	data, err := json.Marshal(meterAt(m, v.hi))
	require.NoError(t, err)
	load := func(at int64, conf engine.Meter) (*meter, *view) {
		v := &view{lo: at, hi: at}
		m, err := loadMeter(v, &cell{seq: 1, data: data}, conf, modelMemory, 0)
		require.NoError(t, err)
		return m, v
	}
	same, _ := load(1e18, conf)
	require.Equal(t, int64(2), same.tokens(1e18))
	wider := conf
	wider.Burst, wider.Per = 100, 2*time.Second
	m, _ = load(1e18+5e8, wider) // one token and a half have come in
	require.Equal(t, int64(3), m.tokens(1e18+5e8))
	require.Equal(t, int64(1e18+5e8)+333_333_334, m.ready(1e18+5e8, 4), "the half stays")
	narrow := conf
	narrow.Burst = 1
	m, _ = load(1e18, narrow)
	require.Equal(t, int64(1), m.tokens(1e18))

	hour := int64(time.Hour)
	m, w := load(1e18-hour, conf)
	require.Equal(t, int64(1e18)-hour, w.hi)
	require.Equal(t, int64(2), m.tokens(w.hi), "an hour back")
	require.Equal(t, w.hi+int64(time.Second), m.ready(w.hi, 5))
	m, w = load(1e18-5e8, conf)
	require.Equal(t, int64(1e18), w.hi, "half a second back: it stands still")
	require.Equal(t, int64(2), m.tokens(w.hi))
}

func meterAt(m *meter, now int64) *meter {
	m.Time = now
	return m
}

// TestMeterForgets: of more named draws than a meter remembers the oldest give nothing back, and
// none gives too much.
func TestMeterForgets(t *testing.T) {
	v := &view{lo: 1e18, hi: 1e18}
	conf := engine.Meter{Key: "k", N: 1, Per: time.Hour, Burst: 1000}
	m, err := loadMeter(v, &cell{}, conf, modelMemory, 0)
	require.NoError(t, err)
	for i := range mostCharges + 10 {
		m.charge(v.hi, 2, fmt.Sprint(i))
	}
	m.settle(v.hi, modelMemory)
	require.Len(t, m.Charges, mostCharges)
	was := m.tokens(v.hi)
	m.correct(v.hi, "9", -2)
	require.Equal(t, was, m.tokens(v.hi))
	m.correct(v.hi, "10", -2)
	require.Equal(t, was+2, m.tokens(v.hi))
	m.correct(v.hi, "9", 1)
	require.Equal(t, was+1, m.tokens(v.hi), "an increase is charged now")
}

// TestClock: bounds hold the server's time whatever it is, and no wider than trips and age make
// them.
func TestClock(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			var c clock
			_, _, ok := c.bounds()
			require.False(t, ok)
			ahead := time.Duration(rnd.Int64N(int64(time.Hour))) - 30*time.Minute
			rate := 1 + float64(rnd.IntN(900)-450)/1e6
			begin := time.Now()
			server := func() time.Time {
				return begin.Add(ahead + time.Duration(rate*float64(time.Since(begin))))
			}
			for range 20 {
				sent := time.Now()
				time.Sleep(time.Duration(rnd.Int64N(int64(20 * time.Millisecond))))
				stamp := server()
				time.Sleep(time.Duration(rnd.Int64N(int64(20 * time.Millisecond))))
				trip := time.Since(sent)
				c.learn(sent, stamp)
				age := time.Duration(rnd.Int64N(int64(c.fresh())))
				time.Sleep(age)
				lo, hi, ok := c.bounds()
				require.True(t, ok)
				now := server().UnixNano()
				require.LessOrEqual(t, lo, now, "seed %d", seed)
				require.GreaterOrEqual(t, hi, now, "seed %d", seed)
				require.LessOrEqual(t, time.Duration(hi-lo), trip+2*age/drift+4)
				if rnd.IntN(4) == 0 { // the server's clock is set, or it is another one
					ahead += time.Duration(rnd.Int64N(int64(time.Hour)))
					c.forget()
				}
			}
			time.Sleep(5*time.Second + 1)
			_, _, ok = c.bounds()
			require.False(t, ok, "too old")
		})
	}
}
