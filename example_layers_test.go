package sluice_test

import (
	"context"
	"fmt"

	"github.com/sluice-go/sluice"
)

// frozen is the error of a rule, with a code of its own.
type frozen struct{ until string }

func (f frozen) Error() string { return "no exports until " + f.until }
func (frozen) Code() string    { return "frozen" }

// An interceptor's error, like a tool's, may say in one word what it is.
func ExampleCodeOf() {
	freeze := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			return sluice.Result{}, frozen{"Monday"}
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{freeze}}))
	defer exec.Close(context.Background())
	export := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export"}, func(context.Context, string) (string, error) { return "", nil }))

	_, err := export(context.Background(), "")
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	fmt.Println(sluice.ModelText(err))
	// Output:
	// frozen
	// sluice: tool "export": denied: no exports until Monday
	// {"type":"frozen","message":"the call was denied: no exports until Monday","retryable":false}
}
