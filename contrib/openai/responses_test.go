package sluiceopenai_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	sluiceopenai "github.com/sluice-go/sluice/contrib/openai"
)

const reasoning = `{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":"gAA","x_new":9007199254740993}`

func responseCall(id, name, args string) string {
	return fmt.Sprintf(`{"id":"fc_%s","type":"function_call","call_id":%q,"name":%q,"arguments":%s,"status":"completed","x_new":"a < b"}`, id, id, name, quoted(args))
}

func responseBody(items ...string) string {
	return fmt.Sprintf(`{"id":"resp_1","object":"response","status":"completed","model":"m","error":null,"output":[%s]}`, strings.Join(items, ","))
}

func responseAnswer(id, text string) string {
	return fmt.Sprintf(`{"type":"function_call_output","call_id":%q,"output":%s}`, id, quoted(text))
}

var responseEnd = responseBody(`{"id":"m","type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"done","annotations":[]}]}`)

// responseLoop is a user's loop, whose history is its own, or kept by OpenAI.
func responseLoop(ctx context.Context, client openai.Client, e *sluice.Executor, r *agent.Runner, stored bool) (string, error) {
	list, err := sluiceopenai.ResponseTools(agent.CodecConfig{}, e.Registry().Tools())
	if err != nil {
		return "", err
	}
	params := responses.ResponseNewParams{Model: "m", Tools: list}
	params.Input.OfInputItemList = responses.ResponseInputParam{responses.ResponseInputItemParamOfMessage("hi", "user")}
	for {
		response, err := client.Responses.New(ctx, params)
		if err != nil {
			return "", err
		}
		turn, err := sluiceopenai.Response(ctx, r, agent.CodecConfig{}, response)
		if err != nil {
			return "", err
		}
		if turn.Done() {
			return turn.Message.Text(), nil
		}
		if stored {
			params.PreviousResponseID, params.Input.OfInputItemList = openai.String(response.ID), turn.Answers()
		} else {
			params.Input.OfInputItemList = append(params.Input.OfInputItemList, turn.Messages...)
		}
	}
}

func response(t *testing.T, body string) *responses.Response {
	t.Helper()
	r := new(responses.Response)
	require.NoError(t, json.Unmarshal([]byte(body), r))
	return r
}

func TestResponse(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprint("stored ", stored), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				exec, g := tools(t, strict(t))
				items, want := []string{reasoning}, []string{}
				for i, c := range turnOfCalls {
					items = append(items, responseCall(fmt.Sprint("call_", i), c.name, c.args))
					want = append(want, responseAnswer(fmt.Sprint("call_", i), answersOfCalls[i]))
				}
				s := &script{bodies: []string{responseBody(items...), responseEnd}}
				text, err := responseLoop(t.Context(), s.client(), exec, runner(t, exec, agent.Config{}), stored)
				require.NoError(t, err)
				require.Equal(t, "done", text)
				got := s.list(t, 1, "input")
				if stored {
					require.Equal(t, `"resp_1"`, string(s.request(t, 1)["previous_response_id"]))
					require.Equal(t, want, got)
				} else {
					require.Equal(t, append(items, want...), got[1:])
				}
				require.EqualValues(t, 6, g.ran.Load())
				require.EqualValues(t, 2, g.peak.Load())
				require.Equal(t, []string{`{"type":"function","name":"search","description":"search the web","parameters":` + querySchema + `,"strict":false}`},
					s.list(t, 1, "tools"))
			})
		})
	}
}

// The response of a stream's last event is one like any other.
func TestResponse_Streamed(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	s := &script{bodies: []string{events(
		`{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","output":[]}}`,
		`{"type":"response.output_item.done","sequence_number":1,"output_index":0,"item":`+responseCall("a", "search", `{"query":"a"}`)+`}`,
		`{"type":"response.completed","sequence_number":2,"response":`+responseBody(reasoning, responseCall("a", "search", `{"query":"a"}`))+`}`)}}
	client := s.dialled(t)
	stream := client.Responses.NewStreaming(t.Context(), responses.ResponseNewParams{Model: "m"})
	var last responses.Response
	for stream.Next() {
		if e := stream.Current(); e.Type == "response.completed" {
			last = e.Response
		}
	}
	require.NoError(t, stream.Err())
	turn, err := sluiceopenai.Response(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{}, &last)
	require.NoError(t, err)
	require.Equal(t, []string{reasoning, responseCall("a", "search", `{"query":"a"}`), responseAnswer("a", `{"hits":1}`)}, written(t, turn.Messages))
}

// A ResponseAccumulator puts the output of a turn together that the last event has left out.
func TestResponse_Accumulator(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	var acc responses.ResponseAccumulator
	for _, raw := range []string{
		`{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress"}}`,
		`{"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{"id":"fc_a","type":"function_call","call_id":"a","name":"search","arguments":"","status":"in_progress"}}`,
		`{"type":"response.output_item.done","sequence_number":2,"output_index":0,"item":` + responseCall("a", "search", `{"query":"a"}`) + `}`,
		`{"type":"response.completed","sequence_number":3,"response":{"id":"resp_1","object":"response","status":"completed"}}`,
	} {
		var e responses.ResponsesServerEventUnion
		require.NoError(t, json.Unmarshal([]byte(raw), &e))
		require.NoError(t, acc.AddEvent(e))
	}
	made, err := acc.ReconstructedResponse()
	require.NoError(t, err)
	turn, err := sluiceopenai.Response(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{}, made)
	require.NoError(t, err)
	require.Len(t, turn.Replies, 1)
	require.Equal(t, responseAnswer("a", `{"hits":1}`), written(t, turn.Answers())[0])
}

func TestResponse_CutOff(t *testing.T) {
	exec, g := tools(t, sluice.Config{})
	body := strings.Replace(responseBody(responseCall("a", "search", `{"query":"a"}`),
		strings.Replace(responseCall("b", "search", `{"query":"b"}`), `"completed"`, `"incomplete"`, 1)), `"status":"completed","model"`, `"status":"incomplete","model"`, 1)
	turn, err := sluiceopenai.Response(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{}, response(t, body))
	require.NoError(t, err)
	require.EqualValues(t, 1, g.ran.Load())
	require.ErrorIs(t, turn.Replies[1].Err, sluice.ErrInvalidArguments)
	require.Equal(t, "incomplete", turn.Message.Stop)
}

// What the API asks you to carry out yourself is left to you.
func TestResponse_Others(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	const computer = `{"id":"cu_1","type":"computer_call","call_id":"x","status":"completed","pending_safety_checks":[],"action":{"type":"screenshot"}}`
	turn, err := sluiceopenai.Response(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{}, response(t, responseBody(computer)))
	require.NoError(t, err)
	require.True(t, turn.Done())
	require.Equal(t, []json.RawMessage{json.RawMessage(computer)}, turn.Message.Others)
	require.Equal(t, []string{computer}, written(t, turn.Messages))
}

func TestResponse_Errors(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	r := runner(t, exec, agent.Config{})
	for _, c := range []struct {
		runner   *agent.Runner
		response *responses.Response
		want     string
	}{
		{nil, response(t, responseEnd), "sluiceopenai: the Runner is nil: use agent.New"},
		{r, nil, "sluiceopenai: Response: the response is nil"},
		{r, new(responses.Response), "sluiceopenai: Response: the response has no JSON: must come from the API, or from a ResponseAccumulator"},
		{r, response(t, `{"id":"r","status":"failed","error":{"code":"server_error","message":"no"},"output":[]}`), "agent: the openai-responses message is an error of the provider, and no message"},
	} {
		turn, err := sluiceopenai.Response(t.Context(), c.runner, agent.CodecConfig{}, c.response)
		require.EqualError(t, err, c.want)
		require.Nil(t, turn)
	}
}
