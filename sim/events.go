package sim

// event is something that happens at an instant. Where several do, what ends comes before
// what begins, then the order in which they were foreseen.
type event struct {
	at  int64
	ord uint64 // kind and a serial number
	c   *call
	s   *stream
	n   int // calls at once
}

const (
	ends    = uint64(iota) << 60 // the own work of c is over
	resumes                      // a nested call of c is over
	judges                       // the caller of c is out of time
	calls                        // a caller of s calls again
	arrives                      // the next calls of s
)

func (e *event) kind() uint64 { return e.ord &^ (1<<60 - 1) }

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.ord < o.ord }

// events is a heap with four children per node: flatter, so it touches less memory.
type events struct {
	a      []event
	serial uint64
}

func (h *events) push(kind uint64, e event) {
	h.serial++
	e.ord = kind | h.serial
	h.a = append(h.a, e)
	i := len(h.a) - 1
	for i > 0 {
		p := (i - 1) / 4
		if !e.before(&h.a[p]) {
			break
		}
		h.a[i] = h.a[p]
		i = p
	}
	h.a[i] = e
}

// next is the instant of the first event, never if there is none.
func (h *events) next() int64 {
	if len(h.a) == 0 {
		return never
	}
	return h.a[0].at
}

func (h *events) pop() event {
	first := h.a[0]
	n := len(h.a) - 1
	e := h.a[n]
	h.a[n] = event{}
	h.a = h.a[:n]
	if n == 0 {
		return first
	}
	i := 0
	for {
		k := 4*i + 1
		if k >= n {
			break
		}
		least := k
		for j := k + 1; j < min(k+4, n); j++ {
			if h.a[j].before(&h.a[least]) {
				least = j
			}
		}
		if !h.a[least].before(&e) {
			break
		}
		h.a[i] = h.a[least]
		i = least
	}
	h.a[i] = e
	return first
}
