package sluicenats

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// birth is the cell b: when the bucket's data began, and their name.
type birth struct {
	ID uint64
	At int64 // nanoseconds since 1970, by the server's clock
}

// Epoch is of the bucket's data: it begins when somebody first asks for it, or for a cold meter
// or claim, and ends when the bucket is lost, deleted or purged.
func (e *Engine) Epoch(ctx context.Context) (id uint64, age time.Duration, err error) {
	if err := e.enter(ctx); err != nil {
		return 0, 0, err
	}
	var b birth
	var hi int64
	_, err = e.decide(ctx, []string{e.at("b", "")}, true, func(v *view) (puts []put, err error) {
		hi = v.hi
		b, puts, err = v.birth(&v.cells[0])
		return puts, err
	})
	if err != nil {
		return 0, 0, err
	}
	return b.ID, time.Duration(max(0, hi-b.At)), nil
}

// birth is when the data began, and if nobody has said that yet, what says it: now.
func (v *view) birth(c *cell) (b birth, puts []put, err error) {
	if c.seq != 0 && !c.marker {
		if err := json.Unmarshal(c.data, &b); err != nil || b.ID == 0 {
			return b, nil, fmt.Errorf("%w: what is kept of the epoch is %q", engine.ErrRefused, c.data)
		}
		return b, nil, nil
	}
	b = birth{rand.Uint64() | 1, v.hi}
	data, _ := json.Marshal(b)
	return b, []put{{subject: c.subject, was: c.seq, data: data}}, nil
}

// sameBirth adds to puts that the data have not begun anew, where puts would not tell: they make
// a cell that is not there. The birth is the last cell of v.
func (v *view) sameBirth(puts []put) []put {
	b := &v.cells[len(v.cells)-1]
	for _, p := range puts {
		if p.was == 0 && b.seq != 0 {
			return append([]put{{subject: b.subject, was: b.seq, check: true}}, puts...)
		}
	}
	return puts
}
