package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// providerPage is a page of docs about a provider's format, and the provider as its example meets it.
type providerPage struct {
	name    string // docs/NAME.md
	format  agent.Format
	urls    [2]string // to post to, whole and streamed
	header  http.Header
	list    string            // the member of a request that has the history
	members map[string]string // others that are there, but the list of tools

	bodies  []string      // what the model answers, turn by turn
	streams []string      // the same as server-sent events
	echoes  [2][][]string // what of a turn's answer comes again, whole and streamed
	answers [][]string    // and what answers it

	ask func(client *http.Client, exec *sluice.Executor, stream bool) ([]json.RawMessage, string, error)
}

var pages = []*providerPage{&chatPage, &responsesPage, &messagesPage, &geminiPage}

// client speaks with the page's provider.
func (p *providerPage) client(stream bool) *http.Client {
	return &http.Client{Transport: &provider{page: p, stream: stream}}
}

// provider answers the requests of one conversation, if they are as it wants them.
type provider struct {
	page   *providerPage
	stream bool
	turn   int
}

func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	resp := &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{"Content-Type": {"application/json"}}, Request: r}
	text := ""
	if err := p.wants(r, body); err != nil {
		resp.StatusCode, resp.Status = 400, "400 Bad Request"
		text = fmt.Sprintf(`{"error":{"message":%q}}`, err)
	} else if p.turn >= len(p.page.streams) {
		return nil, io.ErrUnexpectedEOF
	} else if p.stream {
		resp.Header.Set("Content-Type", "text/event-stream")
		text = p.page.streams[p.turn]
	} else {
		text = p.page.bodies[p.turn]
	}
	p.turn++
	resp.Body = io.NopCloser(strings.NewReader(text))
	return resp, nil
}

// wants says what is wrong with a request.
func (p *provider) wants(r *http.Request, body []byte) error {
	kind := 0
	if p.stream {
		kind = 1
	}
	if got := r.URL.String(); r.Method != "POST" || got != p.page.urls[kind] {
		return fmt.Errorf("%s %s", r.Method, got)
	}
	for name := range p.page.header {
		if got := r.Header.Get(name); got != p.page.header.Get(name) {
			return fmt.Errorf("the header %s is %q", name, got)
		}
	}
	var request map[string]json.RawMessage
	if err := json.Unmarshal(body, &request); err != nil {
		return err
	}
	for name, want := range p.page.members {
		if want = strings.ReplaceAll(want, "STREAM", fmt.Sprint(p.stream)); string(request[name]) != want {
			return fmt.Errorf("%s is %s", name, request[name])
		}
	}
	if !strings.Contains(string(request["tools"]), `"weather"`) || !strings.Contains(string(request["tools"]), `"`+lookupName+`"`) {
		return fmt.Errorf("tools is %s", request["tools"])
	}
	var list []json.RawMessage
	if err := json.Unmarshal(request[p.page.list], &list); err != nil || len(list) == 0 {
		return fmt.Errorf("%s is %s", p.page.list, request[p.page.list])
	}
	var want []string
	for n := range p.turn {
		want = append(append(want, p.page.echoes[kind][n]...), p.page.answers[n]...)
	}
	if got := list[1:]; fmt.Sprintf("%s", got) != fmt.Sprintf("%s", want) {
		return fmt.Errorf("%s has\n%s, must have\n%s", p.page.list, got, want)
	}
	return nil
}

// lookupName is what models call crm.lookup.
const lookupName = "crm_lookup_f398d2a2"

type weatherIn struct {
	City string `json:"city"`
}

type customer struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// newPageTools has the tools of the pages.
func newPageTools() *sluice.Executor {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	city := json.RawMessage(`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}`)
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather", InputSchema: city}, func(context.Context, weatherIn) (string, error) { return "12 degrees", nil }))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "crm.lookup"}, func(context.Context, struct{}) (customer, error) { return customer{1<<53 + 1, "Ada"}, nil }))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "chart"}, func(context.Context, struct{}) (agent.Content, error) {
		return agent.Content{agent.Text("May"), agent.Image("image/png", []byte("png"))}, nil
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "log"}, func(context.Context, struct{}) (string, error) { return strings.Repeat("0123456789", 7), nil }))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "sql"}, func(_ context.Context, query string) (string, error) { return "3 rows", nil }))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "pay"}, func(context.Context, struct{}) (string, error) { return "", errors.New("no credit") }))
	return exec
}

// A page shows the answers as they are rendered. Its code is held by the tests of docs.
func TestPages(t *testing.T) {
	for _, p := range pages {
		t.Run(p.name, func(t *testing.T) {
			page, err := os.ReadFile("../docs/" + p.name + ".md")
			require.NoError(t, err)
			answers := regexp.MustCompile("(?ms)^```json\n(.*?)^```$").FindAllStringSubmatch(string(page), -1)
			require.Len(t, answers, 1)
			require.Equal(t, p.rendered(t), compacted(t, answers[0][1]))
		})
	}
}

// compacted is a list of JSON values that stand in a text one after the other.
func compacted(t *testing.T, text string) (out []string) {
	t.Helper()
	for in := json.NewDecoder(strings.NewReader(text)); in.More(); {
		var raw json.RawMessage
		require.NoError(t, in.Decode(&raw))
		var b bytes.Buffer
		require.NoError(t, json.Compact(&b, raw))
		out = append(out, b.String())
	}
	return out
}

// rendered is what answers the calls that the pages speak of, where 40 bytes of text are shown.
func (p *providerPage) rendered(t *testing.T) []string {
	t.Helper()
	exec := newPageTools()
	defer exec.Close(context.Background())
	runner, err := agent.New(exec, agent.Config{})
	require.NoError(t, err)
	codec, err := p.format.With(agent.CodecConfig{MaxResultBytes: 40})
	require.NoError(t, err)
	var calls []string
	for _, f := range formats {
		for i, call := range [][2]string{{"weather", `{"city":"Oslo"}`}, {"crm.lookup", `{}`}, {"pay", `{}`}, {"chart", `{}`}, {"log", `{}`}} {
			if f.format == p.format {
				calls = append(calls, f.call(fmt.Sprint("c", i+1), call[0], call[1]))
			}
		}
		if f.format == p.format {
			turn, err := runner.Turn(t.Context(), codec, []byte(fmt.Sprintf(f.body, strings.Join(calls, ","))))
			require.NoError(t, err)
			return texts(t, turn.Messages[len(turn.Message.Echo):])
		}
	}
	return nil
}

// What a provider refuses ends the conversation, and leaves the history as it was.
func TestPages_Refused(t *testing.T) {
	for _, p := range pages {
		for _, stream := range []bool{false, true} {
			exec := newPageTools()
			client := &http.Client{Transport: &provider{page: p, stream: stream, turn: 1}} // which wants to see the first turn
			history, text, err := p.ask(client, exec, stream)
			require.ErrorContains(t, err, "400 Bad Request: ", p.name)
			require.ErrorContains(t, err, p.list+" has")
			require.Len(t, history, 1)
			require.Empty(t, text)
			require.NoError(t, exec.Close(t.Context()))
		}
	}
}

// What an answer lacks of its end does not run, and is answered.
func TestPages_BrokenStream(t *testing.T) {
	for _, p := range pages {
		exec := newPageTools()
		cut := *p
		events := strings.SplitAfter(strings.ReplaceAll(p.streams[len(p.streams)-2], "\r", ""), "\n\n")
		cut.streams = []string{strings.Join(events[:len(events)/2], "")}
		history, _, err := p.ask(cut.client(true), exec, true)
		require.Error(t, err, "the provider has no more to say")
		require.Contains(t, fmt.Sprintf("%s", history), "cut off before their end", p.name)
		require.NoError(t, exec.Close(t.Context()))
	}
}
