package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const gemini = `{"error": {"code": 429, "message": "You exceeded your current quota.", "status": "RESOURCE_EXHAUSTED", "details": [
  {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaMetric": "generate_requests", "quotaValue": "10"}]},
  {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "limits", "url": "https://x"}]},
  {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.074824224s"}]}}`

const secondary = `{"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.", "documentation_url": "https://x"}`

func TestParseBody(t *testing.T) {
	info := func(delay string) string {
		return `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":` + delay + `}]}}`
	}
	for _, c := range []struct {
		name, body string
		want       time.Duration
		source     string
	}{
		{"Gemini", gemini, 34074824224, "retry-info"},
		{"Gemini's stream", "[" + gemini + "\n]", 34074824224, "retry-info"},
		{"GitHub", secondary, time.Minute, "github-secondary"},
		{"seconds", info(`"34s"`), 34 * time.Second, "retry-info"},
		{"a century", info(`"3153600000s"`), time.Hour, "retry-info"},
		{"beyond numbers", info(`"` + strings.Repeat("9", 99) + `s"`), time.Hour, "retry-info"},
		{"zero", info(`"0s"`), 0, ""},
		{"negative", info(`"-3s"`), 0, ""},
		{"no unit", info(`"34"`), 0, ""},
		{"another unit", info(`"34ms"`), 0, ""},
		{"a number", info(`34`), 0, ""},
		{"empty", info(`""`), 0, ""},
		{"only the unit", info(`"s"`), 0, ""},
		{"another type", strings.Replace(gemini, "RetryInfo", "Other", 1), 0, ""},
		{"details of mixed types", `{"error":{"details":[1,null,"x",[],{"@type":5},{"@type":"google.rpc.RetryInfo","retryDelay":"2s"}]}}`, 2 * time.Second, "retry-info"},
		{"OpenAI", `{"error":{"message":"Rate limit reached","type":"tokens","code":"rate_limit_exceeded"}}`, 0, ""},
		{"an error that is a text", `{"error":"ratelimited","ok":false}`, 0, ""},
		{"a message that is none", `{"message":{"secondary rate limit":1}}`, 0, ""},
		{"only in passing", `"secondary rate limit"`, 0, ""},
		{"nothing", "", 0, ""},
		{"spaces", " \n", 0, ""},
		{"HTML", "<html>429</html>", 0, ""},
		{"cut off", gemini[:len(gemini)-1], 0, ""},
		{"no elements", "[]", 0, ""},
		{"elements of another type", "[1]", 0, ""},
		{"null", "null", 0, ""},
		{"deep", strings.Repeat(`{"error":`, 5000), 0, ""},
		{"too long", `{"pad":"` + strings.Repeat("x", MaxBody) + `",` + gemini[1:], 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, source := ParseBody([]byte(c.body))
			assert.Equal(t, c.want, d)
			assert.Equal(t, c.source, source)
		})
	}
	d, _ := ParseBody(nil)
	assert.Zero(t, d, "nil")
}

func FuzzParseBody(f *testing.F) {
	f.Add([]byte(gemini))
	f.Add([]byte("[" + gemini + "]"))
	f.Add([]byte(secondary))
	f.Fuzz(func(t *testing.T, body []byte) {
		d, source := ParseBody(body)
		if d < 0 || d > MaxPause || (d == 0) != (source == "") {
			t.Errorf("%v of %q", d, source)
		}
	})
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		lines  []string
		want   string // of Error; empty means nil
		pause  time.Duration
		source string
	}{
		{"answered", 200, "", []string{"Retry-After: 5"}, "", 0, ""},
		{"moved", 302, "", []string{"Retry-After: 5"}, "", 0, ""},
		{"not found", 404, "secret", nil, "upstream: GET api.example.com: 404 Not Found", -1, ""},
		{"broken", 500, "", []string{"Retry-After: 5"}, "upstream: GET api.example.com: 500 Internal Server Error", -1, ""},
		{"refused", 429, "secret", []string{"Retry-After: 3"}, "upstream: GET api.example.com: 429 Too Many Requests, retry in 3s", 3 * time.Second, "retry-after"},
		{"refused without a time", 429, "", nil, "upstream: GET api.example.com: 429 Too Many Requests", 0, ""},
		{"overloaded", 529, "", nil, "upstream: GET api.example.com: status 529", 0, ""},
		{"Gemini", 429, gemini, nil, "upstream: GET api.example.com: 429 Too Many Requests, retry in 34.074824224s", 34074824224, "retry-info"},
		{"Gemini, unavailable", 503, gemini, nil, "upstream: GET api.example.com: 503 Service Unavailable, retry in 34.074824224s", 34074824224, "retry-info"},
		{"headers before the body", 429, gemini, []string{"Retry-After: 3"}, "upstream: GET api.example.com: 429 Too Many Requests, retry in 3s", 3 * time.Second, "retry-after"},
		{"a body that does not fit its status", 400, gemini, nil, "upstream: GET api.example.com: 400 Bad Request", -1, ""},
		{"GitHub", 403, secondary, []string{"X-GitHub-Request-Id: 1", "X-RateLimit-Remaining: 12"}, "upstream: GET api.example.com: 403 Forbidden, retry in 1m0s", time.Minute, "github-secondary"},
		{"GitHub, something else", 403, `{"message":"Must have admin rights"}`, []string{"X-GitHub-Request-Id: 1"}, "upstream: GET api.example.com: 403 Forbidden", -1, ""},
		{"GitHub's words from a page", 404, secondary, nil, "upstream: GET api.example.com: 404 Not Found", -1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := &untouched{t: t}
			resp := &http.Response{
				Status: "666 secret", StatusCode: c.status, Header: header(c.lines...), Body: body,
				Request: &http.Request{Method: "GET", URL: &url.URL{Scheme: "https", User: url.UserPassword("u", "secret"), Host: "api.example.com", Path: "/secret", RawQuery: "key=secret"}},
			}
			err := Check(resp, []byte(c.body))
			if c.want == "" {
				require.NoError(t, err, "want nil")
				return
			}
			require.EqualError(t, err, c.want)
			assert.NotContains(t, fmt.Sprintf("%+v", err), "secret", "the error tells a secret: %+v", err)
			err = fmt.Errorf("search: %w", err)
			var failed *StatusError
			if !errors.As(err, &failed) || failed.StatusCode != c.status {
				t.Errorf("no StatusError of %d in %v", c.status, err)
			}
			var later interface{ RetryAfter() time.Duration }
			if is := errors.As(err, &later); is != (c.pause >= 0) {
				t.Errorf("has RetryAfter: %v", is)
			} else if is && later.RetryAfter() != c.pause {
				t.Errorf("RetryAfter %v, want %v", later.RetryAfter(), c.pause)
			}
			var throttled *ThrottledError
			if errors.As(err, &throttled) && (!throttled.Signals.Throttled || throttled.Signals.Source != c.source) {
				t.Errorf("signals %+v, want source %q", throttled.Signals, c.source)
			}
			assert.False(t, body.closed.Load(), "the body was closed")
		})
	}
}

func TestCheck_DateIsCountedFromNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := header("Retry-After: " + time.Now().UTC().Add(90*time.Second).Format(http.TimeFormat))
		time.Sleep(30 * time.Second)
		var throttled *ThrottledError
		if err := Check(&http.Response{StatusCode: 429, Header: h}, nil); !errors.As(err, &throttled) || throttled.RetryAfter() != time.Minute {
			t.Errorf("got %v, want a minute", err)
		}
	})
}

func TestCheck_OddResponses(t *testing.T) {
	assert.EqualError(t, Check(nil, nil), "upstream: Check of a nil response: must not be nil", "nil")
	assert.EqualError(t, Check(&http.Response{StatusCode: 429}, nil), "upstream: 429 Too Many Requests", "bare")
	long := &http.Response{StatusCode: 404, Request: &http.Request{Method: strings.Repeat("M", 1000), URL: &url.URL{Host: strings.Repeat("é", 1000)}}}
	if err := Check(long, nil); err == nil || len(err.Error()) > 200 || !strings.Contains(err.Error(), "é…: 404") {
		t.Errorf("long: %v", err)
	}
}

// What a status, or the server, says about sending the request again.
func TestNoRetry(t *testing.T) {
	never := http.Header{"X-Should-Retry": {"false"}}
	for _, tt := range []struct {
		status int
		header http.Header
		want   bool
	}{
		{400, nil, true}, {401, nil, true}, {403, nil, true}, {404, nil, true}, {422, nil, true},
		{408, nil, false}, {425, nil, false}, {429, nil, false}, {429, never, true}, {408, never, true},
		{500, nil, false}, {502, nil, false}, {503, nil, false}, {500, never, true}, {503, never, true},
		{501, nil, true}, {505, nil, true},
		{403, http.Header{"Retry-After": {"3"}, "X-Ratelimit-Remaining": {"0"}}, false}, // a limit, not a rule
	} {
		err := Check(&http.Response{StatusCode: tt.status, Header: tt.header}, nil)
		x, ok := err.(interface{ NoRetry() bool })
		require.True(t, ok, "%T", err)
		require.Equal(t, tt.want, x.NoRetry(), "%d %v: %v", tt.status, tt.header, err)
	}
}
