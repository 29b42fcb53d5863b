package permit

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func TestBegin(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*State)
		want Refusal
	}{
		{"at first", func(*State) {}, None},
		{"again", func(s *State) { s.Begin() }, Twice},
		{"again, once it has ended", func(s *State) { s.Begin(); s.Leave() }, Twice},
		{"after it was called off", func(s *State) { s.Begin(); s.CallOff() }, None},
		{"after the return", func(s *State) { s.Return(false) }, Returned},
		{"after its time", func(s *State) { s.Expire() }, Late},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s State
			tt.do(&s)
			if got := s.Begin(); got != tt.want {
				t.Errorf("refusal %d, want %d", got, tt.want)
			}
		})
	}
}

func TestHold(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*State)
		want Refusal
	}{
		{"before the code", func(*State) {}, Returned},
		{"in the code", func(s *State) { s.Begin() }, None},
		{"after the code", func(s *State) { s.Begin(); s.Leave() }, Returned},
		{"after the return, with code inside", func(s *State) { s.Begin(); s.Return(false) }, Returned},
		{"after its time", func(s *State) { s.Begin(); s.Expire() }, Late},
		{"one too many", func(s *State) {
			s.Begin()
			for range MaxHolds {
				s.Hold()
			}
		}, TooMany},
		{"one after another", func(s *State) {
			s.Begin()
			for range 3 * MaxHolds {
				s.Hold()
				s.EndHold()
			}
		}, None},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s State
			tt.do(&s)
			if got := s.Hold(); got != tt.want {
				t.Errorf("refusal %d, want %d", got, tt.want)
			}
		})
	}
}

// step is something that happens to an attempt, and says whether that was its end.
type step struct {
	name  string
	after string // what must have happened before
	do    func(*State) bool
}

// permute calls f with every order of steps in which each comes after what it follows.
func permute(steps []step, f func([]step)) {
	var order []step
	var walk func()
	walk = func() {
		if len(order) == len(steps) {
			f(order)
			return
		}
	next:
		for _, s := range steps {
			ready := s.after == ""
			for _, o := range order {
				if o.name == s.name {
					continue next
				}
				ready = ready || o.name == s.after
			}
			if ready {
				order = append(order, s)
				walk()
				order = order[:len(order)-1]
			}
		}
	}
	walk()
}

// Whatever the order in which the code ends, the handler returns, its outcome becomes known or is
// given up, and streams end: exactly one of them is told that the attempt is over, the one that
// was the last that it takes.
func TestOneIsTold(t *testing.T) {
	begin := step{"begin", "", func(s *State) bool { s.Begin(); return false }}
	hold := step{"hold", "begin", func(s *State) bool { s.Hold(); return false }}
	leave := step{"leave", "begin", (*State).Leave}
	endHold := step{"end hold", "hold", (*State).EndHold}
	ret := step{"return", "", func(s *State) bool { s.Return(false); return false }}
	judge := step{"judge", "return", func(s *State) bool { over, inTime := s.Judge(); return over && inTime }}
	giveUp := step{"give up", "return", (*State).GiveUp}
	expire := step{"expire", "", func(s *State) bool { s.Expire(); return false }}
	n := 0
	for _, steps := range [][]step{
		{ret, judge, giveUp},
		{begin, leave, ret, judge, giveUp, expire},
		{begin, hold, leave, endHold, ret, judge, giveUp},
	} {
		permute(steps, func(order []step) {
			var s State
			names, told := "", 0
			for _, x := range order {
				names += x.name + " "
				refused := false
				switch x.name { // of what a refusal leaves out
				case "begin":
					refused = s.Begin() != None
				case "hold":
					refused = s.Hold() != None
				default:
					if x.do(&s) {
						told++
					}
				}
				if refused {
					return // the steps that follow it make no sense
				}
				if s.Over() != (told == 1) {
					t.Fatalf("%s: over is %v, %d were told", names, s.Over(), told)
				}
			}
			n++
			if told != 1 {
				t.Fatalf("%s: %d were told that it is over", names, told)
			}
		})
	}
	t.Logf("%d orders", n)
}

// Where the handler is the code, both end at once.
func TestReturnJudged(t *testing.T) {
	var s State
	s.Begin()
	if !s.ReturnJudged(true) || s.Inside() || !isKnown(&s) {
		t.Error("an attempt whose handler was its code is not over with it")
	}
	var early State
	if !early.ReturnJudged(true) || early.HasBegun() {
		t.Error("nor is one whose code did not begin")
	}
	var open State
	open.Begin()
	open.Hold()
	if open.ReturnJudged(true) {
		t.Error("one that a stream holds open is over")
	}
	if !open.IsHeld() || !open.EndHold() || open.IsHeld() || !open.WasHeld() {
		t.Error("its stream's end is not its end")
	}
}

// What is known late is known, although nobody waits for it.
func TestJudgedLate(t *testing.T) {
	var s State
	s.Return(false)
	if !s.GiveUp() || isKnown(&s) {
		t.Fatal("giving up did not end it, or made something known")
	}
	if over, inTime := s.Judge(); over || inTime {
		t.Fatal("somebody is said to have waited")
	}
	if s.Know(); !isKnown(&s) {
		t.Fatal("it is not known")
	}
}

// All at once: one is told.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range 500 {
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		var s State
		var told atomic.Int32
		s.Begin()
		holds := r.IntN(3)
		for range holds {
			s.Hold()
		}
		judge := func() bool { over, inTime := s.Judge(); return over && inTime }
		s.Return(false)
		ends := []func() bool{s.Leave, judge, s.GiveUp}
		for range holds {
			ends = append(ends, s.EndHold)
		}
		r.Shuffle(len(ends), func(i, j int) { ends[i], ends[j] = ends[j], ends[i] })
		var wg sync.WaitGroup
		for _, end := range ends {
			wg.Go(func() {
				if end() {
					told.Add(1)
				}
			})
		}
		wg.Wait()
		if n := told.Load(); n != 1 {
			t.Fatalf("round %d: %d were told", round, n)
		}
	}
}

func isKnown(s *State) bool {
	_, known, _ := s.Flags()
	return known
}

// An attempt ends all at once only if nobody is inside but the handler that is the code, no stream has
// held it open, and it has not been adopted.
func TestFinishAlone(t *testing.T) {
	for _, tt := range []struct {
		name   string
		do     func(*State)
		isCode bool
		want   bool
	}{
		{"the handler is the code", func(*State) {}, true, true},
		{"the code has ended before", func(s *State) { s.Leave() }, false, true},
		{"the code is inside still", func(*State) {}, false, false},
		{"it is adopted", func(s *State) { s.Adopt() }, true, false},
		{"a stream has held it", func(s *State) { s.Hold(); s.EndHold() }, true, false},
		{"its time is over", func(s *State) { s.Expire() }, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s State
			s.Begin()
			tt.do(&s)
			can := s.CanFinish(tt.isCode)
			if got := s.FinishAlone(tt.isCode); got != tt.want {
				t.Fatalf("ended is %v", got)
			}
			if _, known, _ := s.Flags(); s.IsGivenBack() != tt.want || s.Over() != tt.want || known != tt.want {
				t.Errorf("given back is %v, over %v, known %v", s.IsGivenBack(), s.Over(), known)
			}
			if tt.want && (s.Adopt() || s.Inside() || !can) {
				t.Error("it can be adopted, or its code is inside")
			}
		})
	}
}
