package sluiceprom_test

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	sluiceprom "github.com/sluice-go/sluice/contrib/prometheus"
)

// panel is what a test looks at of one in a Grafana dashboard.
type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ H, W, X, Y int }
	Targets []struct{ RefID, Expr, LegendFormat string }
	Panels  []panel
}

var (
	descText = regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([\w,]*)\}`)
	aMetric  = regexp.MustCompile(`\bsluice_\w+`)
	byLabels = regexp.MustCompile(`\bby \(([\w, ]+)\)`)
	matchers = regexp.MustCompile(`\b(sluice_\w+)\{([^}]*)\}`)
	matched  = regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"`)
	legend   = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// metrics is the labels of all metrics that a collector has, by their names as queries have them.
func metrics(t *testing.T) map[string][]string {
	col, err := sluiceprom.NewCollector(sluiceprom.Config{})
	require.NoError(t, err)
	descs := make(chan *prometheus.Desc, 100)
	col.Describe(descs)
	close(descs)
	out := make(map[string][]string)
	for d := range descs {
		m := descText.FindStringSubmatch(d.String())
		require.NotNil(t, m, d.String())
		labels := strings.Split(m[2], ",")
		if strings.HasSuffix(m[1], "_seconds") && !strings.HasSuffix(m[1], "_oldest_seconds") {
			out[m[1]+"_bucket"] = append(labels, "le")
		} else {
			out[m[1]] = labels
		}
	}
	return out
}

// TestDashboard: every query of it names metrics, and labels, that the collector has; it shows every metric; and no
// panel covers another.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var board struct {
		Title, UID string
		Panels     []panel
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &board))
	require.NotEmpty(t, board.Title)
	have, used := metrics(t), make(map[string]bool)
	for _, v := range board.Templating.List {
		for _, m := range aMetric.FindAllString(v.Definition, -1) {
			require.Contains(t, have, m, v.Name)
		}
	}
	ids, cells := make(map[int]bool), make(map[[2]int]string)
	for _, p := range board.Panels {
		require.False(t, ids[p.ID], "two panels have the id %d", p.ID)
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				require.Empty(t, cells[[2]int{x, y}], "%s covers another", p.Title)
				require.Less(t, x, 24)
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		require.NotEmpty(t, p.Targets, p.Title)
		for _, q := range p.Targets {
			names := aMetric.FindAllString(q.Expr, -1)
			require.NotEmpty(t, names, q.Expr)
			for _, name := range names {
				require.Contains(t, have, name, p.Title)
				used[name] = true
			}
			var grouped []string
			for _, m := range byLabels.FindAllStringSubmatch(q.Expr, -1) {
				for _, l := range strings.Split(m[1], ", ") {
					require.Contains(t, have[names[0]], l, q.Expr)
					grouped = append(grouped, l)
				}
			}
			for _, m := range matchers.FindAllStringSubmatch(q.Expr, -1) {
				for _, l := range matched.FindAllStringSubmatch(m[2], -1) {
					require.Contains(t, append([]string{"job"}, have[m[1]]...), l[1], q.Expr)
				}
			}
			for _, m := range legend.FindAllStringSubmatch(q.LegendFormat, -1) {
				require.Contains(t, grouped, m[1], "the legend of %s", q.Expr)
			}
			require.Equal(t, strings.Count(q.Expr, "("), strings.Count(q.Expr, ")"), q.Expr)
		}
	}
	require.Equal(t, slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(used)))
}
