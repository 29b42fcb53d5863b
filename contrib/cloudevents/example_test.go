package sluicecloudevents_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/sluice-go/sluice"
	sluicecloudevents "github.com/sluice-go/sluice/contrib/cloudevents"
)

// Events go to a webhook, which calls do not wait for.
func Example() {
	webhook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e struct{ Type, Source, Subject string }
		body, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(body, &e)
		fmt.Println(r.Header.Get("Content-Type"), e.Type, e.Source, e.Subject)
	}))
	defer webhook.Close()

	enc := sluice.Must(sluicecloudevents.NewEncoder(sluicecloudevents.Config{Source: "/agents/planner"}))
	post := sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
		body, err := enc.Encode(e)
		if err != nil {
			return err
		}
		res, err := http.Post(webhook.URL, sluicecloudevents.ContentType, bytes.NewReader(body))
		if err != nil {
			return err
		}
		return res.Body.Close()
	})
	sink := sluice.Must(sluice.NewAsyncSink(post, sluice.AsyncSinkConfig{}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: sink}))
	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, func(ctx context.Context, q string) (string, error) {
		return "3 hits", nil
	}))

	_, _ = search(context.Background(), "go")
	_ = exec.Close(context.Background())
	_ = sink.Close(context.Background())
	// Output:
	// application/cloudevents+json io.github.sluice-go.tool.invoked.v1 /agents/planner search
	// application/cloudevents+json io.github.sluice-go.tool.started.v1 /agents/planner search
	// application/cloudevents+json io.github.sluice-go.tool.completed.v1 /agents/planner search
}
