package sluiceredis

import (
	"context"

	"github.com/sluice-go/sluice/engine"
)

// TakeGeneral is a Take by the script for any number of meters.
func (e *Engine) TakeGeneral(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	return quota{e}.take(ctx, d, false)
}

// Fraction is what a rate is counted by.
var Fraction = fraction
