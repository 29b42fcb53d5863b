package sluiceredis

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/rueidis"
	"github.com/sluice-go/sluice/engine"
)

// Errors by which a server says that it did not run a script, and those by which a script's
// first write failed, which are the same after it has begun.
var (
	notRun = []string{"LOADING", "NOAUTH", "NOPERM", "NOSCRIPT", "BUSY", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "CROSSSLOT", "MASTERDOWN"}
	noRoom = []string{"OOM", "READONLY", "MISCONF", "NOREPLICAS"}
	// gone are those of them that pass when the server is back.
	gone = []string{"LOADING", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "NOREPLICAS", "TRYAGAIN", "BUSY"}
)

// outcome makes an error of a script say whether it may have taken effect.
func outcome(err error) error {
	if err == nil {
		return nil
	}
	if answer, ok := rueidis.IsRedisErr(err); ok {
		text := answer.Error()
		if why, ok := strings.CutPrefix(text, "REFUSED "); ok {
			// Servers append where in the script that was.
			why, _, _ = strings.Cut(why, " script: ")
			return fmt.Errorf("%w: %s", engine.ErrRefused, why)
		}
		if begins(text, noRoom) || begins(text, notRun) && !strings.Contains(text, "script:") {
			return fmt.Errorf("%w: %w", engine.ErrRefused, err)
		}
		return fmt.Errorf("%w: %w", engine.ErrUnsure, err)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" || errors.Is(err, rueidis.ErrNoSlot) {
		return fmt.Errorf("%w: %w", engine.ErrRefused, err) // it was not sent
	}
	return fmt.Errorf("%w: %w", engine.ErrUnsure, err)
}

func begins(text string, words []string) bool {
	word, _, _ := strings.Cut(text, " ")
	for _, w := range words {
		if word == w {
			return true
		}
	}
	return false
}
