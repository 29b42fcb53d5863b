package admit

import "github.com/sluice-go/sluice/internal/breaker"

// Release gives back what the running t holds, whose code has ended while nobody knows yet
// what its outcome means. Judge says that later, to the breakers only, before t is freed.
func (m *Machine) Release(now int64, t *Ticket) {
	m.advance(now)
	r := t.rec
	judged := r.judged
	r.judged, r.adaptive = true, false // so that nothing learns from it
	m.finish(t, breaker.Neutral, true)
	r.judged = judged
	m.drain()
}
