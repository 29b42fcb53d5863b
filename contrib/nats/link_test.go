package sluicenats_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// link is a way to a server that holds up whatever goes there and comes back, and can be cut.
type link struct {
	to    string
	l     net.Listener
	delay atomic.Int64 // nanoseconds
	held  atomic.Bool  // nothing gets through as long as this is so, as of a server that has stopped

	mu    sync.Mutex
	isCut bool
	conns map[net.Conn]bool
}

func newLink(t testing.TB, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	x := &link{to: to, l: l, conns: map[net.Conn]bool{}}
	t.Cleanup(func() { x.set(true); _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go x.join(in)
		}
	}()
	return x
}

func (x *link) addr() string { return x.l.Addr().String() }

// join connects in with the server, as long as the link is not cut.
func (x *link) join(in net.Conn) {
	out, err := net.Dial("tcp", x.to)
	if err != nil {
		_ = in.Close()
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.isCut {
		_, _ = in.Close(), out.Close()
		return
	}
	x.conns[in], x.conns[out] = true, true
	go x.pass(in, out)
	go x.pass(out, in)
}

// set cuts the link, or mends it.
func (x *link) set(isCut bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.isCut = isCut; isCut {
		for c := range x.conns {
			_ = c.Close()
		}
		clear(x.conns)
	}
}

// pass copies each piece when the link's delay is over.
func (x *link) pass(from, to net.Conn) {
	type piece struct {
		at   time.Time
		data []byte
	}
	pieces := make(chan piece, 1000)
	go func() {
		for p := range pieces {
			time.Sleep(time.Until(p.at))
			for x.held.Load() {
				time.Sleep(time.Millisecond)
			}
			if _, err := to.Write(p.data); err != nil {
				break
			}
		}
		_ = to.Close()
		x.mu.Lock()
		delete(x.conns, to)
		x.mu.Unlock()
		for range pieces { // what nobody reads any more
		}
	}()
	defer close(pieces)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			pieces <- piece{time.Now().Add(time.Duration(x.delay.Load())), append([]byte(nil), buf[:n]...)}
		}
		if err != nil {
			return
		}
	}
}

// relay holds up whatever goes to addr, and comes from it, for d.
func relay(t testing.TB, addr string, d time.Duration) string {
	t.Helper()
	x := newLink(t, addr)
	x.delay.Store(int64(d))
	return x.addr()
}
