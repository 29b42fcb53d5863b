package sluiceredis

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-go/sluice/engine"
)

type events struct{ e *Engine }

var _ engine.Publisher = events{}

const (
	maxBatch      = 128     // events of one script,
	maxBatchBytes = 4 << 20 // and bytes of their payloads, one event at least
)

func (p events) Publish(ctx context.Context, list []engine.Event) (int, error) {
	if err := p.e.enter(ctx); err != nil {
		return 0, err
	}
	done := 0
	for done < len(list) {
		n, poison := p.batch(list[done:])
		if n > 0 {
			keys := []string{p.e.Stream()}
			args := []string{itoa(millis(p.e.conf.OpMemory)), itoa(p.e.conf.MaxEvents)}
			for _, v := range list[done : done+n] {
				keys = append(keys, p.e.key("d", v.ID))
				args = append(args, v.ID, v.CallID, itoa(int64(v.Seq)), v.Type, v.At.Format(time.RFC3339Nano), string(v.Payload))
			}
			if err := p.e.exec(ctx, publishScript, keys, args).Error(); err != nil {
				return done, outcome(err)
			}
			done += n
		}
		if poison != nil {
			return done, poison
		}
	}
	return done, nil
}

// batch is how many of list one script takes, and why it takes no more, if that is an event
// that none ever will.
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
