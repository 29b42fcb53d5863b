package office

import (
	"bytes"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestQuantile(t *testing.T) {
	ten := []time.Duration{9, 3, 1, 7, 5, 2, 10, 4, 8, 6}
	tests := []struct {
		name string
		d    []time.Duration
		q    float64
		want time.Duration
	}{
		{"nothing", nil, 0.5, 0},
		{"one", []time.Duration{4}, 0.99, 4},
		{"median", ten, 0.5, 5},
		{"p99", ten, 0.99, 10},
		{"smallest", ten, 0, 1},
		{"largest", ten, 1, 10},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, quantile(tt.d, tt.q), tt.name)
	}
	assert.Equal(t, time.Duration(9), ten[0], "the input was sorted")
}

// contest is a guarded run as it should be: acme gets two calls for one of each other
// tenant until the others are done; hooli goes on alone.
func contest() column {
	var c column
	add := func(tenant, tool string, p sluice.Priority, began time.Duration, err error) {
		c.answers = append(c.answers, answer{
			Tenant: tenant, Tool: tool, Provider: "web", Priority: p, Began: began, Err: err, Sent: []byte("{}"),
		})
	}
	at := time.Duration(0)
	for range 10 {
		for _, tenant := range []string{"hooli", "acme", "globex", "acme", "initech"} {
			at++
			add(tenant, "search", sluice.PriorityNormal, at, nil)
		}
	}
	for range 50 {
		at++
		add("hooli", "search", sluice.PriorityNormal, at, nil)
	}
	add("acme", "search", sluice.PriorityInteractive, 0, nil)
	add("hooli", "search", sluice.PriorityBatch, at+1, nil)
	add("hooli", brokenTool, sluice.PriorityNormal, 1, &statusError{Status: 500})
	return c
}

func TestShares(t *testing.T) {
	c := contest()
	// Counted until globex, the first to finish, starts its last: 48 calls, and none of the
	// 50 that hooli makes alone.
	for tenant, want := range map[string]float64{"acme": 19. / 48, "globex": 10. / 48, "hooli": 10. / 48, "initech": 9. / 48} {
		if got := c.shares()[tenant]; math.Abs(got-want) > 1e-9 {
			t.Errorf("%s has %.4f, want %.4f", tenant, got, want)
		}
	}
	assert.Equal(t, 0.4, fairShare("acme", c.tenants()), "acme's fair share")
}

// Each kind of broken promise is noticed, and a clean run has none.
func TestBrokenPromises(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(c *column)
		want  string
	}{
		{"clean", func(c *column) {}, ""},
		{"429", func(c *column) { c.counts.TooMany = 1 }, "429"},
		{"503", func(c *column) { c.counts.TooBusy = 1 }, "503"},
		{"in flight", func(c *column) { c.counts.Peak = serverSlots + 1 }, "in flight"},
		{"no answer", func(c *column) { c.answers[3].Sent = nil }, "1 of 103 calls have no answer"},
		{"lost", func(c *column) { c.answers[3].Err = errors.New("queue full") }, "1 calls failed"},
		{"lost to a 500 elsewhere", func(c *column) { c.answers[3].Err = &statusError{Status: 500} }, "1 calls failed"},
		{"the broken endpoint answers 429", func(c *column) { c.answers[102].Err = &throttled{} }, "1 calls failed"},
		{"the breaker refused to the end", func(c *column) { c.answers[102].Err = sluice.ErrBreakerOpen }, ""},
		{"a breaker refused elsewhere", func(c *column) { c.answers[3].Err = sluice.ErrBreakerOpen }, "1 calls failed"},
		{"priority", func(c *column) { c.answers[100].Began = time.Hour }, "half of the interactive calls"},
		{"unfair", func(c *column) {
			for i := range c.answers[:50] {
				if c.answers[i].Tenant == "globex" && i > 5 {
					c.answers[i].Tenant = "hooli"
				}
			}
		}, "is fair"},
	}
	for _, tt := range tests {
		c := contest()
		tt.spoil(&c)
		got := strings.Join(c.brokenPromises(), "; ")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTable(t *testing.T) {
	without, with := contest(), contest()
	without.counts.TooMany = 7
	var plain, color bytes.Buffer
	printTable(terminal{w: &plain}, without, with)
	printTable(terminal{w: &color, color: true}, without, with)
	if want := "429 too many requests                                   7                  0\n"; !strings.Contains(plain.String(), want) {
		t.Errorf("no line %q in\n%s", want, plain.String())
	}
	assert.NotContains(t, plain.String(), "\x1b", "the plain table holds colour codes")
	assert.Contains(t, color.String(), "\x1b[31m                 7\x1b[0m", "a bad number is not red")
	for line := range strings.Lines(plain.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 85 {
			t.Errorf("a line is %d wide: %s", n, line)
		}
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		show := func(live bool) string {
			var out bytes.Buffer
			p := newProgress(terminal{w: &out, live: live}, 2, newBackend())
			p.arrived(2)
			p.began()
			time.Sleep(2500 * time.Millisecond)
			p.ended(true, nil)
			p.ended(false, errors.New("refused"))
			p.Close()
			return out.String()
		}
		plain := show(false)
		if n := strings.Count(plain, "\n"); n != 3 { // after 1 s, 2 s, and at the end
			t.Errorf("%d plain lines, want 3:\n%s", n, plain)
		}
		if !strings.Contains(plain, "0/2 ended,   0 ok,   1 wait,  1 run") || !strings.Contains(plain, "2/2 ended,   1 ok,   0 wait,  0 run") {
			t.Errorf("the lines are\n%s", plain)
		}
		inPlace := show(true)
		if strings.Count(inPlace, "\n") != 1 || strings.Count(inPlace, "\r") < 20 {
			t.Errorf("the live line is %q", inPlace)
		}
	})
}

func TestDetectTerminal(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/out")
	require.NoError(t, err)
	defer f.Close()
	if term := detectTerminal(f); term.live || term.color {
		t.Errorf("a file is %+v", term)
	}
	tests := []struct {
		term, noColor string
		live, color   bool
	}{
		{"xterm", "", true, true},
		{"xterm", "1", true, false},
		{"dumb", "", false, false},
	}
	null, err := os.Open(os.DevNull) // a character device, as a terminal is
	require.NoError(t, err)
	defer null.Close()
	for _, tt := range tests {
		t.Setenv("TERM", tt.term)
		t.Setenv("NO_COLOR", tt.noColor)
		got := detectTerminal(null)
		assert.Equal(t, tt.live, got.live, "TERM=%s NO_COLOR=%s", tt.term, tt.noColor)
		assert.Equal(t, tt.color, got.color, "TERM=%s NO_COLOR=%s", tt.term, tt.noColor)
	}
}
