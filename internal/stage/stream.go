package stage

import (
	"slices"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/record"
)

// Holder is a stream that holds an attempt open.
type Holder interface {
	Cut() // ends it: the attempt has failed
}

// Stream is what became of the attempt whose result the caller has, and which is held.
type Stream struct {
	Err    error          // what the stream ended with
	Keeps  any            // the call's end, if that has to wait for the stream
	Record *record.Record // of the call, then

	p       *Permit
	outcome breaker.Outcome
}

// streams are those of a call's attempts.
type streams struct {
	list   []held
	after  []after
	early  []Stream // that failed before their code has returned
	Stream          // without a permit until one has returned
}

type held struct {
	p *Permit
	h Holder
}

// after is what to call once no stream holds p's attempt any more.
type after struct {
	p *Permit
	f func()
}

// stream is the stream if that is p's, else nil.
func (y *Tally) stream(p *Permit) *Stream {
	if m := y.more.Load(); m != nil && m.streams != nil && m.streams.p == p {
		return &m.streams.Stream
	}
	return nil
}

// Keep lets one more stream hold the attempt open, unless that must not be any more.
func (p *Permit) Keep(h Holder) permit.Refusal {
	s := p.lock()
	defer s.Unlock()
	if !p.live {
		return permit.Returned
	}
	if r := p.Hold(); r != permit.None {
		return r
	}
	m := p.tally.own()
	if m.streams == nil {
		m.streams = new(streams)
	}
	m.streams.list = append(m.streams.list, held{p, h})
	return permit.None
}

// Streams says that the result of p's attempt, which has returned it, is the call's as far as
// anybody knows yet.
func (p *Permit) Streams() {
	if p.WasHeld() {
		p.streams()
	}
}

func (p *Permit) streams() {
	s := p.lock()
	if x := p.tally.own().streams; x.Keeps == nil {
		x.Stream = Stream{p: p}
		if i := slices.IndexFunc(x.early, func(e Stream) bool { return e.p == p }); i >= 0 {
			x.Stream = x.early[i]
		}
	}
	s.Unlock()
}

// CutStreams cuts those that hold p's attempt, which has failed.
func (p *Permit) CutStreams() {
	if !p.IsHeld() {
		return
	}
	s := p.lock()
	list := slices.Clone(p.tally.own().streams.list)
	s.Unlock()
	for _, x := range list {
		if x.p == p {
			x.h.Cut()
		}
	}
}

// AfterStreams has f called once no stream holds p's attempt any more, and reports whether one does.
func (p *Permit) AfterStreams(f func()) bool {
	if !p.IsHeld() {
		return false
	}
	s := p.lock()
	defer s.Unlock()
	x := p.tally.own().streams
	if x == nil || !x.hold(p) {
		return false
	}
	x.after = append(x.after, after{p, f})
	return true
}

// hold reports whether some of them holds p's attempt.
func (x *streams) hold(p *Permit) bool {
	return slices.ContainsFunc(x.list, func(y held) bool { return y.p == p })
}

// Drop says that h has ended, with that error and outcome. The State is told of it apart. It answers what
// is to be called then, see AfterStreams.
func (p *Permit) Drop(h Holder, err error, o breaker.Outcome) (next []func()) {
	s := p.lock()
	x := p.tally.own().streams
	x.list = slices.DeleteFunc(x.list, func(y held) bool { return y.h == h })
	if len(x.after) > 0 && !x.hold(p) {
		x.after = slices.DeleteFunc(x.after, func(a after) bool {
			if a.p == p {
				next = append(next, a.f)
			}
			return a.p == p
		})
	}
	switch r := p.tally.stream(p); {
	case err == nil:
	case r == nil: // the code has not returned yet
		x.early = append(x.early, Stream{p: p, Err: err, outcome: o})
	case r.Err == nil:
		r.Err, r.outcome = err, o
	}
	s.Unlock()
	return next
}
