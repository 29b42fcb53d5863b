package engine

import (
	"context"
	"encoding/binary"
	"fmt"
)

// ask is q's answer to d, of which nothing needs to be believed any more: a lie is an
// error, and an error says whether anything may have been charged.
func ask(ctx context.Context, q Quota, d Draw) (Grant, error) {
	g, err := q.Take(ctx, d)
	if err == nil {
		err = d.Check(g)
	}
	if err != nil {
		return Grant{}, unsure(err)
	}
	return g, nil
}

// fly calls an engine on a goroutine of its own and hands its answer to land, also when
// the engine panics or ends the goroutine.
func fly(call func() (Grant, error), land func(Grant, error)) {
	g, err := Grant{}, fmt.Errorf("%w: the engine ended the goroutine", ErrUnsure)
	defer func() {
		if v := recover(); v != nil {
			g, err = Grant{}, fmt.Errorf("%w: the engine panicked: %v", ErrUnsure, v)
		}
		land(g, err)
	}()
	g, err = call()
}

// appendMeters appends what tells lists of meters apart.
func appendMeters(b []byte, list []Meter) []byte {
	for _, m := range list {
		b = binary.AppendUvarint(b, uint64(len(m.Key)))
		b = append(b, m.Key...)
		b = binary.AppendUvarint(b, uint64(m.N))
		b = binary.AppendUvarint(b, uint64(m.Per))
		b = binary.AppendUvarint(b, uint64(m.Burst))
		b = binary.AppendUvarint(b, uint64(m.Each))
		cold := byte(0)
		if m.Cold {
			cold = 1
		}
		b = append(b, cold)
	}
	return b
}

// tell calls f, whose panic is its own affair.
func tell(f func()) {
	defer func() { _ = recover() }()
	f()
}
