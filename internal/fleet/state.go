package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// Link is what a Fleet has for a state whose data are at its engine.
type Link struct {
	Store  engine.Store
	Limits engine.Limits
	Prefix string        // of the state's keys: none that the Fleet itself follows
	Budget time.Duration // of a trip

	// Enter begins something that Close waits for, until leave is called, and that ends with ctx. It is refused, with
	// engine.ErrClosed, once the Fleet has ended.
	Enter func() (ctx context.Context, leave func(), err error)

	Count func(err error) // a trip that has ended so
}

// stateVersion is that of what states write under their prefixes.
const stateVersion = "sluice1-state/"

// Link is what a state of that name needs of f.
func (f *Fleet) Link(name string) (Link, error) {
	if f.store == nil {
		return Link{}, fmt.Errorf("the engine of Fleet %q has no Store", *f.conf.Name)
	}
	return Link{f.store, f.conf.Engine.Limits(), stateVersion + url.PathEscape(*f.conf.Name) + "/" + url.PathEscape(name) + "/",
		f.conf.Budget, f.enter, f.count}, nil
}

func (f *Fleet) enter() (context.Context, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil, nil, engine.ErrClosed
	}
	f.group.Add(1)
	return f.ctx, f.group.Done, nil
}

// count counts a trip of a state. What the engine answers about the keys is no failure.
func (f *Fleet) count(err error) {
	f.trips.Add(1)
	if err != nil && !errors.Is(err, engine.ErrConflict) && !errors.Is(err, engine.ErrAbsent) && !errors.Is(err, engine.ErrFull) {
		f.failed.Add(1)
	}
}
