// Agent is a whole agent: a model that calls tools, the loop that makes the calls and sends back their
// answers, and limits on the tools. It holds one conversation over OpenAI's chat completions and over
// Anthropic's messages, each with whole answers and with streamed ones.
//
//	go run ./examples/agent
//	go run ./examples/agent -provider anthropic -stream
//
// The loop is in loop.go, within 25 lines, the same for all four. The tools are in tools.go: one has to wait
// for a rate, one takes long while others go on, one fails and is called again. The model, on the loopback
// interface, gets a tool's name wrong and the arguments of another, and calls again when it has read why. It
// follows a script, see model.go, and refuses what its provider would refuse.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

const question = "Oslo or Bergen, for two nights? Book a hotel where the weather is better."

func main() {
	formats := map[string][]agent.Format{"": {agent.OpenAIChat, agent.Anthropic}, "chat": {agent.OpenAIChat}, "anthropic": {agent.Anthropic}}
	streams := []bool{false, true}
	provider := flag.String("provider", "", "chat or anthropic; both if empty")
	flag.BoolFunc("stream", "streamed answers alone, or none if false; both if not set", func(s string) error {
		stream, err := strconv.ParseBool(s)
		streams = []bool{stream}
		return err
	})
	flag.Parse()
	if formats[*provider] == nil {
		log.Fatalf("-provider is %q: must be chat or anthropic", *provider)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, format := range formats[*provider] {
		for _, stream := range streams {
			if err := run(ctx, os.Stdout, loopback, format, stream); err != nil {
				log.Fatal(err)
			}
		}
	}
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
	a, stop, err := newAssistant(w, on, format, stream)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%v, %s\n  user   %s\n", format, map[bool]string{false: "whole", true: "streamed"}[stream], question)
	_, err = a.converse(ctx, []json.RawMessage{text("user", question)})
	return cmp.Or(err, stop(context.WithoutCancel(ctx)))
}

// newAssistant returns an assistant that prints what it does on w, with a model of its own, and what ends both.
func newAssistant(w io.Writer, on network, format agent.Format, stream bool) (*assistant, func(context.Context) error, error) {
	url, stopModel, err := serve(on, (&model{think: 20 * time.Millisecond, pace: time.Millisecond}).handler())
	if err != nil {
		return nil, nil, err
	}
	web := &http.Client{Transport: &http.Transport{DialContext: on.dial}, Timeout: 10 * time.Minute} // as models write for minutes
	log := &transcript{w: w, failed: map[string]error{}}
	exec := newExecutor(log)
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
