package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	rpc         = `"@type":"type.googleapis.com/google.rpc.`
	googleUser  = `{"error":{"code":403,"errors":[{"domain":"usageLimits","reason":"userRateLimitExceeded","message":"x"}],"message":"x"}}`
	googleDaily = `{"error":{"code":403,"errors":[{"domain":"global","reason":"other"},{"domain":"usageLimits","reason":"quotaExceeded"}]}}`
	googleInfo  = `{"error":{"code":403,"status":"PERMISSION_DENIED","details":[{` + rpc + `ErrorInfo","reason":"RATE_LIMIT_EXCEEDED"},{` + rpc + `RetryInfo","retryDelay":"7s"}]}}`
	googleNo    = `{"error":{"code":403,"errors":[{"domain":"global","reason":"insufficientPermissions"}],"status":"PERMISSION_DENIED"}}`
	abuse       = `{"message":"You have triggered an abuse detection mechanism. Please wait a few minutes before you try again.","documentation_url":"https://x"}`
	twoInfos    = `{"error":{"details":[{` + rpc + `RetryInfo","retryDelay":"5s"},{` + rpc + `RetryInfo","retryDelay":"41s"},{` + rpc + `RetryInfo","retryDelay":"6s"}]}}`
	noMoney     = `{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`
	telegram    = `{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 35","parameters":{"retry_after":35}}`
)

// What only a body says.
func TestCheck_WhatOnlyBodiesSay(t *testing.T) {
	for _, c := range []struct {
		name    string
		status  int
		body    string
		lines   []string
		refused bool
		pause   time.Duration
		source  string
		noRetry bool
	}{
		{"Google, 403 for a rate", 403, googleUser, nil, true, 0, "", false},
		{"Google, 403 for a quota", 403, googleDaily, nil, true, 0, "", false},
		{"Google, 403 with a time", 403, googleInfo, nil, true, 7 * time.Second, "retry-info", false},
		{"Google, 403 with nothing but a time", 403, twoInfos, nil, true, 41 * time.Second, "retry-info", false},
		{"Google, 403 that forbids", 403, googleNo, nil, false, 0, "", false},
		{"Google, 404 with those words", 404, googleUser, nil, false, 0, "", false},
		{"several RetryInfos", 429, twoInfos, nil, true, 41 * time.Second, "retry-info", false},
		{"several answers", 429, "[" + googleInfo + "," + twoInfos + "]", nil, true, 41 * time.Second, "retry-info", false},
		{"GitHub, abuse", 403, abuse, []string{"X-GitHub-Request-Id: 1"}, true, time.Minute, "github-secondary", false},
		{"GitHub, by its documentation", 403, `{"message":"x","documentation_url":"https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`, nil, true, time.Minute, "github-secondary", false},
		{"GitHub, primary", 403, `{"message":"API rate limit exceeded for user ID 1."}`, nil, true, 0, "", false},
		{"Telegram", 429, telegram, nil, true, 35 * time.Second, "body", false},
		{"Discord", 429, `{"message":"You are being rate limited.","retry_after":64.57,"global":false}`, nil, true, 64570 * time.Millisecond, "body", false},
		{"in the error", 503, `{"error":{"retry_after":"1m0s"}}`, nil, true, time.Minute, "body", false},
		{"in milliseconds", 429, `{"retryAfterMs":1500}`, nil, true, 1500 * time.Millisecond, "body", false},
		{"in seconds", 429, `{"error":{"metadata":{"retry_after_seconds":"12"}}}`, nil, true, 12 * time.Second, "body", false},
		{"the longest", 429, `{"retry_after":5,"parameters":{"retry_after":35},"error":{"retryAfter":6}}`, nil, true, 35 * time.Second, "body", false},
		{"a century", 429, `{"retry_after":3153600000}`, nil, true, time.Hour, "body", false},
		{"of other types", 429, `{"retry_after":[5],"parameters":"x","error":[{"retry_after":5}]}`, nil, true, 0, "", false},
		{"nothing, zero, negative", 429, `{"retry_after":null,"error":{"retry_after":0},"parameters":{"retry_after":-5}}`, nil, true, 0, "", false},
		{"of an answer that is no refusal", 404, telegram, nil, false, 0, "", false},
		{"of one that forbids", 403, telegram, nil, false, 0, "", false},
		{"of one that forbids for a time", 403, telegram, []string{"Retry-After: 0"}, true, 35 * time.Second, "body", false},
		{"headers first", 429, telegram, []string{"Retry-After: 3"}, true, 3 * time.Second, "retry-after", false},
		{"no money", 429, noMoney, nil, true, 0, "", true},
		{"no money, with a time", 429, noMoney, []string{"Retry-After: 3"}, true, 3 * time.Second, "retry-after", true},
		{"no money, at the top", 429, `{"code":"insufficient_quota"}`, nil, true, 0, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Check(&http.Response{StatusCode: c.status, Header: header(c.lines...)}, []byte(c.body))
			var e *ThrottledError
			require.Equal(t, c.refused, errors.As(err, &e), "%v: throttled", err)
			if e != nil && (e.RetryAfter() != c.pause || e.Signals.Source != c.source || e.Signals.NoRetry != c.noRetry) {
				t.Errorf("got %+v, want %v of %q, no retry %v", e.Signals, c.pause, c.source, c.noRetry)
			}
		})
	}
}

// A time that a body names ends the row of pauses that a Transport makes up.
func TestTransport_BackoffKnowsWhatTheBodySays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pauses
		tr := newTransport(t, TransportConfig{Base: answer429(t, 429)}, &p)
		for range 5 {
			resp := send(t, tr, t.Context(), "https://a/")
			require.Error(t, Check(resp, []byte(telegram)), "want an error")
			got := p.take()
			assert.True(t, equal(got, []time.Duration{time.Second}), "pauses %v, want one of 1s", got)
			time.Sleep(35 * time.Second)
		}
		send(t, tr, t.Context(), "https://a/")
		time.Sleep(time.Second)
		resp := send(t, tr, t.Context(), "https://a/")
		got := p.take()
		assert.True(t, equal(got, []time.Duration{time.Second, 2 * time.Second}),
			"pauses %v, want them doubled as long as the body says nothing", got)
		if resp.Request.URL.Host != "a" || resp.Request.Context().Value(guessKey{}) == nil {
			t.Errorf("the response's request is %v", resp.Request)
		}
		assert.Equal(t, int64(1), tr.backoff.known.Load(), "rows")
		_ = Check(resp, []byte(secondary)) // which names none
		assert.Equal(t, int64(1), tr.backoff.known.Load(), "rows")
	})
}

// Accounts and resources of one host have rows of pauses of their own, and no row tells a
// credential.
func TestTransport_BackoffOfAccountsIsApart(t *testing.T) {
	request := func(target string, lines ...string) *http.Request {
		u, err := url.Parse(target)
		require.NoError(t, err)
		return (&http.Request{Method: "GET", URL: u, Header: header(lines...)}).WithContext(context.Background())
	}
	const aws = "Authorization: AWS4-HMAC-SHA256 Credential=AKID1/20260302/x, SignedHeaders=host, Signature="
	for _, c := range []struct {
		name  string
		a, b  *http.Request
		apart bool
	}{
		{"the same", request("https://h/x", "Authorization: Bearer secret1"), request("https://h/y?q=1", "Authorization: Bearer secret1"), false},
		{"none", request("https://h/x"), request("https://h/y"), false},
		{"two bearers", request("https://h/", "Authorization: Bearer secret1"), request("https://h/", "Authorization: Bearer secret2"), true},
		{"two keys", request("https://h/", "X-Api-Key: secret1"), request("https://h/", "X-Api-Key: secret2"), true},
		{"two Google keys", request("https://h/", "X-Goog-Api-Key: secret1"), request("https://h/", "X-Goog-Api-Key: secret2"), true},
		{"two keys in the URL", request("https://h/?key=secret1"), request("https://h/?key=secret2"), true},
		{"two users", request("https://u:secret1@h/"), request("https://v:secret2@h/"), true},
		{"two signatures of one", request("https://h/", aws+"secret1"), request("https://h/", aws+"secret2"), false},
		{"two hosts", request("https://h/"), request("https://i/"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p pauses
				tr := newTransport(t, TransportConfig{Base: answer429(t, 429)}, &p)
				for _, r := range []*http.Request{c.a, c.a, c.b} {
					_, err := tr.RoundTrip(r)
					require.NoError(t, err)
					time.Sleep(4 * time.Second)
				}
				want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
				if c.apart {
					want[2] = time.Second
				}
				got := p.take()
				assert.True(t, equal(got, want), "pauses %v, want %v", got, want)
				for row := range tr.backoff.quotas {
					for i := range len(row) - 5 {
						assert.NotEqual(t, "secret", row[i:i+6], "a row is called %q", row)
					}
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		var p pauses
		resource, status := "search", 429
		tr := newTransport(t, TransportConfig{Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: header("X-RateLimit-Resource: " + resource), Body: http.NoBody, Request: r}, nil
		})}, &p)
		for _, x := range []struct {
			resource string
			status   int
			want     []time.Duration
		}{{"search", 429, []time.Duration{time.Minute}}, {"core", 200, nil}, {"search", 429, []time.Duration{2 * time.Minute}}, {"core", 429, []time.Duration{time.Minute}}} {
			resource, status = x.resource, x.status
			send(t, tr, t.Context(), "https://h/")
			got := p.take()
			assert.True(t, equal(got, x.want), "%s %d: pauses %v, want %v", x.resource, x.status, got, x.want)
			time.Sleep(2 * time.Minute)
		}
	})
}
