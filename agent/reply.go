package agent

import "github.com/sluice-go/sluice"

// Reply is the outcome of one call of a turn.
type Reply struct {
	Request sluice.Request
	Result  sluice.Result
	Err     error
}
