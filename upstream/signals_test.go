package upstream

import (
	"math"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var now = time.Date(2026, time.March, 2, 15, 4, 5, 0, time.UTC)

// header is the header that net/http would make of "Key: value" lines.
func header(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		key, value, _ := strings.Cut(line, ":")
		h.Add(key, strings.TrimPrefix(value, " "))
	}
	return h
}

func quota(source, name, unit string, limit, remaining int64, reset, window time.Duration) Quota {
	return Quota{Source: source, Name: name, Unit: unit, Limit: limit, Remaining: remaining, Reset: reset, Window: window}
}

func bucket(source, name, unit string, limit, remaining int64, reset time.Duration) Quota {
	q := quota(source, name, unit, limit, remaining, reset, 0)
	q.Refills = true
	return q
}

func TestParse_Providers(t *testing.T) {
	epoch := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).Unix(), 10) }
	for _, c := range []struct {
		name   string
		status int
		lines  []string
		want   Signals
	}{
		{"nothing", 200, []string{"Content-Type: application/json", "Date: " + now.Format(http.TimeFormat)}, Signals{}},
		{"OpenAI, answered", 200, []string{
			"X-RateLimit-Limit-Requests: 60", "X-RateLimit-Remaining-Requests: 59", "X-RateLimit-Reset-Requests: 1s",
			"X-RateLimit-Limit-Tokens: 150000", "X-RateLimit-Remaining-Tokens: 149984", "X-RateLimit-Reset-Tokens: 6m0s",
		}, Signals{Quotas: []Quota{
			bucket("x-ratelimit", "requests", "requests", 60, 59, time.Second),
			bucket("x-ratelimit", "tokens", "tokens", 150_000, 149_984, 6*time.Minute),
		}}},
		{"OpenAI, refused", 429, []string{
			"Retry-After-Ms: 1345", "Retry-After: 2", "X-Should-Retry: true",
			"X-RateLimit-Limit-Tokens: 30000", "X-RateLimit-Remaining-Tokens: 0", "X-RateLimit-Reset-Tokens: 59.5s",
		}, Signals{Throttled: true, Pause: 1345 * time.Millisecond, Source: "retry-after-ms", Quotas: []Quota{
			bucket("x-ratelimit", "tokens", "tokens", 30_000, 0, 59500*time.Millisecond),
		}}},
		{"OpenAI, the last request of a bucket", 200, []string{
			"X-RateLimit-Limit-Requests: 60", "X-RateLimit-Remaining-Requests: 0", "X-RateLimit-Reset-Requests: 1m0s",
		}, Signals{Pause: time.Second, Source: "x-ratelimit", Quotas: []Quota{
			bucket("x-ratelimit", "requests", "requests", 60, 0, time.Minute),
		}}},
		{"OpenAI, refused without a time", 429, []string{
			"X-RateLimit-Limit-Requests: 60", "X-RateLimit-Remaining-Requests: 0", "X-RateLimit-Reset-Requests: 12ms",
			"X-RateLimit-Limit-Tokens: 90000", "X-RateLimit-Remaining-Tokens: 0", "X-RateLimit-Reset-Tokens: 6m0s",
		}, Signals{Throttled: true, Pause: 6 * time.Minute, Source: "x-ratelimit", Quotas: []Quota{
			bucket("x-ratelimit", "requests", "requests", 60, 0, 12*time.Millisecond),
			bucket("x-ratelimit", "tokens", "tokens", 90_000, 0, 6*time.Minute),
		}}},
		{"OpenAI, a bucket of requests refused without a time", 429, []string{
			"X-RateLimit-Limit-Requests: 60", "X-RateLimit-Remaining-Requests: 0", "X-RateLimit-Reset-Requests: 1m0s",
		}, Signals{Throttled: true, Pause: time.Minute, Source: "x-ratelimit", Quotas: []Quota{
			bucket("x-ratelimit", "requests", "requests", 60, 0, time.Minute),
		}}},
		{"OpenAI, the last request of a bucket without a reset", 200, []string{
			"X-RateLimit-Limit-Requests: 60", "X-RateLimit-Remaining-Requests: 0",
		}, Signals{Quotas: []Quota{
			bucket("x-ratelimit", "requests", "requests", 60, 0, 0),
		}}},
		{"OpenAI, quota used up for good", 429, []string{"X-Should-Retry: false"}, Signals{Throttled: true, NoRetry: true}},
		{"kinds of those like OpenAI", 200, []string{
			"X-RateLimit-Limit-Requests-Day: 14400", "X-RateLimit-Remaining-Requests-Day: 7", "X-RateLimit-Reset-Requests-Day: 33011.382867",
			"X-RateLimit-Limit-Project-Tokens: 5",
		}, Signals{Quotas: []Quota{
			bucket("x-ratelimit", "project-tokens", "tokens", 5, Unknown, 0),
			bucket("x-ratelimit", "requests-day", "requests", 14400, 7, 33011382867*time.Microsecond),
		}}},
		{"Anthropic, refused", 429, []string{
			"Retry-After: 17", "X-Should-Retry: true", "Date: " + now.Format(http.TimeFormat),
			"Anthropic-RateLimit-Requests-Limit: 50", "Anthropic-RateLimit-Requests-Remaining: 49", "Anthropic-RateLimit-Requests-Reset: 2026-03-02T15:04:06Z",
			"Anthropic-RateLimit-Input-Tokens-Limit: 40000", "Anthropic-RateLimit-Input-Tokens-Remaining: 0", "Anthropic-RateLimit-Input-Tokens-Reset: 2026-03-02T15:05:05Z",
			"Anthropic-RateLimit-Output-Tokens-Limit: 8000", "Anthropic-RateLimit-Output-Tokens-Remaining: 8000", "Anthropic-RateLimit-Output-Tokens-Reset: 2026-03-02T15:04:05Z",
			"Anthropic-RateLimit-Tokens-Limit: 48000", "Anthropic-RateLimit-Tokens-Remaining: 8000", "Anthropic-RateLimit-Tokens-Reset: 2026-03-02T15:05:05Z",
		}, Signals{Throttled: true, Pause: 17 * time.Second, Source: "retry-after", Quotas: []Quota{
			bucket("anthropic-ratelimit", "input-tokens", "tokens", 40_000, 0, time.Minute),
			bucket("anthropic-ratelimit", "output-tokens", "tokens", 8_000, 8_000, 0),
			bucket("anthropic-ratelimit", "requests", "requests", 50, 49, time.Second),
			bucket("anthropic-ratelimit", "tokens", "tokens", 48_000, 8_000, time.Minute),
		}}},
		{"Anthropic, the last tokens, our clock an hour ahead", 200, []string{
			"Date: " + now.Add(-time.Hour).Format(http.TimeFormat),
			"Anthropic-RateLimit-Tokens-Remaining: 0", "Anthropic-RateLimit-Tokens-Reset: 2026-03-02T14:04:25+00:00",
		}, Signals{Pause: 20 * time.Second, Source: "anthropic-ratelimit", Quotas: []Quota{
			bucket("anthropic-ratelimit", "tokens", "tokens", Unknown, 0, 20*time.Second),
		}}},
		{"Anthropic, overloaded", 529, nil, Signals{Throttled: true}},
		{"GitHub, answered", 200, []string{
			"X-RateLimit-Limit: 5000", "X-RateLimit-Remaining: 4987", "X-RateLimit-Used: 13", "X-RateLimit-Resource: core", "X-RateLimit-Reset: " + epoch(52*time.Minute),
		}, Signals{Quotas: []Quota{quota("x-ratelimit", "core", "requests", 5000, 4987, 52*time.Minute, 0)}}},
		{"GitHub, primary limit with 403", 403, []string{
			"X-GitHub-Request-Id: C0DE:1", "X-RateLimit-Limit: 30", "X-RateLimit-Remaining: 0", "X-RateLimit-Used: 30", "X-RateLimit-Resource: search", "X-RateLimit-Reset: " + epoch(41*time.Second),
		}, Signals{Throttled: true, Pause: 41 * time.Second, Source: "x-ratelimit", Quotas: []Quota{quota("x-ratelimit", "search", "requests", 30, 0, 41*time.Second, 0)}}},
		{"GitHub, secondary limit with a time", 403, []string{
			"X-GitHub-Request-Id: C0DE:1", "Retry-After: 60", "X-RateLimit-Remaining: 4000", "X-RateLimit-Reset: " + epoch(41*time.Minute),
		}, Signals{Throttled: true, Pause: time.Minute, Source: "retry-after", Quotas: []Quota{quota("x-ratelimit", "", "requests", Unknown, 4000, 41*time.Minute, 0)}}},
		{"GitHub, secondary limit without a time", 429, []string{
			"X-GitHub-Request-Id: C0DE:1", "X-RateLimit-Remaining: 4000", "X-RateLimit-Reset: " + epoch(41*time.Minute),
		}, Signals{Throttled: true, Pause: time.Minute, Source: "github-secondary", Quotas: []Quota{quota("x-ratelimit", "", "requests", Unknown, 4000, 41*time.Minute, 0)}}},
		{"GitHub, forbidden for another reason", 403, []string{
			"X-GitHub-Request-Id: C0DE:1", "X-RateLimit-Remaining: 4000", "X-RateLimit-Reset: " + epoch(41*time.Minute),
		}, Signals{Quotas: []Quota{quota("x-ratelimit", "", "requests", Unknown, 4000, 41*time.Minute, 0)}}},
		{"Slack", 429, []string{"Retry-After: 30"}, Signals{Throttled: true, Pause: 30 * time.Second, Source: "retry-after"}},
		{"Discord", 429, []string{
			"X-RateLimit-Limit: 10", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: " + epoch(65*time.Second) + ".123", "X-RateLimit-Reset-After: 64.57", "X-RateLimit-Bucket: abcd1234",
		}, Signals{Throttled: true, Pause: 64570 * time.Millisecond, Source: "x-ratelimit", Quotas: []Quota{quota("x-ratelimit", "", "requests", 10, 0, 64570*time.Millisecond, 0)}}},
		{"X", 429, []string{
			"X-Rate-Limit-Limit: 40000", "X-Rate-Limit-Remaining: 0", "X-Rate-Limit-Reset: " + epoch(9*time.Minute),
		}, Signals{Throttled: true, Pause: 9 * time.Minute, Source: "x-ratelimit", Quotas: []Quota{quota("x-ratelimit", "", "requests", 40_000, 0, 9*time.Minute, 0)}}},
		{"Reddit", 200, []string{
			"X-Ratelimit-Used: 1", "X-Ratelimit-Remaining: 599.0", "X-Ratelimit-Reset: 300",
		}, Signals{Quotas: []Quota{quota("x-ratelimit", "", "requests", Unknown, 599, 5*time.Minute, 0)}}},
		{"IETF draft, two policies", 200, []string{
			`RateLimit-Policy: "burst";q=100;w=60,"daily";q=1000;w=86400;qu="content-bytes"`,
			`RateLimit: "burst";r=0;t=30, "daily";r=50;t=7200`,
		}, Signals{Pause: 30 * time.Second, Source: "ratelimit", Quotas: []Quota{
			quota("ratelimit", "burst", "requests", 100, 0, 30*time.Second, time.Minute),
			quota("ratelimit", "daily", "content-bytes", 1000, 50, 2*time.Hour, 24*time.Hour),
		}}},
		{"IETF draft over the provider's own", 200, []string{
			`RateLimit: "default";r=0;t=30`, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 90",
		}, Signals{Pause: 30 * time.Second, Source: "ratelimit", Quotas: []Quota{
			quota("ratelimit", "default", "requests", Unknown, 0, 30*time.Second, 0),
			quota("x-ratelimit", "", "requests", Unknown, 0, 90*time.Second, 0),
		}}},
		{"Retry-After over the IETF draft", 503, []string{`RateLimit: "default";r=0;t=30`, "Retry-After: 5"},
			Signals{Throttled: true, Pause: 5 * time.Second, Source: "retry-after", Quotas: []Quota{quota("ratelimit", "default", "requests", Unknown, 0, 30*time.Second, 0)}}},
		{"earlier drafts", 429, []string{
			"RateLimit-Limit: 100, 100;w=10", "RateLimit-Remaining: 0", "RateLimit-Reset: 7", "RateLimit-Policy: 100;w=10, 1000;w=3600",
		}, Signals{Throttled: true, Pause: 7 * time.Second, Source: "ratelimit", Quotas: []Quota{
			quota("ratelimit", "", "requests", 100, 0, 7*time.Second, 10*time.Second),
			quota("ratelimit", "", "requests", 1000, Unknown, 0, time.Hour),
		}}},
		{"a draft with a dictionary", 429, []string{"RateLimit: limit=5, remaining=0, reset=52", "RateLimit-Policy: 5;w=60"},
			Signals{Throttled: true, Pause: 52 * time.Second, Source: "ratelimit", Quotas: []Quota{quota("ratelimit", "", "requests", 5, 0, 52*time.Second, time.Minute)}}},
		{"only a reset, refused", 429, []string{"X-RateLimit-Reset: 12"},
			Signals{Throttled: true, Pause: 12 * time.Second, Source: "x-ratelimit", Quotas: []Quota{quota("x-ratelimit", "", "requests", Unknown, Unknown, 12*time.Second, 0)}}},
		{"only a reset, answered", 200, []string{"X-RateLimit-Reset: 12"},
			Signals{Quotas: []Quota{quota("x-ratelimit", "", "requests", Unknown, Unknown, 12*time.Second, 0)}}},
		{"a limit on concurrency is no matter of time", 200, []string{
			`RateLimit-Policy: "jobs";q=4;qu="concurrent-requests"`, `RateLimit: "jobs";r=0;t=60`,
		}, Signals{Quotas: []Quota{quota("ratelimit", "jobs", "concurrent-requests", 4, 0, time.Minute, 0)}}},
		{"out of a cache", 200, []string{"Age: 20", `RateLimit: "default";r=0;t=30`},
			Signals{Pause: 10 * time.Second, Source: "ratelimit", Quotas: []Quota{quota("ratelimit", "default", "requests", Unknown, 0, 10*time.Second, 0)}}},
		{"out of a cache, with a date", 200, []string{
			"Age: 20", "Date: " + now.Add(-20*time.Second).Format(http.TimeFormat), "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: " + epoch(9*time.Second),
		}, Signals{Pause: 9 * time.Second, Source: "x-ratelimit", Quotas: []Quota{quota("x-ratelimit", "", "requests", Unknown, 0, 9*time.Second, 0)}}},
		{"ready for the result later", 202, []string{"Retry-After: 120"}, Signals{}},
		{"moved", 301, []string{"Retry-After: 120"}, Signals{}},
		{"broken, not busy", 503, nil, Signals{}},
		{"broken, and says until when", 503, []string{"Retry-After: 120"}, Signals{Throttled: true, Pause: 2 * time.Minute, Source: "retry-after"}},
		{"forbidden, with the last of a quota", 403, []string{`RateLimit: "default";r=0;t=30`},
			Signals{Pause: 30 * time.Second, Source: "ratelimit", Quotas: []Quota{quota("ratelimit", "default", "requests", Unknown, 0, 30*time.Second, 0)}}},
		{"forbidden until", 403, []string{"Retry-After: 3"}, Signals{Throttled: true, Pause: 3 * time.Second, Source: "retry-after"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Parse(header(c.lines...), c.status, now)
			assert.Equal(t, c.want, got)
			if empty := reflect.DeepEqual(c.want, Signals{}); got.Empty() != empty {
				t.Errorf("Empty is %v, want %v", got.Empty(), empty)
			}
		})
	}
}

// The same point in time in each form a reset is found in.
func TestParse_ResetForms(t *testing.T) {
	at := now.Add(90 * time.Second)
	for _, c := range []struct {
		reset string
		want  time.Duration
	}{
		{"90", 90 * time.Second},
		{"90.25", 90250 * time.Millisecond},
		{" 90 ", 90 * time.Second},
		{"1m30s", 90 * time.Second},
		{"90000ms", 90 * time.Second},
		{"0.025h", 90 * time.Second},
		{strconv.FormatInt(at.Unix(), 10), 90 * time.Second},
		{strconv.FormatInt(at.Unix(), 10) + ".5", 90500 * time.Millisecond},
		{strconv.FormatInt(at.UnixMilli(), 10), 90 * time.Second},
		{at.Format(time.RFC3339), 90 * time.Second},
		{at.In(time.FixedZone("", 3600)).Format(time.RFC3339Nano), 90 * time.Second},
		{at.Format(http.TimeFormat), 90 * time.Second},
		{at.Format("Monday, 02-Jan-06 15:04:05 GMT"), 90 * time.Second},
		{at.Format(time.ANSIC), 90 * time.Second},
		{"0", 0}, {"0s", 0}, {"-90", 0}, {"-90s", 0}, {"+90", 0}, {"", 0}, {"soon", 0}, {"9e9", 0}, {"0x10", 0},
		{"1m30", 0}, {"m", 0}, {".5s", 0}, {"2026-13-02T15:04:05Z", 0}, {"2026-03-02", 0},
		{strconv.FormatInt(now.Add(-time.Hour).Unix(), 10), 0},
		{"1000000000", time.Hour},           // one too few for the epoch: the longest pause
		{"99999999999999999999", time.Hour}, // year 292 million
		{"99999999999h", time.Hour},
		{"9999-12-31T23:59:59Z", time.Hour},
	} {
		t.Run(c.reset, func(t *testing.T) {
			for _, h := range []http.Header{
				header("X-RateLimit-Remaining: 0", "X-RateLimit-Reset: "+c.reset),
				header("RateLimit-Remaining: 0", "RateLimit-Reset: "+c.reset),
				header("Anthropic-RateLimit-Tokens-Remaining: 0", "Anthropic-RateLimit-Tokens-Reset: "+c.reset),
			} {
				assert.Equal(t, c.want, Parse(h, 200, now).Pause, "%v: pause", h)
			}
		})
	}
}

func TestParse_RetryAfterForms(t *testing.T) {
	date := now.Add(37 * time.Second)
	for _, c := range []struct {
		ms, after string
		want      time.Duration
		source    string
		given     bool // by status 503
	}{
		{"", "37", 37 * time.Second, "retry-after", true},
		{"", " 37\t", 37 * time.Second, "retry-after", true},
		{"", "0.25", 250 * time.Millisecond, "retry-after", true},
		{"", date.Format(http.TimeFormat), 37 * time.Second, "retry-after", true},
		{"", date.Format("Monday, 02-Jan-06 15:04:05 GMT"), 37 * time.Second, "retry-after", true},
		{"", date.Format(time.ANSIC), 37 * time.Second, "retry-after", true},
		{"", now.Add(-time.Minute).Format(http.TimeFormat), 0, "", true},
		{"", "0", 0, "", true},
		{"", "-1", 0, "", false},
		{"", "+1", 0, "", false},
		{"", "1e3", 0, "", false},
		{"", "0x1F", 0, "", false},
		{"", "soon", 0, "", false},
		{"", "37, 40", 0, "", false},
		{"", "Mon, 99 Mar 2026 15:04:05 GMT", 0, "", false},
		{"", "3600", time.Hour, "retry-after", true},
		{"", "3601", time.Hour, "retry-after", true},
		{"", "1700000000", time.Hour, "retry-after", true}, // always seconds from now
		{"", "9223372036854775807", time.Hour, "retry-after", true},
		{"", strings.Repeat("9", 400), time.Hour, "retry-after", true},
		{"", "Fri, 31 Dec 9999 23:59:59 GMT", time.Hour, "retry-after", true},
		{"250", "1", 250 * time.Millisecond, "retry-after-ms", true},
		{"250.5", "1", 250500 * time.Microsecond, "retry-after-ms", true},
		{"0.0000001", "1", 1, "retry-after-ms", true}, // rounded up
		{"0.0000000001", "1", 1, "retry-after-ms", true},
		{"0.0000000000", "1", time.Second, "retry-after", true},
		{"99999999999999999999.5", "1", time.Hour, "retry-after-ms", true},
		{"0", "1", time.Second, "retry-after", true},
		{"-5", "1", time.Second, "retry-after", true},
		{"x", "", 0, "", false},
		{"0", "", 0, "", true},
		{"99999999999999999999999", "1", time.Hour, "retry-after-ms", true},
	} {
		t.Run(c.ms+"/"+c.after, func(t *testing.T) {
			h := http.Header{}
			if c.ms != "" {
				h.Set("Retry-After-Ms", c.ms)
			}
			if c.after != "" {
				h.Set("Retry-After", c.after)
			}
			for _, status := range []int{429, 503} {
				s := Parse(h, status, now)
				assert.Equal(t, c.want, s.Pause, "%d", status)
				assert.Equal(t, c.source, s.Source, "%d", status)
				assert.Equal(t, c.given || status == 429, s.Throttled, "%d: throttled", status)
			}
			h.Set("X-Ms-Retry-After-Ms", "11")
			if s := Parse(h, 429, now); c.source != "retry-after-ms" && s.Pause != 11*time.Millisecond {
				t.Errorf("with X-Ms-Retry-After-Ms: pause %v, want 11ms", s.Pause)
			}
		})
	}
}

// A date is compared with the server's own, whatever our clock says.
func TestParse_RetryAfterDateOfSkewedServer(t *testing.T) {
	for _, skew := range []time.Duration{-24 * time.Hour, -3 * time.Second, 0, 3 * time.Second, 400 * 24 * time.Hour} {
		server := now.Add(skew)
		h := header("Date: "+server.Format(http.TimeFormat), "Retry-After: "+server.Add(8*time.Second).Format(http.TimeFormat))
		assert.Equal(t, 8*time.Second, Parse(h, 429, now).Pause, "skew %v: pause", skew)
	}
}

// The pause is never shorter than what the server meant: the next retry finds its door open.
func TestPauseIsNeverEarly(t *testing.T) {
	for ms := range 2500 {
		arrival := now.Add(time.Duration(ms) * time.Millisecond) // on the server
		date := arrival.Truncate(time.Second)
		reset := now.Add(10 * time.Second)
		h := header("Date: "+date.Format(http.TimeFormat), "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: "+strconv.FormatInt(reset.Unix(), 10))
		s := Parse(h, 429, arrival.Add(-17*time.Hour))
		if early := reset.Sub(arrival.Add(s.Pause)); early > 0 || early <= -time.Second {
			t.Fatalf("arrival %v: %v before the reset", arrival, early)
		}
	}
}

func TestParse_MalformedStructuredFieldsAreIgnoredWhole(t *testing.T) {
	good := `"b";r=0;t=30`
	for _, field := range []string{
		`;r=0;t=30`, `"b";r=0;t=30,`, `,"b";r=0;t=30`, `"b";r=0;t=30 "c";r=1`, `"b;r=0;t=30`, `"b";r=;t=30`, `"b";r=-1;t=30`,
		`"b";r=0.0;t=30`, `"b";r="0";t=30`, `"b";r=?0;t=30`, `"b";R=0;t=30`, `"b";t=30`, `"b"`, `"b";r`, `"b";r=0;t=-30`, `"b";r=0;t=30.5`,
		`"b";r=0;t=1000000000000000`, `("b";r=0);t=30`, `("b" "c");r=0;t=30`, `5;r=0;t=30`, `:Yg==:;r=0;t=30`, `"b";r=0;t=30;pk="x"`,
		`"b";r=0;t=30;pk=:?:`, `"b";r=0;t=30;pk=:Yg==`, `"b";r=0;t=30;x=%"%zz"`, `"b";r=0;t=30;x=@`, `"b";r=0;t=30;x=1.`, `"b";r=0;t=30;x=1.2345`,
		`"b";r=0;t=30;x=--1`, `"b";r=0;t=30;x=?2`, `"\b";r=0;t=30`, "\"\x7f\";r=0;t=30", "\"b\x00\";r=0;t=30", `"é";r=0;t=30`, `"b" ;r=0;t=30`,
		`"b";r=0;t=30;`, `limit=5, remaining=0`, `limit=5, remaining=0;r=1, reset`, `remaining=0, reset=x`, `remaining=-1, reset=5`,
		`"b"` + strings.Repeat(";x=1", 2000) + `;r=0;t=30`,
	} {
		s := Parse(header("RateLimit: "+field), 200, now)
		assert.Zero(t, s.Pause, "%q: pause", field)
		// A second line that is malformed spoils the first.
		s = Parse(header("RateLimit: "+good, "RateLimit: "+field), 200, now)
		assert.Empty(t, s.Quotas, "%q after a good line: quotas", field)
		// It spoils nothing else.
		s = Parse(header("RateLimit: "+field, "RateLimit-Remaining: 0", "RateLimit-Reset: 4"), 200, now)
		assert.Equal(t, 4*time.Second, s.Pause, "%q beside good fields: pause", field)
	}
}

func TestParse_StructuredFieldsThatAreUnusualButGood(t *testing.T) {
	for _, field := range []string{
		`"b";r=0;t=30`, `b;r=0;t=30`, ` "b"; r=0;  t=30 `, `"b";r=0;t=30;pk=:Yg==:`, `"b";r=7;r=0;t=1;t=30`, `"b";t=30;r=0;x`,
		`"b";r=0;t=30;x=1.25;y=tok/en;z=?0;a=@-5;c=%"f%c3%bc";d="\"\\";*=::`, "\"b\";r=0;t=30\t,\t\"c\";r=1;t=99", `"\"b\\";r=0;t=30`, `"";r=0;t=30`,
		`limit=5, remaining=0, reset=30`, `remaining=0;x=1,reset=30`, `remaining=9, remaining=0, reset=30, other="x"`,
	} {
		assert.Equal(t, 30*time.Second, Parse(header("RateLimit: "+field), 200, now).Pause, "%q: pause", field)
	}
	s := Parse(header(`RateLimit: "a\"\\";r=3`, `RateLimit: "b";r=4;pk=:Yg==:`), 200, now)
	if len(s.Quotas) != 2 || s.Quotas[0].Name != `a"\` || s.Quotas[1].Partition != "Yg==" {
		t.Errorf("two lines: %+v", s.Quotas)
	}
}

func TestParse_PartitionsOfOnePolicy(t *testing.T) {
	s := Parse(header(
		`RateLimit-Policy: "p";q=10;w=1;pk=:YQ==:, "p";q=20;w=1;pk=:Yg==:`,
		`RateLimit: "p";r=2;t=1;pk=:Yg==:, "p";r=1;t=1;pk=:YQ==:`), 200, now)
	require.Len(t, s.Quotas, 2)
	require.Equal(t, int64(1), s.Quotas[0].Remaining)
	assert.Equal(t, int64(2), s.Quotas[1].Remaining)
}

func TestParse_Nonsense(t *testing.T) {
	huge := strings.Repeat("1", 1<<20)
	many := http.Header{}
	for i := range 10_000 {
		many.Set("X-Ratelimit-Remaining-"+strconv.Itoa(i), "0")
		many.Add("Ratelimit", `"p`+strconv.Itoa(i)+`";r=0;t=9`)
	}
	for name, h := range map[string]http.Header{
		"nil":           nil,
		"empty values":  {"Retry-After": nil, "Ratelimit": {}, "X-Ratelimit-Reset": nil},
		"huge values":   {"Ratelimit": {huge}, "X-Ratelimit-Reset": {huge}, "X-Ratelimit-Remaining": {huge}, "Ratelimit-Policy": {huge}, "X-Ratelimit-Resource": {huge}},
		"binary":        {"Retry-After": {"\x00\xff"}, "Ratelimit": {"\xff"}, "Date": {"\xff"}, "Age": {"\xff"}},
		"bare prefixes": {"X-Ratelimit-": {"1"}, "X-Rate-Limit-": {"1"}, "Anthropic-Ratelimit-": {"1"}, "X-Ratelimit--": {"1"}, "X-Ratelimit-Resetting": {"1"}, "X-Ratelimit-Policy": {"1"}},
		"too many":      many,
	} {
		s := Parse(h, 200, now)
		if s.Throttled || s.Pause != 0 || len(s.Quotas) > 1 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	for _, status := range []int{math.MinInt, -1, 0, 99, 600, math.MaxInt} {
		if s := Parse(header("Retry-After: 5"), status, now); s.Throttled || s.Pause != 0 {
			t.Errorf("status %d: %+v", status, s)
		}
	}
	s := Parse(header("X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 2026-03-02T15:04:05Z"), 429, time.Time{})
	assert.Equal(t, MaxPause, s.Pause, "at the zero time")
}

func TestPromise21_QuotasAreBounded(t *testing.T) {
	var list []string
	h := http.Header{}
	for i := range 60 {
		list = append(list, `"p`+strconv.Itoa(i)+`";r=1`)
		h.Set("X-Ratelimit-Remaining-"+strconv.Itoa(i), "1")
	}
	h.Set("Ratelimit", strings.Join(list, ", "))
	assert.Len(t, Parse(h, 200, now).Quotas, maxQuotas, "quotas")
	h.Del("Ratelimit")
	assert.Len(t, Parse(h, 200, now).Quotas, maxQuotas, "quotas")
}

func TestParseWithin(t *testing.T) {
	h := header("Retry-After: 7200")
	for bound, want := range map[time.Duration]time.Duration{
		0: time.Hour, -1: time.Hour, time.Second: time.Second, 24 * time.Hour: 2 * time.Hour, math.MaxInt64: 2 * time.Hour,
	} {
		assert.Equal(t, want, ParseWithin(h, 429, now, bound).Pause, "bound %v: pause", bound)
	}
}

func TestParse_DoesNotChangeHeaders(t *testing.T) {
	h := header("Retry-After: 1", `RateLimit: "b";r=0;t=30`, "X-RateLimit-Remaining: 0", "X-RateLimit-Resource: core")
	before := h.Clone()
	Parse(h, 429, now)
	assert.Equal(t, before, h)
}

func FuzzParse(f *testing.F) {
	f.Add(429, "37", "250", "Mon, 02 Mar 2026 15:04:05 GMT", `"b";r=0;t=30`, `"b";q=10;w=60`, "0", "1772463845", "1m0s", "2026-03-02T15:05:05Z", int64(0))
	f.Add(200, "", "", "", `limit=5, remaining=0, reset=52`, "5;w=60", "0", "1772463845123", "12ms", "1", int64(time.Minute))
	f.Add(503, "Mon, 02 Mar 2026 15:04:05 GMT", "x", "Monday, 02-Mar-26 15:04:05 GMT", `"b\"";r=0;pk=:YQ==:;x=%"%c3";y=@5`, `"b`, "-1", "9e9", "1d", "", int64(-1))
	f.Fuzz(func(t *testing.T, status int, after, ms, date, limit, policy, remaining, reset, tokens, anthropic string, bound int64) {
		h := http.Header{
			"Retry-After": {after}, "Retry-After-Ms": {ms}, "Date": {date}, "Age": {remaining}, "Ratelimit": {limit, limit}, "Ratelimit-Policy": {policy},
			"Ratelimit-Remaining": {remaining}, "Ratelimit-Reset": {reset}, "X-Ratelimit-Remaining": {remaining}, "X-Ratelimit-Reset": {reset},
			"X-Ratelimit-Remaining-Tokens": {remaining}, "X-Ratelimit-Limit-Tokens": {limit}, "X-Ratelimit-Reset-Tokens": {tokens},
			"Anthropic-Ratelimit-Requests-Limit": {"50"}, "Anthropic-Ratelimit-Requests-Remaining": {remaining}, "Anthropic-Ratelimit-Requests-Reset": {anthropic},
			"X-Ratelimit-" + policy: {reset},
		}
		s := ParseWithin(h, status, now, time.Duration(bound))
		most := time.Duration(bound)
		if most <= 0 {
			most = MaxPause
		}
		if s.Pause < 0 || s.Pause > most {
			t.Errorf("pause %v outside [0, %v]", s.Pause, most)
		}
		assert.Equal(t, s.Source == "", s.Pause == 0, "pause %v of %q", s.Pause, s.Source)
		for _, q := range s.Quotas {
			if q.Limit < Unknown || q.Remaining < Unknown || q.Reset < 0 || q.Window < 0 {
				t.Errorf("quota %+v", q)
			}
		}
		if again := ParseWithin(h, status, now, time.Duration(bound)); !reflect.DeepEqual(s, again) {
			t.Errorf("once %+v, then %+v", s, again)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"6m0s", "12ms", "1.5h", "1h2m3.000000004s", "1\u00b5s", "99999999h", "1d", "0.9999999999s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseDuration(s)
		if got < 0 || !ok && got != 0 {
			t.Errorf("%q: %v, %v", s, got, ok)
		}
		want, err := time.ParseDuration(s)
		if err != nil || want < 0 || s == "0" || strings.ContainsAny(s, "+-") {
			return
		}
		// Go also takes ".5s" and "5.s"; those are not read here.
		if !ok {
			if !strings.HasPrefix(s, ".") && !strings.Contains(s, ".") {
				t.Errorf("%q is %v, but not read", s, want)
			}
			return
		}
		// Rounded up, where Go rounds each part down; the tenth digit of an hour is 360 ns.
		if parts := time.Duration(len(s)); got < want || got-want > 4000*parts {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	})
}

func benchmarkParse(b *testing.B, status int, lines ...string) {
	h := header(append(lines, "Content-Type: application/json", "Date: Mon, 02 Mar 2026 15:04:05 GMT", "Server: x", "Cache-Control: no-store",
		"Content-Length: 812", "Strict-Transport-Security: max-age=1", "X-Request-Id: abc", "Vary: Origin", "Alt-Svc: h3", "Via: 1.1 x")...)
	b.ReportAllocs()
	for b.Loop() {
		Parse(h, status, now)
	}
}

func BenchmarkParse(b *testing.B) {
	b.Run("nothing", func(b *testing.B) { benchmarkParse(b, 200) })
	b.Run("retry-after", func(b *testing.B) { benchmarkParse(b, 429, "Retry-After: 30") })
	b.Run("openai", func(b *testing.B) {
		benchmarkParse(b, 200, "X-RateLimit-Limit-Requests: 60", "X-RateLimit-Remaining-Requests: 59", "X-RateLimit-Reset-Requests: 1s",
			"X-RateLimit-Limit-Tokens: 150000", "X-RateLimit-Remaining-Tokens: 149984", "X-RateLimit-Reset-Tokens: 6m0s")
	})
	b.Run("ietf", func(b *testing.B) {
		benchmarkParse(b, 200, `RateLimit-Policy: "burst";q=100;w=60,"daily";q=1000;w=86400`, `RateLimit: "burst";r=0;t=30, "daily";r=50;t=7200`)
	})
}
