// Agent is a whole agent: a model that calls tools, the loop that makes the calls and sends back their
// answers, and limits on the tools. It holds conversations over OpenAI's chat completions and over
// Anthropic's messages, each with whole answers and with streamed ones.
//
//	go run ./examples/agent
//	go run ./examples/agent -provider anthropic -stream
//
// The loop is in loop.go, within 25 lines, the same for all. Somebody plans a trip, with the tools of tools.go: one
// has to wait for a rate, one takes long while others go on, one fails and is called again. Then somebody pays a
// bill, see office.go: a payment waits for approval while the process ends and another takes over, calls on one file
// wait for each other, a tool that fails half-way is undone, one yields its result in parts, and the model is told
// that it goes round in circles.
//
// The model, on the loopback interface, follows a script, see script.go and model.go, and refuses what its provider
// would refuse.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// providers are the values of -provider.
var providers = map[agent.Format]string{agent.OpenAIChat: "chat", agent.Anthropic: "anthropic"}

func main() {
	formats, streams := []agent.Format{agent.OpenAIChat, agent.Anthropic}, []bool{false, true}
	flag.Func("provider", "chat or anthropic; both if not set", func(s string) error {
		formats = slices.DeleteFunc(formats, func(f agent.Format) bool { return providers[f] != s })
		if len(formats) == 0 {
			return errors.New("must be chat or anthropic")
		}
		return nil
	})
	flag.BoolFunc("stream", "streamed answers alone, or none if false; both if not set", func(s string) error {
		stream, err := strconv.ParseBool(s)
		streams = []bool{stream}
		return err
	})
	dir := flag.String("dir", "", "be one process of the office, whose files are in that directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, format := range formats {
		for _, stream := range streams {
			if err := hold(ctx, format, stream, *dir); err != nil {
				log.Fatal(err)
			}
		}
	}
}

// hold holds both conversations, or a part of the office's.
func hold(ctx context.Context, format agent.Format, stream bool, dir string) error {
	if dir != "" {
		return runOffice(ctx, os.Stdout, loopback, format, stream, dir)
	}
	if err := run(ctx, os.Stdout, loopback, format, stream); err != nil {
		return err
	}
	return holdOffice(ctx, os.Stdout, format, stream)
}

// how is how answers come.
func how(stream bool) string {
	if stream {
		return "streamed"
	}
	return "whole"
}

// network is where the model and its client meet.
type network struct {
	listen func() (net.Listener, error)
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
}

var loopback = network{
	listen: func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
	dial:   new(net.Dialer).DialContext,
}

// run holds a conversation, and prints it.
func run(ctx context.Context, w io.Writer, on network, format agent.Format, stream bool) error {
	log := &transcript{w: w, failed: map[string]error{}}
	a, stop, err := newAssistant(log, newExecutor(log), on, format, stream)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%v, %s\n  user   %s\n", format, how(stream), trip.question)
	_, err = a.converse(ctx, []json.RawMessage{text("user", trip.question)})
	return cmp.Or(err, stop(context.WithoutCancel(ctx)))
}

// newAssistant returns an assistant that shows what it does in log, with a model of its own, and what ends both.
func newAssistant(log *transcript, exec *sluice.Executor, on network, format agent.Format, stream bool) (*assistant, func(context.Context) error, error) {
	url, stopModel, err := serve(on, (&model{think: 20 * time.Millisecond, pace: time.Millisecond}).handler())
	if err != nil {
		return nil, nil, err
	}
	web := &http.Client{Transport: &http.Transport{DialContext: on.dial}, Timeout: 10 * time.Minute} // as models write for minutes
	a := &assistant{
		model:  &client{http: web, url: url, format: format, stream: stream},
		exec:   exec,
		runner: sluice.Must(agent.New(exec, agent.Config{Parallel: 8, Deadline: time.Minute})),
		show:   log.show,
	}
	return a, func(ctx context.Context) error {
		err := exec.Close(ctx)
		web.CloseIdleConnections()
		stopModel()
		return err
	}, nil
}

// serve serves h until stop is called.
func serve(on network, h http.Handler) (url string, stop func(), err error) {
	listener, err := on.listen()
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(listener)
	}()
	return "http://" + listener.Addr().String(), func() {
		server.Close()
		<-done
	}, nil
}
