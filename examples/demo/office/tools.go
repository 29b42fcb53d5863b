package office

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/sluice-go/sluice"
)

// toolFunc is a tool as an agent has it: raw arguments in, a JSON result out.
type toolFunc func(ctx context.Context, args json.RawMessage) (json.RawMessage, error)

// agentTool is a tool with its description. Its Type is the provider whose API key it
// uses, since that is what the provider's rate limit counts.
type agentTool struct {
	spec sluice.Spec
	run  toolFunc
}

// agentTools returns the tools by name. Each makes one HTTP request to the backend at base.
func agentTools(client *http.Client, base string) map[string]agentTool {
	tools := make(map[string]agentTool)
	add := func(provider, key, name, description string, hints sluice.Hints) {
		tools[name] = agentTool{
			spec: sluice.Spec{Name: name, Type: provider, Description: description, Hints: hints},
			run: func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
				return post(ctx, client, base+"/v1/"+name, key, args)
			},
		}
	}
	read := sluice.Hints{ReadOnly: true, OpenWorld: true}
	write := sluice.Hints{OpenWorld: true}
	add("web", webKey, "search", "Search the web.", read)
	add("web", webKey, "fetch_page", "Fetch a page as text.", read)
	add("weather", weatherKey, brokenTool, "Forecast for a city.", read)
	add("office", officeKey, "query_crm", "Query the customer database.", read)
	add("office", officeKey, slowTool, "Shorten a text.", read)
	add("office", officeKey, "send_mail", "Send a mail.", write)
	add("office", officeKey, "create_ticket", "Open a support ticket.", write)
	return tools
}

// newClient returns a client for the backend alone: it uses no proxy.
func newClient(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64},
		Timeout:   10 * time.Second,
	}
}

// statusError is an answer other than 200.
type statusError struct {
	Status int
	Text   string
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP %d: %s", e.Status, e.Text) }

// throttled is a 429. Its RetryAfter method tells a [sluice.RateLimiter] with Upstream
// set that the provider asked for a pause, if the two ever disagree.
type throttled struct {
	statusError
	after time.Duration
}

func (e *throttled) RetryAfter() time.Duration { return e.after }
func (e *throttled) Unwrap() error             { return &e.statusError }

func post(ctx context.Context, client *http.Client, url, key string, args []byte) (json.RawMessage, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(args))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return body, nil
	}
	failed := statusError{Status: resp.StatusCode, Text: string(bytes.TrimSpace(body))}
	if resp.StatusCode == http.StatusTooManyRequests {
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return nil, &throttled{failed, time.Duration(seconds) * time.Second}
	}
	return nil, &failed
}
