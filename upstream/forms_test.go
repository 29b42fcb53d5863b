package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// at is 90 seconds from now, in the forms that programs print a date in.
func datesOf(at time.Time) []string {
	west := at.In(time.FixedZone("", -5*3600-1800))
	return []string{
		at.Format(time.RFC3339), at.Format("2006-01-02T15:04:05.000Z"), at.Format("2006-01-02t15:04:05z"),
		at.Format("2006-01-02T15:04:05"), at.Format("2006-01-02 15:04:05"), at.Format("2006-01-02 15:04:05Z"),
		at.Format("2006-01-02 15:04:05 UTC"), at.Format("2006-01-02 15:04:05 GMT"), at.Format("2006-01-02 15:04:05 +0000 UTC"),
		at.Format("2006-01-02T15:04:05+0000"), at.Format("2006-01-02T15:04:05+00"), at.Format("2006-01-02T15:04:05,000Z"),
		at.Format("20060102T150405Z"), at.Format("2006-01-02T150405Z"), at.Format("2006/01/02 15:04:05"), `"` + at.Format(time.RFC3339) + `"`,
		west.Format(time.RFC3339), west.Format("2006-01-02T15:04:05-0700"), west.Format("2006-01-02 15:04:05 -0700"), west.Format("20060102T150405-0700"),
		at.Format(http.TimeFormat), at.Format("Mon, 02 Jan 2006 15:04:05 UTC"), at.Format("Mon, 2 Jan 2006 15:04:05 GMT"), at.Format("2 Jan 2006 15:04:05 GMT"),
		at.Format("Mon, 02 Jan 2006 15:04:05"), at.Format(time.RFC1123Z), west.Format(time.RFC1123Z), at.Format("Mon, 02-Jan-2006 15:04:05 GMT"),
		at.Format("Monday, 02-Jan-06 15:04:05 GMT"), at.Format("Monday, 02 January 2006 15:04:05 GMT"),
		at.Format(time.ANSIC), at.Format("Mon Jan _2 15:04:05 UTC 2006"), west.Format(time.RubyDate),
		at.Format("Mon Jan 02 2006 15:04:05 GMT+0000 (Coordinated Universal Time)"), west.Format("Mon Jan 02 2006 15:04:05 GMT-0700 (Some Summer Time)"),
	}
}

// The same point in time, in every form, by every field.
func TestParse_DateForms(t *testing.T) {
	at := now.Add(90 * time.Second)
	minute := now.Truncate(time.Minute).Add(5 * time.Minute)
	for _, c := range []struct {
		forms []string
		want  time.Duration
	}{
		{datesOf(at), 90 * time.Second},
		{[]string{
			minute.Format("2006-01-02T15:04Z"), minute.Format("2006-01-02 15:04"), minute.Format("2006-01-02T15:04-07:00"), minute.Format("20060102T1504Z"),
			minute.Format("Mon, 02 Jan 2006 15:04 GMT"), minute.Format("02 Jan 2006 15:04 +0000"), minute.Format("Mon Jan 2 15:04 2006"),
		}, minute.Sub(now)},
		{[]string{"90s", "1m30s", "90 s", "90 seconds", "1 minute 30 seconds", "1.5 min", "PT90S", "PT1M30S", "PT1.5M", "90000ms", `"90"`, "90", "90.0"}, 90 * time.Second},
		{[]string{"P1D", "P1DT2H", "25h", "1 day", "2d", "999999999999h", "P99999999999999D", "9999-12-31T23:59:59Z", "Fri, 31 Dec 9999 23:59 GMT"}, time.Hour},
		{[]string{
			"", "soon", "-90", "+90", "-90s", "1m30", "m", "P", "PT", "P1M", "PT1D", "1 fortnight", "2026-13-02T15:04:05Z", "2026-02-30T15:04:05Z", "2026-03-02", "2026-03-02T",
			"2026-03-02T25:04:05Z", "2026-03-02T15:61:05Z", "2026-03-02T15:04:05 PST", "2026-03-02T15:04:05+25:00", "2026-03-02T15:04:05+00:00+00:00", "15:04:05",
			"Mon, 99 Mar 2026 15:04:05 GMT", "Mon, 02 Foo 2026 15:04:05 GMT", "Mon, 02 Mar 2026 GMT", "Mon, 02 Mar 2026 15:04:05 GMT x", "Mar", "Mon Mar Mar 2 15:04:05 2026",
			"Mon, 02 Mar 2026 15:04:05 EST", "Mon, 02 Mar 2026 15:04:05 (unclosed", "3/2/2026, 3:05:35 PM", "tomorrow at 15:04:05 or so, please",
		}, 0},
	} {
		for _, v := range c.forms {
			for name, s := range map[string]Signals{
				"Retry-After":         Parse(header("Retry-After: "+v), 429, now),
				"X-RateLimit-Reset":   Parse(header("X-RateLimit-Remaining: 0", "X-RateLimit-Reset: "+v), 429, now),
				"RateLimit-Reset":     Parse(header("RateLimit-Remaining: 0", "RateLimit-Reset: "+v), 429, now),
				"Anthropic":           Parse(header("Anthropic-RateLimit-Tokens-Remaining: 0", "Anthropic-RateLimit-Tokens-Reset: "+v), 429, now),
				"X-RateLimit-Retry-…": Parse(header("X-RateLimit-Retry-After: "+v), 429, now),
			} {
				assert.Equal(t, c.want, s.Pause, "%s: %q: pause", name, v)
			}
			assert.Equal(t, c.want > 0, Parse(header("Retry-After: "+v), 503, now).Throttled,
				"503 with Retry-After %q: throttled", v)
		}
	}
}

// Date is read in the same forms.
func TestParse_DateOfTheResponse(t *testing.T) {
	for _, date := range datesOf(now.Add(-400 * 24 * time.Hour)) {
		s := Parse(header("Date: "+date, "Retry-After: "+now.Add(-400*24*time.Hour+8*time.Second).Format(http.TimeFormat)), 429, now)
		assert.Equal(t, 8*time.Second, s.Pause, "Date %q: pause", date)
	}
}

// A year of the virtual clock, and one of the real: numbers mean the same in both.
func TestParse_EpochAndSecondsFromNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, at := range []time.Time{time.Now(), now, time.Date(2001, 9, 9, 1, 46, 0, 0, time.UTC), time.Date(2037, 1, 1, 0, 0, 0, 0, time.UTC)} {
			in := at.Add(90 * time.Second)
			for v, want := range map[string]time.Duration{
				"90":                                    90 * time.Second,
				"3599":                                  3599 * time.Second,
				"90000":                                 time.Hour,
				"31536000":                              time.Hour, // a year
				"99999999":                              time.Hour,
				strconv.FormatInt(in.Unix(), 10):        90 * time.Second,
				strconv.FormatInt(in.Unix(), 10) + ".5": 90500 * time.Millisecond,
				strconv.FormatInt(in.UnixMilli(), 10):   90 * time.Second,
				strconv.FormatInt(at.Unix()-3600, 10):   0,
				strconv.FormatInt(at.Unix(), 10):        0,
				strconv.FormatInt(at.Add(30*24*time.Hour).Unix(), 10): time.Hour,
			} {
				for _, name := range []string{"X-RateLimit-Reset", "RateLimit-Reset", "Retry-After", "X-RateLimit-Reset-Seconds"} {
					s := Parse(header("X-RateLimit-Remaining: 0", "RateLimit-Remaining: 0", name+": "+v), 429, at)
					if s.Pause != want {
						t.Errorf("in %d: %s: %s: pause %v, want %v", at.Year(), name, v, s.Pause, want)
					}
				}
			}
		}
	})
}

// Lists and repeated lines are one quota after the other, by position.
func TestParse_ListsAreReadByPosition(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		lines  []string
		want   time.Duration
	}{
		{"the first is used up", 200, []string{"Limit: 2, 500", "Remaining: 0, 400", "Reset: 3, 90000"}, 3 * time.Second},
		{"the second is used up", 200, []string{"Limit: 2, 500", "Remaining: 1, 0", "Reset: 3, 2000"}, 2000 * time.Second},
		{"both are", 200, []string{"Limit: 2, 500", "Remaining: 0, 0", "Reset: 3, 2000"}, 2000 * time.Second},
		{"none is", 200, []string{"Limit: 2, 500", "Remaining: 1, 400", "Reset: 3, 90000"}, 0},
		{"refused", 429, []string{"Limit: 2, 500", "Remaining: 0, 400", "Reset: 3, 90000"}, 3 * time.Second},
		{"lines", 200, []string{"Limit: 2", "Limit: 500", "Remaining: 0", "Remaining: 400", "Reset: 3", "Reset: 90000"}, 3 * time.Second},
		{"lines and lists", 429, []string{"Limit: 2, 500", "Limit: 9000", "Remaining: 1", "Remaining: 0, 8000", "Reset: 3, 40, 90000"}, 40 * time.Second},
		{"without limits", 200, []string{"Remaining: 5, 0", "Reset: 90000, 7"}, 7 * time.Second},
		{"fewer limits", 200, []string{"Limit: 2", "Remaining: 5, 0", "Reset: 90000, 7"}, 7 * time.Second},
		{"fewer resets", 200, []string{"Remaining: 5, 0", "Reset: 3"}, 0},
		{"with windows", 200, []string{"Limit: 2;w=1, 500;w=86400", "Remaining: 0, 400", "Reset: 1, 80000"}, time.Second},
		{"policies behind the limit", 429, []string{"Limit: 100, 100;w=10, 1000;w=3600", "Remaining: 0", "Reset: 7"}, 7 * time.Second},
		{"dates", 200, []string{"Remaining: 1, 0", "Reset: " + now.Add(time.Hour).Format(http.TimeFormat) + ", " + now.Add(5*time.Second).Format(http.TimeFormat)}, 5 * time.Second},
		{"durations", 200, []string{"Remaining: 0, 7", "Reset: 6m0s, 1h0m0s"}, 6 * time.Minute},
		{"the first says nothing", 200, []string{"Remaining: unlimited, 0", "Reset: 60, 30"}, 30 * time.Second},
		{"only the third says something", 200, []string{"Remaining: unlimited, none, 0", "Reset: 60, 40, 30"}, 30 * time.Second},
		{"a limit that is none", 200, []string{"Limit: unlimited, 500", "Remaining: 5, 0", "Reset: 60, 30"}, 30 * time.Second},
		{"spaces and none", 200, []string{"Remaining: 7 ,0,", "Reset: ,9 ,"}, 9 * time.Second},
	} {
		for _, prefix := range []string{"RateLimit-", "X-RateLimit-", "X-Rate-Limit-"} {
			h := http.Header{}
			for _, line := range c.lines {
				name, v, _ := strings.Cut(line, ": ")
				h.Add(prefix+name, v)
			}
			s := Parse(h, c.status, now)
			assert.Equal(t, c.want, s.Pause, "%s: %s: pause: %+v", c.name, prefix, s.Quotas)
		}
		for _, form := range []string{"X-RateLimit-%-Tokens", "Anthropic-RateLimit-Tokens-%"} {
			h := http.Header{}
			for _, line := range c.lines {
				name, v, _ := strings.Cut(line, ": ")
				h.Add(strings.Replace(form, "%", name, 1), v)
			}
			s := Parse(h, c.status, now)
			assert.Equal(t, c.want, s.Pause, "%s: %s: pause: %+v", c.name, form, s.Quotas)
		}
	}
	s := Parse(header("RateLimit: limit=2, remaining=0, reset=3", "RateLimit: limit=500, remaining=400, reset=90000"), 200, now)
	assert.Equal(t, 3*time.Second, s.Pause, "two dictionaries")
	assert.Len(t, s.Quotas, 2, "two dictionaries")
	many := strings.Repeat("0, ", 1000) + "0"
	assert.Len(t, Parse(header("X-RateLimit-Remaining: "+many, "RateLimit-Remaining: "+many), 200, now).Quotas, maxQuotas,
		"quotas")
}

// The longer of several Retry-After fields counts, the finer before the coarser.
func TestParse_SeveralRetryAfters(t *testing.T) {
	for _, c := range []struct {
		lines  []string
		want   time.Duration
		source string
	}{
		{[]string{"Retry-After: 5", "Retry-After: 30"}, 30 * time.Second, "retry-after"},
		{[]string{"Retry-After: 30", "Retry-After: 5"}, 30 * time.Second, "retry-after"},
		{[]string{"Retry-After: soon", "Retry-After: 5"}, 5 * time.Second, "retry-after"},
		{[]string{"Retry-After: 5", "Retry-After: " + now.Add(time.Minute).Format(http.TimeFormat)}, time.Minute, "retry-after"},
		{[]string{"Retry-After: 0", "Retry-After: 0"}, 0, ""},
		{[]string{"Retry-After-Ms: 1500", "Retry-After-Ms: 900", "Retry-After: 2"}, 1500 * time.Millisecond, "retry-after-ms"},
		{[]string{"X-RateLimit-Retry-After-Seconds: 12"}, 12 * time.Second, "retry-after"},
		{[]string{"X-RateLimit-Retry-After-Seconds: 12", "Retry-After: 5"}, 12 * time.Second, "retry-after"},
		{[]string{"RateLimit-Retry-After: 12"}, 12 * time.Second, "retry-after"},
		{[]string{"X-Retry-After: 12s"}, 12 * time.Second, "retry-after"},
		{[]string{"Retry-After-Seconds: 12"}, 12 * time.Second, "retry-after"},
		{[]string{"X-Retry-After-Minutes: 2"}, 2 * time.Minute, "retry-after"},
		{[]string{"X-RateLimit-Retry-After-Ms: 1500"}, 1500 * time.Millisecond, "retry-after-ms"},
		{[]string{"X-Retry-After-Milliseconds: 1500"}, 1500 * time.Millisecond, "retry-after-ms"},
		{[]string{"X-No-Retry-Afterwards: 12", "Xretry-After: 5", "Retry-After-Policy: 3"}, 0, ""},
	} {
		s := Parse(header(c.lines...), 429, now)
		assert.Equal(t, c.want, s.Pause, "%q", c.lines)
		assert.Equal(t, c.source, s.Source, "%q", c.lines)
	}
	for v, want := range map[string]bool{"12": true, "0": false} {
		assert.Equal(t, want, Parse(header("X-RateLimit-Retry-After-Seconds: "+v), 403, now).Throttled,
			"403 with a field that says %s: throttled", v)
	}
}

// A reset's name may tell its unit, or that it counts from now.
func TestParse_UnitsInNames(t *testing.T) {
	epoch := now.Add(90 * time.Second)
	for _, c := range []struct {
		line string
		want time.Duration
	}{
		{"X-RateLimit-Reset-Ms: 1500", 1500 * time.Millisecond},
		{"X-RateLimit-Reset-Milliseconds: 1500", 1500 * time.Millisecond},
		{"X-RateLimit-Reset-After-Ms: 1500", 1500 * time.Millisecond},
		{"X-RateLimit-Reset-Ms: " + strconv.FormatInt(epoch.UnixMilli(), 10), 90 * time.Second},
		{"X-RateLimit-Reset-Ms: 2000000000", time.Hour}, // 23 days
		{"X-RateLimit-Reset-Ms: 1.5s", 1500 * time.Millisecond},
		{"X-RateLimit-Reset-Seconds: 90", 90 * time.Second},
		{"X-RateLimit-Reset-Minutes: 2", 2 * time.Minute},
		{"X-RateLimit-Reset-After: 90.5", 90500 * time.Millisecond},
		{"X-RateLimit-Reset-In: 90", 90 * time.Second},
		{"X-RateLimit-Reset-At: " + epoch.Format(time.RFC3339), 90 * time.Second},
		{"X-RateLimit-Reset-Time: " + strconv.FormatInt(epoch.Unix(), 10), 90 * time.Second},
		{"X-Rate-Limit-Reset-Ms: 1500", 1500 * time.Millisecond},
	} {
		s := Parse(header("X-RateLimit-Remaining: 0", "X-RateLimit-Limit: 9", c.line), 429, now)
		assert.Equal(t, c.want, s.Pause, c.line)
		assert.Len(t, s.Quotas, 1, c.line)
	}
	for _, line := range []string{"X-RateLimit-Reset-Requests-Ms: 1500", "X-RateLimit-Requests-Reset-Ms: 1500"} {
		assert.Equal(t, 1500*time.Millisecond, Parse(header("X-RateLimit-Remaining-Requests: 0", line), 429, now).Pause,
			"%s: pause", line)
	}
	s := Parse(header("X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 2", "X-RateLimit-Reset-Ms: 1500"), 429, now)
	assert.Equal(t, 1500*time.Millisecond, s.Pause, "the finer of two: pause")
}

// A window pauses if it is said to be used up, and not because its reset is known.
func TestParse_OnlyWhatIsUsedUpPauses(t *testing.T) {
	week, hours := strconv.FormatInt(now.Add(100*time.Hour).Unix(), 10), strconv.FormatInt(now.Add(20*time.Minute).Unix(), 10)
	unified := func(five, seven string) []string {
		const p = "Anthropic-RateLimit-Unified-"
		return []string{p + "5h-Status: " + five, p + "5h-Reset: " + hours, p + "7d-Status: " + seven, p + "7d-Reset: " + week, p + "5h-Utilization: 0.2", p + "Fallback-Percentage: 0.5"}
	}
	for _, c := range []struct {
		name   string
		status int
		lines  []string
		want   time.Duration
		source string
	}{
		{"allowed", 429, []string{"Anthropic-RateLimit-Unified-7d-Status: allowed", "Anthropic-RateLimit-Unified-7d-Reset: " + week}, 0, ""},
		{"allowed, overloaded", 529, []string{"Anthropic-RateLimit-Unified-7d-Status: allowed", "Anthropic-RateLimit-Unified-7d-Reset: " + week}, 0, ""},
		{"allowed with a warning", 429, unified("allowed", "allowed_warning"), 0, ""},
		{"one is rejected", 429, unified("rejected", "allowed"), 20 * time.Minute, "anthropic-ratelimit"},
		{"the other is", 429, unified("allowed", "Rejected"), time.Hour, "anthropic-ratelimit"},
		{"both allowed, overloaded", 529, unified("allowed", "allowed"), 0, ""},
		{"rejected, and yet answered", 200, unified("rejected", "allowed"), 0, ""},
		{"rejected, with a time", 429, append(unified("rejected", "allowed"), "Retry-After: 5"), 5 * time.Second, "retry-after"},
		{"only a reset, overloaded", 529, []string{"X-RateLimit-Reset: 12"}, 0, ""},
		{"resets of two windows", 429, []string{"X-RateLimit-Reset-Requests: 1s", "X-RateLimit-Reset-Tokens: 6m0s"}, 0, ""},
		{"a reset beside a window with something left", 429, []string{"X-RateLimit-Remaining-Requests: 5", "X-RateLimit-Reset-Requests: 1s", "X-RateLimit-Reset-Tokens: 6m0s"}, 0, ""},
		{"a reset beside a window that is used up", 429, []string{"X-RateLimit-Remaining-Requests: 0", "X-RateLimit-Reset-Requests: 1s", "X-RateLimit-Reset-Tokens: 6m0s"}, time.Second, "x-ratelimit"},
		{"the only window of a refusal", 429, []string{"X-RateLimit-Limit: 10", "X-RateLimit-Reset: 12"}, 12 * time.Second, "x-ratelimit"},
		{"another's word", 429, []string{"X-RateLimit-Day-Status: exceeded", "X-RateLimit-Day-Reset: 60", "X-RateLimit-Month-Status: ok", "X-RateLimit-Month-Reset: 600"}, time.Minute, "x-ratelimit"},
	} {
		if s := Parse(header(c.lines...), c.status, now); s.Pause != c.want || s.Source != c.source {
			t.Errorf("%s: pause %v of %q, want %v of %q: %+v", c.name, s.Pause, s.Source, c.want, c.source, s.Quotas)
		}
	}
}

func FuzzParseDate(f *testing.F) {
	for _, s := range datesOf(now) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseDate(s)
		for _, layout := range []string{time.RFC3339, http.TimeFormat, time.ANSIC} {
			if want, err := time.Parse(layout, s); err == nil && want.Year() >= 1000 && (!ok || !got.Equal(want)) && !strings.ContainsAny(s, ",.") {
				t.Errorf("%q: %v, %v, want %v", s, got, ok, want)
			}
		}
		if !ok && !got.IsZero() {
			t.Errorf("%q: %v although it is none", s, got)
		}
	})
}
