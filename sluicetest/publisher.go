package sluicetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// Publisher checks what an [engine.Publisher] must do. open is called once per rule; the
// function it returns reads back what is stored, oldest first. Events of others may be
// among that.
func Publisher(t T, open func() (engine.Publisher, func() []engine.Event), o Options) {
	t.Helper()
	each(t, "Publisher", o, func() stream { p, read := open(); return stream{p, read} }, publisherRules)
}

// stream is a publisher and what it stored.
type stream struct {
	engine.Publisher
	read func() []engine.Event
}

var publisherRules = []rule[stream]{
	{"All", publisherAll},
	{"Once", publisherOnce},
	{"Owned", publisherOwned},
	{"Prefix", publisherPrefix},
	{"EndedContext", publisherEndedContext},
	{"Together", publisherTogether},
}

// batch is events from..to-1 of a call.
func (r *run) batch(call string, from, to int) []engine.Event {
	var list []engine.Event
	for n := from; n < to; n++ {
		list = append(list, engine.Event{
			ID: fmt.Sprintf("%s.%d", call, n), CallID: call, Seq: uint32(n), Type: "tool.started",
			At: time.Unix(1_700_000_000, int64(n)*1000).UTC(), Payload: fmt.Appendf(nil, `{"n":%d}`, n),
		})
	}
	return list
}

func (r *run) publish(s stream, list []engine.Event) {
	r.t.Helper()
	n, err := s.Publish(r.ctx, list)
	r.must(err == nil, "Publish returned %v", err)
	r.must(n == len(list), "Publish returned no error and acknowledged %d of %d events: without an error it is all of them", n, len(list))
}

// stored are the events of call, in the stored order.
func (s stream) stored(call string) []engine.Event {
	return slices.DeleteFunc(s.read(), func(e engine.Event) bool { return e.CallID != call })
}

func ids(list []engine.Event) string {
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprint(e.Seq))
	}
	return strings.Join(out, " ")
}

func publisherAll(r *run, s stream) {
	call := r.key("all")
	n, err := s.Publish(r.ctx, nil)
	r.must(n == 0 && err == nil, "Publish of no events returned %d, %v", n, err)
	want := r.batch(call, 1, 10)
	r.publish(s, want[:4])
	r.publish(s, want[4:])
	got := s.stored(call)
	r.must(ids(got) == ids(want), "events 1 to 9 were acknowledged, and stored are %s: all of them, in their order", ids(got))
	for i, e := range got {
		w := want[i]
		same := e.ID == w.ID && e.Type == w.Type && e.At.Equal(w.At) && string(e.Payload) == string(w.Payload)
		r.must(same, "event %d came back as %+v: must be as it was published", w.Seq, e)
	}
}

func publisherOnce(r *run, s stream) {
	call := r.key("once")
	all := r.batch(call, 1, 8)
	r.publish(s, all[:5])
	r.publish(s, all[2:])
	r.publish(s, all)
	got := s.stored(call)
	r.must(ids(got) == ids(all), "events 1 to 7 were sent with repetitions, and stored are %s: each ID once, in order", ids(got))
}

func publisherOwned(r *run, s stream) {
	call := r.key("owned")
	list := r.batch(call, 1, 2)
	r.publish(s, list)
	copy(list[0].Payload, "ruined")
	list[0].Type = "ruined"
	got := s.stored(call)
	r.must(len(got) == 1 && string(got[0].Payload) == `{"n":1}` && got[0].Type == "tool.started", "the caller changed its events after Publish, and what is stored changed with them: the engine must keep a copy")
}

func publisherPrefix(r *run, s stream) {
	call := r.key("prefix")
	list := r.batch(call, 1, 4)
	list[1].ID = ""
	n, err := s.Publish(r.ctx, list)
	if err == nil {
		r.must(n == 3, "Publish returned no error and acknowledged %d of 3 events", n)
		return // an engine may take an event without an ID; then nobody can repeat it
	}
	r.must(n == 1, "Publish failed on the second of 3 events and acknowledged %d: must be those before it, 1", n)
	r.must(errors.Is(err, engine.ErrPoison), "Publish of an event without an ID returned %v, not ErrPoison: the sender must know to set it aside", err)
	got := s.stored(call)
	r.must(ids(got) == "1", "Publish acknowledged event 1 alone, and stored are %q", ids(got))
	r.publish(s, list[2:])
	r.must(ids(s.stored(call)) == "1 3", "after an event that cannot be accepted the next one was not stored")
}

func publisherEndedContext(r *run, s stream) {
	call := r.key("ended")
	list := r.batch(call, 1, 4)
	n, err := s.Publish(endedContext(), list)
	r.must(err != nil || n == 3, "Publish acknowledged %d of 3 events and returned no error", n)
	r.must(n >= 0 && n <= 3, "Publish acknowledged %d of 3 events", n)
	r.Sleep(r.Tick)
	got := s.stored(call)
	r.must(len(got) >= n, "Publish acknowledged %d events, and stored are %d", n, len(got))
	if n == 0 && errors.Is(err, engine.ErrRefused) {
		r.must(len(got) == 0, "Publish returned ErrRefused, and %d events are stored: ErrRefused means certainly not", len(got))
	}
	r.publish(s, list[n:])
	r.must(ids(s.stored(call)) == "1 2 3", "events repeated after an error are stored as %q: each once, in order", ids(s.stored(call)))
}

func publisherTogether(r *run, s stream) {
	const clients, times = 4, 10
	calls := make([]string, clients)
	for i := range calls {
		calls[i] = r.key("together")
	}
	r.together(clients, func(i int) {
		for n := range times {
			list := r.batch(calls[i], 3*n+1, 3*n+4)
			if got, err := s.Publish(r.ctx, list); err != nil || got != 3 {
				r.fail("Publish of 3 events returned %d, %v", got, err)
			}
		}
	})
	for _, call := range calls {
		got := s.stored(call)
		r.must(ids(got) == ids(r.batch(call, 1, 3*times+1)), "events of one call, published in order beside others, are stored as %s", ids(got))
	}
}
