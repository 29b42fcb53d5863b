package record

import (
	"encoding/json"
	"time"

	"github.com/sluice-go/sluice/internal/few"
)

// Decision is how a call was admitted, to be written as JSON. R is a refusal, which may write itself.
type Decision[R any] struct {
	Refusal   *R // nil if it ran, or would
	Wait      time.Duration
	Waits     []Wait
	Place     int
	Overtaken int
	Attempts  int
	Costs     []Cost
}

// MarshalJSON writes milliseconds, and leaves out what is empty.
func (d Decision[R]) MarshalJSON() ([]byte, error) {
	type wait struct {
		By string  `json:"by"`
		MS float64 `json:"ms"`
	}
	return json.Marshal(struct {
		Refusal   *R      `json:"refusal,omitempty"`
		WaitMS    float64 `json:"wait_ms"`
		Waits     []wait  `json:"waits,omitempty"`
		Place     int     `json:"place,omitempty"`
		Overtaken int     `json:"overtaken,omitempty"`
		Attempts  int     `json:"attempts,omitempty"`
		Costs     []Cost  `json:"costs,omitempty"`
	}{
		d.Refusal, millis(d.Wait), few.Map(d.Waits, func(w Wait) wait { return wait{w.By, millis(w.For)} }),
		d.Place, d.Overtaken, d.Attempts, d.Costs,
	})
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
