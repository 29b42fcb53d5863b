package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/resilience"
)

// maxTurns bounds a conversation: a model may call tools for ever.
const maxTurns = 10

var errTooManyTurns = fmt.Errorf("the model still calls tools after %d turns", maxTurns)

// assistant answers questions with the help of a model and of tools.
type assistant struct {
	model  *client
	exec   *sluice.Executor
	runner *agent.Runner
	show   func(context.Context, *agent.Turn)
}

// converse goes on with history, whose last message is the user's, until the model has had its say. The
// history that it returns has everything up to there, and is one that the provider takes, also beside an
// error: a cancelled conversation can go on with it.
func (a *assistant) converse(ctx context.Context, history []json.RawMessage) ([]json.RawMessage, error) {
	for range maxTurns {
		offer, _ := resilience.Available(ctx, a.exec)
		tools, err := a.model.format.Tools(slices.Values(offer))
		if err != nil {
			return history, err
		}
		message, err := a.model.ask(ctx, history, tools)
		if err != nil {
			return history, err
		}
		turn, err := a.runner.Answer(ctx, a.model.format, message)
		if err != nil {
			return history, err
		}
		history = append(history, turn.Messages...)
		a.show(ctx, turn)
		if len(turn.Pending) > 0 {
			return history, &waitingError{turn}
		}
		if turn.Done() {
			return history, nil
		}
	}
	return history, errTooManyTurns
}
