package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// What tools are asked.
type (
	weatherIn struct {
		City string `json:"city"`
	}
	flightsIn struct {
		To string `json:"to"`
	}
	rateIn struct {
		From string `json:"from"`
		To   string `json:"to"`
	}
	hotelIn struct {
		City   string `json:"city"`
		Nights int    `json:"nights"`
	}
)

type flight struct {
	Number  string `json:"number"`
	Departs string `json:"departs"`
}

// newExecutor returns an executor with the tools, within the limits of what stands behind them: a weather
// API that takes two requests a second, and a booking system that takes one at a time.
func newExecutor(sink sluice.EventSink) *sluice.Executor {
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name:  "weather",
		Scope: sluice.ForType("weather"),
		Rates: []sluice.Rate{{N: 2, Per: time.Second, Burst: 1}},
	}))
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{Max: 8}, {Max: 1, Scope: sluice.ForType("booking")}},
	}))
	conf := sluice.Must(resilience.Standard(resilience.StandardConfig{
		Total: 30 * time.Second,
		// One process asks, so there is nobody to come back together with, and no need for jitter.
		Retry: resilience.RetryConfig{Base: 100 * time.Millisecond, Jitter: resilience.NoJitter},
		Gates: []sluice.Interceptor{rates, limits},
	}))
	conf.Sink = sink
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), conf))
	read := sluice.Hints{ReadOnly: true, OpenWorld: true} // so it may be called again if it fails
	add(exec, "weather", "weather", "Forecast for a city.", read, weather,
		`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}`)
	add(exec, "flights", "web", "Flights to a city tomorrow.", read, flights,
		`{"type":"object","properties":{"to":{"type":"string"}},"required":["to"]}`)
	add(exec, "exchange_rate", "web", "What one unit of a currency costs in another.", read, newExchangeRate(),
		`{"type":"object","properties":{"from":{"type":"string"},"to":{"type":"string"}},"required":["from","to"]}`)
	add(exec, "book_hotel", "booking", "Book a room.", sluice.Hints{Destructive: true, OpenWorld: true}, bookHotel,
		`{"type":"object","properties":{"city":{"type":"string"},"nights":{"type":"integer","minimum":1}},"required":["city","nights"]}`)
	return exec
}

// add registers a tool.
func add[In, Out any](exec *sluice.Executor, name, kind, description string, hints sluice.Hints, fn func(context.Context, In) (Out, error), schema string) {
	sluice.Must(sluice.Register(exec.Registry(), sluice.Spec{
		Name: name, Type: kind, Description: description, Hints: hints, InputSchema: json.RawMessage(schema),
	}, fn))
}

func weather(ctx context.Context, in weatherIn) (string, error) {
	if err := pause(ctx, 20*time.Millisecond); err != nil {
		return "", err
	}
	return map[string]string{"Oslo": "sunny, 7 °C", "Bergen": "rain, 9 °C"}[in.City], nil
}

// flights takes its time: other calls of the turn run beside it.
func flights(ctx context.Context, in flightsIn) ([]flight, error) {
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return nil, err
	}
	return []flight{{"SK 882", "09:40"}, {"DY 1061", "16:05"}}, nil
}

// newExchangeRate returns a tool whose first call fails.
func newExchangeRate() func(context.Context, rateIn) (float64, error) {
	var asked atomic.Bool
	return func(ctx context.Context, in rateIn) (float64, error) {
		if err := pause(ctx, 30*time.Millisecond); err != nil {
			return 0, err
		}
		if !asked.Swap(true) {
			return 0, errors.New("the bank does not answer")
		}
		return 11.75, nil
	}
}

func bookHotel(ctx context.Context, in hotelIn) (string, error) {
	if err := pause(ctx, 50*time.Millisecond); err != nil {
		return "", err
	}
	return fmt.Sprintf("booked: %s, %d nights", in.City, in.Nights), nil
}

// pause waits for d, or until ctx ends, and then returns its cause.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
