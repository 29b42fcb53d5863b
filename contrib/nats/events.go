package sluicenats

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/sluice-go/sluice/engine"
)

type events struct{ e *Engine }

var _ engine.Publisher = events{}

const (
	maxBatch      = 100     // events of one atomic batch,
	maxBatchBytes = 4 << 20 // and bytes of their payloads, one event at least
)

// Publish sends atomic batches: of each all is stored or nothing, in its order. One with an ID
// that is there already is refused as a whole; then each of its events is sent by itself.
func (p events) Publish(ctx context.Context, list []engine.Event) (int, error) {
	if err := p.e.enter(ctx); err != nil {
		return 0, err
	}
	done, remade := 0, false
	for done < len(list) {
		n, poison := p.batch(list[done:])
		if n > 0 {
			sent, err := p.send(ctx, list[done:done+n])
			done += sent
			if errors.Is(err, errMissing) && !remade {
				remade = true
				if e := p.e.brief(ctx, p.e.make); e != nil {
					return done, fmt.Errorf("%w: %w", engine.ErrRefused, e)
				}
				continue
			}
			if err != nil {
				return done, err
			}
		}
		if poison != nil {
			return done, poison
		}
	}
	return done, nil
}

func (p events) send(ctx context.Context, list []engine.Event) (int, error) {
	if len(list) > 1 {
		err := p.together(ctx, list)
		if err == nil {
			return len(list), nil
		}
		if !errors.Is(err, engine.ErrRefused) || errors.Is(err, errMissing) || ctx.Err() != nil {
			return 0, err
		}
	}
	for i := range list {
		if _, _, err := p.e.send(ctx, p.message(&list[i])); err != nil {
			return i, err
		}
	}
	return len(list), nil
}

// together sends them as one batch.
func (p events) together(ctx context.Context, list []engine.Event) error {
	batch := engine.NewOpID().String()
	for i := range list {
		m := p.message(&list[i])
		m.Header.Set("Nats-Batch-Id", batch)
		m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i < len(list)-1 {
			if err := p.e.conn.PublishMsg(m); err != nil {
				return fmt.Errorf("%w: %w", engine.ErrRefused, err)
			}
			continue
		}
		m.Header.Set("Nats-Batch-Commit", "1")
		if _, _, err := p.e.send(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (p events) message(v *engine.Event) *nats.Msg {
	m := nats.NewMsg(p.e.subject())
	m.Data = v.Payload
	m.Header.Set(jetstream.MsgIDHeader, url.PathEscape(v.ID))
	m.Header.Set("Sluice-Call", url.PathEscape(v.CallID))
	m.Header.Set("Sluice-Seq", strconv.FormatUint(uint64(v.Seq), 10))
	m.Header.Set("Sluice-Type", url.PathEscape(v.Type))
	m.Header.Set("Sluice-At", v.At.Format(time.RFC3339Nano))
	return m
}

// batch is how many of list go together, and why no more do, if that is an event that nobody
// ever accepts.
func (p events) batch(list []engine.Event) (n int, poison error) {
	bytes := 0
	for n < len(list) && n < maxBatch {
		v := &list[n]
		switch bytes += len(v.Payload); {
		case v.ID == "" || len(v.ID) > engine.MaxKey:
			return n, fmt.Errorf("%w: length of Event.ID is %d: must be from 1 to %d", engine.ErrPoison, len(v.ID), engine.MaxKey)
		case len(v.Payload) > p.e.conf.MaxValue:
			return n, fmt.Errorf("%w: length of Event.Payload is %d: must be at most %d", engine.ErrPoison, len(v.Payload), p.e.conf.MaxValue)
		case n > 0 && bytes > maxBatchBytes:
			return n, nil
		}
		n++
	}
	return n, nil
}
