// Wrap puts three existing functions of an agent behind Sluice: one line for each
// function, and no other line of the agent changes. It shows what a wrapped function
// answers when its tool fails, takes too long, or is refused without having run.
//
//	go run ./examples/wrap
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/sluice-go/sluice"
)

// The agent's own functions, as they were.

type SearchIn struct{ Query string }
type SearchOut struct{ URLs []string }

func searchWeb(ctx context.Context, in SearchIn) (SearchOut, error) {
	if in.Query == "" {
		return SearchOut{}, errors.New("search: empty query")
	}
	return SearchOut{URLs: []string{"https://go.dev", "https://go.dev/missing", "https://go.dev/slow"}}, nil
}

func fetchPage(ctx context.Context, url string) (string, error) {
	switch url {
	case "https://go.dev/missing":
		return "", errors.New("fetch: 404 not found")
	case "https://go.dev/slow":
		<-ctx.Done() // a server that does not answer
		return "", ctx.Err()
	}
	return "page of " + url, nil
}

func sendMail(ctx context.Context, m map[string]string) (struct{}, error) {
	fmt.Println("mail to", m["to"])
	return struct{}{}, nil
}

func main() {
	limits, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{Max: 32}, {Max: 4, Scope: sluice.ForType("web")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{limits},
		Timeout:      200 * time.Millisecond,
	}))
	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search", Type: "web"}, searchWeb))
	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch", Type: "web"}, fetchPage))
	send := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "send_mail"}, sendMail))

	// From here on the agent calls its functions as before.
	ctx := context.Background()
	out, err := search(ctx, SearchIn{Query: "go"})
	fmt.Println("search:", out.URLs, explain(err))
	for _, url := range out.URLs {
		page, err := fetch(ctx, url)
		fmt.Printf("fetch %s: %q, %s\n", url, page, explain(err))
	}
	_, err = send(ctx, map[string]string{"to": "jo@example.com"})
	fmt.Println("send:", explain(err))

	if err := exec.Close(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = send(ctx, map[string]string{"to": "too-late@example.com"})
	fmt.Println("send:", explain(err))
}

// explain tells the three kinds of errors apart.
func explain(err error) string {
	e, own := errors.AsType[*sluice.Error](err)
	switch {
	case err == nil:
		return "fine"
	case errors.Is(err, sluice.ErrRejected) && own: // certainly did not run
		return fmt.Sprintf("refused (%v), retry in %v", e.Reason, e.RetryAfter)
	case errors.Is(err, context.DeadlineExceeded):
		return "too slow"
	}
	return "failed: " + err.Error() // the function's own error, untouched
}
