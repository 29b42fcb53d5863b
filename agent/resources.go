package agent

import (
	"errors"

	"github.com/sluice-go/sluice"
)

// NewResources keeps calls that work on the same things apart, in the order in which they came. Of each call,
// of says which resources it reads and which it writes: files, records, branches. Those that read a resource
// run together, and whoever writes it runs alone. A call waits for those alone that came before it, need a
// resource of its own, and of which one of the two writes that; so no two wait for each other, however many
// resources they name. Nobody is passed, whatever the priority. Calls that name none are not concerned.
//
// List what it returns in [sluice.Config].Interceptors, of several executors if they share resources. Calls of
// one turn come in the order in which the model wrote them, and of several turns or runs as they come. A call
// that waits holds nothing, and a call holds its resources until its code has really ended. An attempt that
// follows another comes anew.
//
// A nested call works on what its ancestors hold. One that writes what its ancestor reads waits for the other
// readers, but never for its ancestor: it is refused with [sluice.ErrNesting]. So let a call name what those
// nested in it write.
//
// Names are compared byte by byte: of [path.Clean] and the like each file should have one. "" is none, and a
// resource that is read and written is written. A call may name 64 resources of 1,024 bytes, and 10,000 may be
// in use at once; what is more is refused. The function of runs once per attempt, before the queue, outside
// locks, on several goroutines at once; a panic refuses the call. A nil of is an error.
func NewResources(of func(c sluice.Call) (reads, writes []string)) (*sluice.ConcurrencyLimiter, error) {
	if of == nil {
		return nil, errors.New("agent: NewResources: of is nil: must say what a call reads and writes")
	}
	weights := func(c sluice.Call) map[string]int64 { return accesses(of(c)) }
	return sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Name:   "resources",
		Limits: []sluice.Limit{{Max: whole, Scope: sluice.ByWeights("resource", weights), Ordered: true}},
	})
}

// whole is what a writer takes of a resource; a reader takes one.
const whole = 1 << 30

// accesses is what a call takes of each resource.
func accesses(reads, writes []string) map[string]int64 {
	if len(reads)+len(writes) == 0 {
		return nil
	}
	m := make(map[string]int64, min(len(reads)+len(writes), 64))
	for _, r := range reads {
		m[r] = 1
	}
	for _, w := range writes {
		m[w] = whole
	}
	return m
}
