package agent_test

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// The tool runs a test, which fails and exits as t.FailNow does. The framework goes on.
func ExampleContain() {
	err := agent.Contain("check", func() {
		fmt.Println("the tool exits")
		runtime.Goexit()
	})
	exited, ok := errors.AsType[*sluice.PanicError](err)
	fmt.Println(ok, exited.Goexit)
	fmt.Println(sluice.ModelText(err))
	// Output:
	// the tool exits
	// true true
	// {"type":"goexit","message":"the tool failed","retryable":false}
}
