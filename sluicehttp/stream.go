package sluicehttp

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// stream tells of each reading as a server-sent event, until the client leaves, reads too slowly, or the page closes.
// Between two it holds nothing but its place.
func (p *Page) stream(w http.ResponseWriter, r *http.Request) {
	q, err := queryOf(r.URL.Query().Get("view"), r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	x, left := p.latest(r.Context())
	if x == nil {
		return
	}
	b, live := p.part(r.Context(), x, q)
	if !live {
		refuse(w, http.StatusNotFound, "The view has no stream.")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		return // it would not be told anything, and would hold its place for ever
	}
	c := http.NewResponseController(w)
	write := func(b []byte) bool {
		_ = c.SetWriteDeadline(time.Now().Add(writeTime)) // as in send
		if _, err := w.Write(b); err != nil {
			return false
		}
		return c.Flush() == nil
	}
	if !write(fmt.Appendf(nil, "retry: 2000\nevent: hello\ndata: %s\n\n", version)) || !write(b) {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		case <-p.done:
			return
		}
		next, left := p.latest(r.Context())
		if next == nil {
			return
		}
		if next.seq != x.seq {
			x = next
			if b, live = p.part(r.Context(), x, q); !live || !write(b) {
				return
			}
		}
		timer.Reset(left)
	}
}

// maxRendered bounds the queries for which one reading keeps what it has made.
const maxRendered = 32

// rendering is the event of one query, made by who asks first; others wait for it.
type rendering struct {
	once  sync.Once
	event []byte // nil if there is none
}

// part is the event of q's view, made once for all who look at the same.
func (p *Page) part(ctx context.Context, x *reading, q query) (event []byte, live bool) {
	key := q.stream()
	x.mu.Lock()
	r := x.rendered[key]
	if r == nil {
		r = new(rendering)
		if len(x.rendered) < maxRendered {
			x.rendered[key] = r
		}
	}
	x.mu.Unlock()
	r.once.Do(func() { x.cost(func() { r.event = p.event(ctx, x, q) }) })
	return r.event, r.event != nil
}

// event is q's view of x as a server-sent event, or nil if it has none.
func (p *Page) event(ctx context.Context, x *reading, q query) []byte {
	v := p.build(context.WithoutCancel(ctx), x, q) // it is for others too
	if v == nil || !v.Live {
		return nil
	}
	var b bytes.Buffer
	if err := templates().ExecuteTemplate(&b, "live", v); err != nil {
		return nil
	}
	out := fmt.Appendf(make([]byte, 0, b.Len()+b.Len()/16+64), "id: %d\nevent: view\n", x.seq)
	for l := range bytes.Lines(b.Bytes()) {
		out = append(append(append(out, "data: "...), bytes.TrimRight(l, "\r\n")...), '\n')
	}
	return append(out, '\n')
}
