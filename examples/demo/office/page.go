package office

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// Page makes the guarded run again and again until ctx ends, and serves on l the page of its executor, where whoever
// looks can change the limits: the backend's stay what they are. It closes l. A nil error means that ctx has ended.
func Page(ctx context.Context, l net.Listener, o Observer) error { return loopback.page(ctx, l, o) }

func (n network) page(ctx context.Context, l net.Listener, o Observer) error {
	defer l.Close()
	turns, err := loadTurns(turnFiles)
	if err != nil {
		return err
	}
	recent := new(sluicehttp.Recent)
	o.Sink = sluice.MultiSink(recent, o.Sink)
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	watch := o.Watch
	o.Watch = func(exec *sluice.Executor) {
		srv.Handler = sluice.Must(sluicehttp.New(sluicehttp.Config{
			Executor: exec,
			Recent:   recent,
			Actor:    func(*http.Request) string { return "whoever looks at the demo" },
			Gates:    o.listed,
			Sink:     recent,
		}))
		go func() { served <- srv.Serve(l) }()
		if watch != nil {
			watch(exec)
		}
	}
	_, err = n.rounds(ctx, terminal{w: io.Discard}, turns, guardedSeenBy(&o), math.MaxInt)
	srv.Close()
	<-served
	if ctx.Err() != nil {
		err = nil // somebody has seen enough
	}
	return err
}

// ListenHere listens for a page at address, which has to be one of this machine alone.
func ListenHere(address string) (net.Listener, error) {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("the page's address is %q: %w", address, err)
	}
	if !a.IP.IsLoopback() {
		return nil, fmt.Errorf("the page's address is %q: must be on the loopback interface, as localhost:8080 or [::1]:0", address)
	}
	return net.ListenTCP("tcp", a)
}
