package sluiceprom_test

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceprom "github.com/sluice-go/sluice/contrib/prometheus"
	"github.com/sluice-go/sluice/examples/demo/office"
)

// labelsOf is which labels each metric has, in order. Histograms are those that promhttp writes as _count and _sum.
var labelsOf = map[string]string{
	"sluice_calls_total":                 "outcome reason tool",
	"sluice_call_duration_seconds_count": "outcome tool",
	"sluice_call_duration_seconds_sum":   "outcome tool",
	"sluice_queue_wait_seconds_count":    "limiter priority",
	"sluice_queue_wait_seconds_sum":      "limiter priority",
	"sluice_rejections_total":            "limiter reason",
	"sluice_retries_total":               "reason tool",
	"sluice_breaker_transitions_total":   "breaker from to",
	"sluice_executor_running":            "",
	"sluice_executor_queued":             "",
	"sluice_executor_abandoned":          "",
	"sluice_events_dropped_total":        "",
	"sluice_in_flight":                   "key limiter",
	"sluice_limit":                       "key limiter",
	"sluice_limit_stalled":               "key limiter",
	"sluice_paused":                      "key limiter",
	"sluice_rate_limit_tokens":           "key limiter",
	"sluice_breaker_state":               "breaker key state",
	"sluice_queue_length":                "limiter priority",
	"sluice_queue_oldest_seconds":        "limiter priority",
	"sluice_layer_used":                  "layer",
	"sluice_layer_limit":                 "layer",
}

// valuesOf is which values a label may have; one that is not here is a limiter, a layer or a key, which the demo names.
var valuesOf = map[string][]string{
	"tool":     {"search", "fetch_page", "get_weather", "query_crm", "summarize", "send_mail", "create_ticket"},
	"outcome":  {"completed", "failed"},
	"reason":   {"", "tool_error", "breaker_open"},
	"priority": {"1", "5", "9"},
	"from":     {"closed", "half-open", "open"},
	"to":       {"closed", "half-open", "open"},
	"state":    {"closed", "half-open", "open"},
	"breaker":  {"breaker"},
	"layer":    {"retry budget"},
	"limiter":  {"rate/provider calls per second", "concurrency/backend global", "breaker"},
	"key":      {"", "web", "weather", "office", "search", "fetch_page", "get_weather", "query_crm", "summarize", "send_mail", "create_ticket"},
}

var pair = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)

// byTheTable checks that each series has the labels of the table, and is of values that the demo has, and answers
// which metrics there are.
func byTheTable(t *testing.T, samples map[string]string) []string {
	t.Helper()
	names := map[string]bool{}
	for series := range samples {
		name, rest, _ := strings.Cut(series, "{")
		labels, ok := labelsOf[name]
		require.True(t, ok, series)
		names[name] = true
		var has []string
		for _, m := range pair.FindAllStringSubmatch(rest, -1) {
			has = append(has, m[1])
			require.Contains(t, valuesOf[m[1]], m[2], series)
		}
		slices.Sort(has)
		require.Equal(t, labels, strings.Join(has, " "), series)
	}
	return slices.Sorted(maps.Keys(names))
}

// TestDemo_LabelByLabel: what make demo runs guarded, as Prometheus scrapes it while calls wait and at the end.
func TestDemo_LabelByLabel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceprom.Config{})
		var mid map[string]string
		calls, failed, err := office.Observed(t.Context(), office.Observer{Sink: r.col, Watch: func(e *sluice.Executor) {
			require.NoError(t, r.col.Watch(e))
			time.AfterFunc(3*time.Second, func() { mid = r.scrape() })
		}})
		require.NoError(t, err)
		all := slices.Sorted(maps.Keys(labelsOf))
		require.Equal(t, slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == "sluice_rejections_total" }), // of which there are none by then
			byTheTable(t, mid))
		require.Equal(t, "1", mid[`sluice_breaker_state{breaker="breaker",key="get_weather",state="open"}`])
		require.Equal(t, "8", mid[`sluice_limit{key="",limiter="concurrency/backend global"}`])

		end := r.scrape()
		byTheTable(t, end)
		sum := map[string]int{}
		for series, v := range only(end, "sluice_calls_total", "sluice_call_duration_seconds_count") {
			n, err := strconv.Atoi(v)
			require.NoError(t, err)
			name, _, _ := strings.Cut(series, "{")
			sum[name] += n
			if strings.Contains(series, `outcome="failed"`) {
				sum[name+" failed"] += n
			}
		}
		require.Equal(t, map[string]int{
			"sluice_calls_total": calls, "sluice_calls_total failed": failed,
			"sluice_call_duration_seconds_count": calls, "sluice_call_duration_seconds_count failed": failed,
		}, sum)
	})
}
