package compare

import "testing"

// TestAdapter_Figures: what turns differ by counts where the machine was quieter, else the best round of each part.
func TestAdapter_Figures(t *testing.T) {
	ns := func(list ...float64) (samples []Sample) {
		for _, x := range list {
			samples = append(samples, Sample{NS: x})
		}
		return samples
	}
	for _, tt := range []struct {
		turns bool
		want  [3]float64
	}{
		{true, [3]float64{100, 20, 0.2}}, // of (200, 220), (200, 240) and (400, 480), two calls each
		{false, [3]float64{100, 10, 0.1}},
	} {
		a := Adapter{Calls: 2, Turns: tt.turns, Samples: [2][]Sample{ns(1000, 200, 400, 200, 1200), ns(400, 220, 480, 240, 3000)}}
		var got [3]float64
		got[0], got[1], got[2] = a.figures()
		for i, want := range tt.want {
			if d := got[i] - want; d < -1e-9 || d > 1e-9 {
				t.Errorf("turns %v: %v, want %v", tt.turns, got, tt.want)
			}
		}
	}
}
