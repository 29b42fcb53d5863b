package errors_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/sluice-go/sluice"
)

func Example_timeout() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Timeout: 10 * time.Millisecond}))
	defer exec.Close(ctx)
	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch"}, func(ctx context.Context, url string) (string, error) {
		<-ctx.Done() // as a request with this context would
		return "", ctx.Err()
	}))

	_, err := fetch(ctx, "https://example.com/slow")
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	fmt.Println("it ran:", !errors.Is(err, sluice.ErrRejected), errors.Is(err, context.DeadlineExceeded))
	// Output:
	// timeout
	// sluice: tool "fetch": tool timed out: context deadline exceeded
	// it ran: true true
}

func Example_canceled() {
	exec := newExecutor()
	defer exec.Close(ctx)
	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch"}, func(ctx context.Context, url string) (string, error) {
		return "page", nil
	}))

	left, cancel := context.WithCancelCause(ctx)
	cancel(errors.New("the user has closed the window"))
	_, err := fetch(left, "https://example.com/")
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	// Output:
	// canceled
	// sluice: tool "fetch": rejected: the user has closed the window
}

func Example_panic() {
	exec := newExecutor()
	defer exec.Close(ctx)
	parse := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "parse"}, func(_ context.Context, lines []string) (string, error) {
		return lines[0], nil
	}))

	_, err := parse(ctx, nil)
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	if p, ok := errors.AsType[*sluice.PanicError](err); ok {
		fmt.Println(p.Value, len(p.Stack) > 0) // for your log
	}
	// Output:
	// panic
	// sluice: code of tool "parse" panicked
	// runtime error: index out of range [0] with length 0 true
}

func Example_goexit() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Timeout: time.Second}))
	defer exec.Close(ctx)
	check := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "check"}, func(context.Context, string) (string, error) {
		runtime.Goexit() // as t.FailNow does
		return "", nil
	}))

	_, err := check(ctx, "")
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	// Output:
	// goexit
	// sluice: code of tool "check" called runtime.Goexit
}

var errNotFound = errors.New("no such customer")

func Example_toolError() {
	exec := newExecutor()
	defer exec.Close(ctx)
	lookup := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "lookup"}, func(context.Context, string) (string, error) {
		return "", errNotFound
	}))

	_, err := lookup(ctx, "Ada")
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err == errNotFound) // it comes as it is
	fmt.Println(sluice.ModelText(err))
	// Output:
	// tool_error
	// true
	// {"type":"tool_error","message":"no such customer","retryable":false}
}
