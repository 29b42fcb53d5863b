// Demo replays the tool calls of an AI agent against a backend with limits, first as they
// come and then through Sluice, and shows the two runs side by side.
//
// The turns are in office/turns/*.json: several tool calls in each answer of a model, three
// priorities, four tenants of which one floods. Each tenant has another provider, and its
// file the bodies of that one's responses: package agent reads them, and renders what goes
// back to the model. The backend is an HTTP server on the loopback interface that enforces
// what hosted APIs enforce: a rate for each API key, a number of requests at once, and one
// endpoint that is broken for a while. Nothing leaves the machine.
//
//	go run ./examples/demo
//	go run ./examples/demo -svg demo.svg	# draws the two runs too
//
// The exit code is 1 if the guarded run broke a promise. Read on in office/run.go for the guard,
// office/backend.go for the server, office/report.go for the figures.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/sluice-go/sluice/examples/demo/office"
)

func main() {
	svg := flag.String("svg", "", "draw the two runs into this `file`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := office.Demo(ctx, os.Stdout, *svg); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
