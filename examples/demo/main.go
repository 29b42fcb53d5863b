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
// With -page it makes the guarded run again and again, prints the address of a page that shows its executor while it
// does, and serves it until it is interrupted; what the page changes is at work at once.
//
//	go run ./examples/demo -page
//	go run ./examples/demo -page localhost:8080
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, f *os.File) error {
	flags := flag.NewFlagSet("demo", flag.ExitOnError)
	page := flags.Bool("page", false, "serve a page of the guarded run, at the loopback address that follows, or at a free port, until interrupted")
	svg := flags.String("svg", "", "draw the two runs into this `file`")
	flags.Parse(args)
	address := "localhost:0"
	switch {
	case *page && flags.NArg() == 1:
		address = flags.Arg(0)
	case flags.NArg() > 0:
		return fmt.Errorf("%q is no argument of the demo: it takes -page and an address, -svg and a file, or none", flags.Args())
	}
	if !*page {
		return office.Demo(ctx, f, *svg)
	}
	l, err := office.ListenHere(address)
	if err != nil {
		return err
	}
	fmt.Fprintf(f, "The page is at http://%s/ until you interrupt this (Ctrl-C).\n", l.Addr())
	return office.Page(ctx, l, office.Observer{})
}
