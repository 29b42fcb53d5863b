package sluicenats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/sluice-go/sluice/engine"
)

// All that the engine decides is done in one way. It reads the cells, the last messages of some
// subjects, that a decision rests on, decides, and sends what is to be in their place, as one
// message or as one atomic batch, which the server takes if none of the cells has changed, and
// refuses whole if one has. Then it reads again.

// cell is the last message of a subject.
type cell struct {
	subject string
	seq     uint64 // zero if there is none
	data    []byte
	end     int64 // when it ends, nanoseconds since 1970 by the server's clock; zero never
	marker  bool  // it says that what was there was erased
}

// put is what is to be in a cell's place.
type put struct {
	subject string
	was     uint64
	any     bool // was does not matter
	check   bool // was must be, and stays
	data    []byte
	end     int64
	ttl     time.Duration // for which the server keeps it at least; zero is for ever
	marker  bool
}

const endHeader = "Sluice-End"

// subject is that of what is of one kind and called key. A key is one token: what a token cannot
// have is in it as = and two hexadecimal digits.
func (e *Engine) at(kind, key string) string {
	const hex = "0123456789ABCDEF"
	b := []byte(e.prefix + kind)
	if key != "" {
		b = append(b, '.')
	}
	for i := range len(key) {
		switch c := key[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '/':
			b = append(b, c)
		default:
			b = append(b, '=', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

// key is what at made subject of.
func (e *Engine) key(kind, subject string) (string, bool) {
	s, ok := strings.CutPrefix(subject, e.prefix+kind+".")
	if !ok || !strings.Contains(s, "=") {
		return s, ok
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '=' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b = append(b, byte(n))
		i += 2
	}
	return string(b), true
}

// errMissing says that there is no bucket: a server that kept it in memory has begun anew.
var errMissing = fmt.Errorf("%w: the bucket is not there", engine.ErrRefused)

// ask makes one request that changes nothing. If there is no bucket it is made, once.
func (e *Engine) ask(ctx context.Context, request func(context.Context) error) error {
	for first := true; ; first = false {
		if err := e.enter(ctx); err != nil {
			return err
		}
		err := e.brief(ctx, request)
		switch {
		case err == nil || errors.Is(err, jetstream.ErrMsgNotFound):
			return err
		case !missing(err) || !first:
			return fmt.Errorf("%w: %w", engine.ErrRefused, err) // it was to change nothing
		}
		if err := e.brief(ctx, e.make); err != nil {
			return fmt.Errorf("%w: %w", engine.ErrRefused, err)
		}
	}
}

func missing(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, errMissing)
}

func (e *Engine) read(ctx context.Context, subject string) (cell, error) {
	var m *jetstream.RawStreamMsg
	err := e.ask(ctx, func(ctx context.Context) (err error) {
		m, err = e.stored().GetLastMsgForSubject(ctx, subject)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return cell{subject: subject}, nil
	case err != nil:
		return cell{}, err
	}
	return cellOf(subject, m.Sequence, m.Header, m.Data), nil
}

func cellOf(subject string, seq uint64, h nats.Header, data []byte) cell {
	c := cell{subject: subject, seq: seq, data: data}
	c.marker = h.Get("KV-Operation") != ""
	c.end, _ = strconv.ParseInt(h.Get(endHeader), 10, 64)
	return c
}

// readAll reads each of them, at some instant of its own.
func (e *Engine) readAll(ctx context.Context, subjects []string) ([]cell, error) {
	cells, errs := make([]cell, len(subjects)), make([]error, len(subjects))
	if len(subjects) == 1 {
		cells[0], errs[0] = e.read(ctx, subjects[0])
		return cells, errs[0]
	}
	var wg sync.WaitGroup
	for i, s := range subjects {
		wg.Go(func() { cells[i], errs[i] = e.read(ctx, s) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return cells, nil
}

// view is what a decision rests on.
type view struct {
	cells  []cell
	lo, hi int64     // the server's time is between these
	sent   time.Time // before that was so
	unsure int64     // an end that is between them
}

// there reports whether the record in c has not ended.
func (v *view) there(c *cell) bool {
	if c.seq == 0 || c.marker || c.end != 0 && v.lo >= c.end {
		return false
	}
	if c.end != 0 && v.hi >= c.end {
		v.unsure = max(v.unsure, c.end)
	}
	return true
}

// rev is the revision of the record in c, zero if there is none.
func (v *view) rev(c *cell) engine.Revision {
	if v.there(c) {
		return engine.Revision(c.seq)
	}
	return 0
}

// errChanged says that a cell has changed since it was read.
var errChanged = fmt.Errorf("%w: others have changed the same too often meanwhile", engine.ErrRefused)

// tries is how often a decision is made anew because others were quicker.
const tries = 100

// decide reads subjects and puts what f says in their place, if that is anything, again and again
// until nobody else was quicker. It returns the sequence number of the first message put. What f
// said last counts. If timed the answer is not told before v.hi has come.
func (e *Engine) decide(ctx context.Context, subjects []string, timed bool, f func(v *view) ([]put, error)) (first uint64, err error) {
	unlock, err := e.locks.lock(ctx, e.quit.Done(), slices.DeleteFunc(slices.Clone(subjects), func(s string) bool { return s == e.at("b", "") }))
	if err != nil {
		return 0, err
	}
	defer unlock()
	for try := 0; try < tries; {
		v := &view{sent: time.Now()}
		if v.lo, v.hi, err = e.now(ctx); err != nil {
			return 0, err
		}
		if v.cells, err = e.readAll(ctx, subjects); err != nil {
			return 0, err
		}
		puts, err := f(v)
		if v.unsure != 0 { // whether a record is there nobody knows yet
			e.past(v.unsure)
			continue
		}
		if err == nil && len(puts) > 0 {
			first, err = e.put(ctx, puts)
		} else if again, failed := e.late(ctx, v); failed != nil {
			return 0, failed
		} else if again {
			continue
		}
		switch {
		case errors.Is(err, errChanged):
			try++
			if try > 2 {
				e.pause(ctx, time.Duration(rand.Int64N(int64(min(try, 20))*int64(time.Millisecond))))
			}
			continue
		case errors.Is(err, errMissing):
			if err := e.brief(ctx, e.make); err != nil {
				return 0, fmt.Errorf("%w: %w", engine.ErrRefused, err)
			}
			try++
			continue
		}
		if timed {
			e.past(v.hi)
		}
		return first, err
	}
	return 0, errChanged
}

// late reports whether a named operation of v, which was not done when its cell was read, is done
// now: nothing is put then that the server would refuse, but what denied or refused it may be its
// own effect.
func (e *Engine) late(ctx context.Context, v *view) (bool, error) {
	for _, c := range v.cells {
		if c.seq == 0 && strings.HasPrefix(c.subject, e.prefix+"o.") {
			c, err := e.read(ctx, c.subject)
			return c.seq != 0, err
		}
	}
	return false, nil
}

// pause waits, unless something ends the wait.
func (e *Engine) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-e.quit.Done():
	}
}

// put sends what is to be, all of it or nothing, and returns the sequence number of the first.
func (e *Engine) put(ctx context.Context, list []put) (first uint64, err error) {
	var batch string
	if len(list) > 1 || list[0].check {
		batch = engine.NewOpID().String()
	}
	for i, p := range list {
		m := nats.NewMsg(p.subject)
		if !p.any {
			m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(p.was, 10))
		}
		if m.Data = p.data; p.check { // a message that says nothing carries the condition
			m.Subject = e.at("x", "")
			m.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, p.subject)
			p.ttl = time.Second
		}
		if p.marker {
			m.Header.Set("KV-Operation", "DEL")
		}
		if p.end != 0 {
			m.Header.Set(endHeader, strconv.FormatInt(p.end, 10))
		}
		if p.ttl != 0 {
			m.Header.Set(jetstream.MsgTTLHeader, strconv.FormatInt(int64((p.ttl+time.Second-1)/time.Second), 10))
		}
		if batch != "" {
			m.Header.Set("Nats-Batch-Id", batch)
			m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		}
		if i < len(list)-1 {
			if err := e.enter(ctx); err != nil {
				return 0, err
			}
			if err := e.conn.PublishMsg(m); err != nil {
				return 0, fmt.Errorf("%w: %w", engine.ErrRefused, err) // a batch without its end is none
			}
			continue
		}
		if batch != "" {
			m.Header.Set("Nats-Batch-Commit", "1")
		}
		last, _, err := e.send(ctx, m)
		if err != nil {
			return 0, err
		}
		return last - uint64(len(list)-1), nil
	}
	return 0, nil
}

// What a server says of a message that it has not stored.
const (
	wrongSequence  = 10071 // a cell has changed
	wrongConstant  = 10164 // or is being changed
	incomplete     = 10176 // a batch, because it was refused when it began
	tooManyBatches = 10210
)

// send publishes m and returns its sequence number, and whether it was there before.
func (e *Engine) send(ctx context.Context, m *nats.Msg) (seq uint64, again bool, err error) {
	if err := e.enter(ctx); err != nil {
		return 0, false, err
	}
	var answer *nats.Msg
	err = e.brief(ctx, func(ctx context.Context) (err error) {
		answer, err = e.conn.RequestMsgWithContext(ctx, m)
		return err
	})
	switch {
	case errors.Is(err, engine.ErrRefused):
		return 0, false, err
	case errors.Is(err, nats.ErrNoResponders):
		return 0, false, errMissing
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrHeadersNotSupported), errors.Is(err, nats.ErrConnectionClosed) && e.conn.IsClosed():
		return 0, false, unsent(err)
	case err != nil:
		return 0, false, fmt.Errorf("%w: %w", engine.ErrUnsure, err)
	}
	var ack struct {
		Error     *jetstream.APIError `json:"error"`
		Seq       uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, false, fmt.Errorf("%w: the server answered %q", engine.ErrUnsure, answer.Data)
	}
	if ack.Error == nil {
		return ack.Seq, ack.Duplicate, nil
	}
	switch code := int(ack.Error.ErrorCode); {
	case code == wrongSequence || code == wrongConstant || code == incomplete || code == tooManyBatches:
		return 0, false, fmt.Errorf("%w (%w)", errChanged, ack.Error)
	case strings.Contains(ack.Error.Description, "maximum") || strings.Contains(ack.Error.Description, "resource"):
		return 0, false, fmt.Errorf("%w: %w", engine.ErrFull, ack.Error)
	case ack.Error.Code >= 500:
		return 0, false, fmt.Errorf("%w: %w", engine.ErrUnsure, ack.Error)
	default:
		return 0, false, fmt.Errorf("%w: %w", engine.ErrRefused, ack.Error)
	}
}

// unsent is the refusal of what did not leave this process. A connection that was closed while
// an answer was on its way leaves it open what that was.
func unsent(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("%w: %w", engine.ErrUnsure, err)
	}
	return fmt.Errorf("%w: %w", engine.ErrRefused, err)
}

// locks let one decision of this process at a time be about a cell: others would only be in its
// way.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	free  chan struct{} // room for one: whoever holds it has filled it
	users int
}

// lock waits for all of them, in an order that no two can differ in.
func (l *locks) lock(ctx context.Context, quit <-chan struct{}, subjects []string) (unlock func(), err error) {
	subjects = slices.Compact(slices.Sorted(slices.Values(subjects)))
	done := 0
	unlock = func() {
		for _, s := range subjects[:done] {
			l.leave(s, true)
		}
	}
	for _, s := range subjects {
		select {
		case l.enter(s).free <- struct{}{}:
			done++
			continue
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", engine.ErrRefused, context.Cause(ctx))
		case <-quit:
			err = engine.ErrClosed
		}
		l.leave(s, false)
		unlock()
		return nil, err
	}
	return unlock, nil
}

func (l *locks) enter(s string) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	one := l.held[s]
	if one == nil {
		one = &lock{free: make(chan struct{}, 1)}
		l.held[s] = one
	}
	one.users++
	return one
}

func (l *locks) leave(s string, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.held[s]
	if held {
		<-one.free
	}
	if one.users--; one.users == 0 {
		delete(l.held, s)
	}
}
