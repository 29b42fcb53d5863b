package sluicehttp

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice"
)

const (
	// few is how many rows of a list the overview shows.
	few = 10
	// mostDrawn is how many limits have a picture there.
	mostDrawn = 6
)

// overview shows what there is at a glance.
func (p *Page) overview(v *view, x *reading) {
	s := &x.snap
	v.Title = "Overview"
	v.Figures = []figure{
		figureOf("in_flight", "In flight", s.InFlight), figureOf("queued", "Queued", s.Queued), figureOf("abandoned", "Abandoned", s.Abandoned),
		figureOf("completed", "Completed", s.Completed), figureOf("failed", "Failed", s.Failed), figureOf("denied", "Denied", s.Denied),
		figureOf("events_delivered", "Events delivered", s.EventsDelivered), figureOf("events_dropped", "Events dropped", s.EventsDropped),
	}
	all := p.alerts(x)
	v.Alerts = all[:min(few, len(all))]
	v.MoreHere = len(all) - len(v.Alerts)
	v.Charts, v.Drawn = charts(x), strings.TrimSuffix(length(x.drawn()), " 0 s")
	lanes := x.lanes[:min(few, len(x.lanes))]
	t := laneTable(lanes)
	t.ID, t.Caption = "queue", "What most calls wait for"
	v.Tables = append(v.Tables, more(t, "queue", len(lanes), len(x.lanes)))
	limits := slices.DeleteFunc(slices.Clone(x.gates["limits"]), func(g sluice.GateState) bool { return g.Limit <= 0 })
	for _, part := range []struct {
		view, caption string
		list          []sluice.GateState
	}{{"limits", "Limits with most waiting, or most in use", limits}, {"rates", "Rates with most waiting, or most in use", x.gates["rates"]}} {
		list := part.list[:min(few, len(part.list))]
		t := table{ID: part.view, Caption: part.caption, Empty: "None has been used yet."}
		p.gateTable(&t, part.view, list, s.At)
		v.Tables = append(v.Tables, more(t, part.view, len(list), len(part.list)))
	}
	refused := x.refused[:min(few, len(x.refused))]
	if p.conf.Recent != nil {
		v.Tables = append(v.Tables, more(refusalTable(refused, s.At), "recent", len(refused), len(x.refused)))
	}
	short := *s
	short.Gates, short.Lanes = nil, nil
	v.JSON = struct {
		sluice.Snapshot
		Gates      int                `json:"gates"` // how many there are
		Lanes      int                `json:"lanes"`
		Waits      []sluice.LaneState `json:"waits"`
		Attention  []alertJSON        `json:"attention"`
		Refused    []entry            `json:"refused"`
		History    []point            `json:"history"`
		Use        []useJSON          `json:"use"`
		IntervalNS time.Duration      `json:"interval_ns"`
	}{short, len(s.Gates), len(s.Lanes), orEmpty(lanes), alertsJSON(v.Alerts), orEmpty(refused), x.points, x.uses(), p.conf.Interval}
}

// useJSON is how much of a limit's busiest key was taken at each point of the history, -1 where there was none.
type useJSON struct {
	Name string    `json:"name"`
	Use  []float32 `json:"use"`
}

func (x *reading) uses() []useJSON {
	out := make([]useJSON, len(x.names))
	for i, name := range x.names {
		out[i] = useJSON{name, make([]float32, len(x.points))}
		for j := range x.points {
			out[i].Use[j] = x.points[j].use[i]
		}
	}
	return out
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func figureOf[N int | uint64](id, label string, n N) figure {
	return figure{id, label, number(n), fmt.Sprint(n)}
}

// more says in t how many of how many it shows, and where the others are.
func more(t table, view string, shown, total int) table {
	t.Shown, t.Total = shown, total
	switch {
	case total == 0:
		t.Note = t.Empty
	case shown < total:
		t.Note, t.Next = fmt.Sprintf("%s of %s", number(shown), number(total)), query{n: standardRows}.href(view, "")
	default:
		t.Note = fmt.Sprintf("%s in all", number(total))
	}
	return t
}

// alerts is what needs attention.
func (p *Page) alerts(x *reading) (out []alert) {
	s := &x.snap
	for _, f := range s.Fleets {
		if f.Away {
			out = append(out, alert{status{"■", "away", "bad"}, "the engine of the fleet does not answer", f.Name, "", "fleets"})
		}
	}
	for _, name := range []string{"limits", "breakers", "rates"} {
		for i := range x.gates[name] {
			g := &x.gates[name][i]
			if alarm(g) == 0 {
				break // they stand first
			}
			for _, st := range statuses(g, s.At) {
				if st.Class == "bad" || st.Class == "warn" {
					out = append(out, alert{st, waitingText(g.Waiting), g.Name, g.Key, name})
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b alert) int { return strings.Compare(a.Status.Class, b.Status.Class) }) // bad, then warn
	if s.Abandoned > 0 {
		out = append(out, alert{status{"▲", "abandoned", "warn"}, count(s.Abandoned, "call runs on though nobody waits for it", "calls run on though nobody waits for them"), "", "", "limits"})
	}
	if s.EventsDropped > 0 {
		out = append(out, alert{status{"▲", "events dropped", "warn"}, count(s.EventsDropped, "event reached no sink", "events reached no sink"), "", "", "overview"})
	}
	return out
}

func waitingText(n int) string {
	if n == 0 {
		return ""
	}
	return count(n, "call waits there", "calls wait there")
}

type alertJSON struct {
	State string `json:"state"`
	Name  string `json:"name,omitempty"`
	Key   string `json:"key,omitempty"`
	Text  string `json:"text,omitempty"`
}

func alertsJSON(list []alert) []alertJSON {
	out := make([]alertJSON, len(list))
	for i, a := range list {
		out[i] = alertJSON{a.Status.Word, a.Name, a.Key, a.Text}
	}
	return out
}

// toolRow is a tool in JSON.
type toolRow struct {
	Name        string       `json:"name"`
	Type        string       `json:"type,omitempty"`
	Description string       `json:"description,omitempty"`
	InFlight    int64        `json:"in_flight"`
	Limit       int64        `json:"limit,omitempty"`
	Waiting     int          `json:"waiting"`
	Hints       sluice.Hints `json:"hints"`
}

// tools lists the registry.
func (p *Page) tools(v *view, x *reading) {
	v.Title, v.Search = "Tools", true
	v.Lead = "What is registered. A tool's page shows its plan, and what would become of a call."
	waits := make(map[string]int)
	for i := range x.snap.Lanes {
		waits[x.snap.Lanes[i].Tool] += x.snap.Lanes[i].Waiting
	}
	slots := make(map[string]*sluice.GateState)
	for i := range x.snap.Gates {
		if g := &x.snap.Gates[i]; strings.HasPrefix(g.Name, "tool/") && strings.HasSuffix(g.Name, " concurrency") {
			slots[g.Name] = g
		}
	}
	var list []toolRow
	for s := range p.conf.Executor.Registry().Tools() {
		r := toolRow{Name: s.Name, Type: s.Type, Description: s.Description, Waiting: waits[s.Name], Hints: s.Hints}
		if g := slots["tool/"+s.Name+" concurrency"]; g != nil {
			r.InFlight, r.Limit = g.Used, g.Limit
		}
		list = append(list, r)
	}
	l := pick(v.Query, stamp(v.At), list, func(r *toolRow) []string { return []string{r.Name, r.Type, hintsText(r.Hints), r.Description} })
	v.JSON = l
	t := table{Caption: "Tools by name", Empty: "No tool is registered.", Columns: []column{
		{"Tool", false}, {"Type", false}, {"In flight", true}, {"of", true}, {"Waiting", true}, {"Hints", false}, {"Description", false}}}
	for _, r := range l.Rows {
		of := cell{Field: "limit", Text: "no limit", Value: "0", Num: true}
		if r.Limit > 0 {
			of = numCell("limit", r.Limit)
		}
		t.Rows = append(t.Rows, row{Name: r.Name, Cells: []cell{
			{Field: "tool", Text: r.Name, Head: true, Href: toolHref(r.Name)}, {Field: "type", Text: r.Type},
			numCell("in_flight", r.InFlight), of, numCell("waiting", r.Waiting),
			{Field: "hints", Text: hintsText(r.Hints)}, {Field: "description", Text: r.Description}}})
	}
	v.Tables = []table{pagedTable(v.Query, l, t)}
}

func hintsText(h sluice.Hints) string {
	var list []string
	for _, x := range []struct {
		is   bool
		text string
	}{{h.ReadOnly, "reads only"}, {h.Idempotent, "idempotent"}, {h.Destructive, "destructive"}, {h.OpenWorld, "open world"}, {h.Untrusted, "untrusted"}} {
		if x.is {
			list = append(list, x.text)
		}
	}
	return strings.Join(list, ", ")
}

// tool shows one tool.
func (p *Page) tool(ctx context.Context, v *view, x *reading) {
	e, name := p.conf.Executor, v.Query.tool
	v.Title = "Tool " + shown(name)
	s, ok := e.Registry().Lookup(name)
	if !ok {
		v.Lead, v.status, v.Live = "There is no tool of that name.", 404, false
		v.JSON = struct {
			Error string `json:"error"`
		}{v.Lead}
		return
	}
	plan, _ := e.Plan(name)
	v.Lead = s.Description
	v.Facts = []fact{{"plan", "Plan", plan}}
	add := func(id, label, text string) {
		if text != "" {
			v.Facts = append(v.Facts, fact{id, label, text})
		}
	}
	add("type", "Type", s.Type)
	add("hints", "Hints", hintsText(s.Hints))
	add("priority", "Priority", priorityText(s.Policy.Priority))
	add("timeout", "Timeout of an attempt", orNothing(s.Policy.Timeout))
	switch w := s.Policy.MaxWait; {
	case w == sluice.NoWait:
		add("max_wait", "Waits", "never")
	default:
		add("max_wait", "Waits at most", orNothing(w))
	}
	v.Explain = p.nextCall(ctx, name)
	lanes := slices.DeleteFunc(slices.Clone(x.snap.Lanes), func(l sluice.LaneState) bool { return l.Tool != name })
	own := slices.DeleteFunc(slices.Clone(x.snap.Gates), func(g sluice.GateState) bool { return !strings.HasPrefix(g.Name, "tool/"+name+" ") })
	v.JSON = struct {
		At       string             `json:"at"`
		Name     string             `json:"name"`
		Type     string             `json:"type,omitempty"`
		Plan     string             `json:"plan"`
		Hints    sluice.Hints       `json:"hints"`
		Input    json.RawMessage    `json:"input_schema,omitempty"`
		Decision *explained         `json:"next_call"`
		Waits    []sluice.LaneState `json:"waits"`
		Limits   []sluice.GateState `json:"limits"`
	}{stamp(v.At), s.Name, s.Type, plan, s.Hints, s.InputSchema, v.Explain, orEmpty(lanes), orEmpty(own)}
	t := laneTable(lanes[:min(standardRows, len(lanes))])
	t.ID, t.Caption = "queue", "Its waiting calls"
	v.Tables = append(v.Tables, more(t, "queue", len(t.Rows), len(lanes)))
	g := table{ID: "limits", Caption: "Limits of its own", Empty: "It has none."}
	p.gateTable(&g, "limits", own, v.At)
	v.Tables = append(v.Tables, more(g, "limits", len(own), len(own)))
}

// explained is a decision as it is shown: words, and no text of a tool's.
type explained struct {
	Verdict string        `json:"verdict"` // "starts", "waits", "refused", or "unknown" if nobody has said in time
	Code    string        `json:"code,omitempty"`
	By      string        `json:"by,omitempty"`
	Text    string        `json:"text,omitempty"` // what a model would be told
	Retry   time.Duration `json:"retry_after_ns,omitempty"`
	Wait    time.Duration `json:"wait_ns,omitempty"`
	Place   int           `json:"place,omitempty"`
	Costs   []sluice.Cost `json:"costs,omitempty"`
}

func explainedOf(d sluice.Decision) *explained {
	x := &explained{Verdict: "starts", Wait: d.Wait, Place: d.Place, Costs: d.Costs}
	if len(d.Waits) > 0 || d.Place > 0 {
		x.Verdict = "waits"
	}
	if len(d.Waits) > 0 {
		x.By = d.Waits[0].By
	}
	if r := d.Refusal; r != nil {
		x.Verdict, x.Code, x.By, x.Retry = "refused", sluice.CodeOf(r), r.By, r.RetryAfter
		x.Text = sluice.ModelText(r)
	}
	return x
}

// Sentence is the decision in words.
func (x *explained) Sentence() string {
	switch x.Verdict {
	case "unknown":
		return fmt.Sprintf("Nobody knows: the tool's interceptors have not been made within %v.", explainTime)
	case "starts":
		return "A call would start at once."
	case "waits":
		s := fmt.Sprintf("A call would wait for %s, at place %d of the queue", shown(x.By), x.Place)
		if x.Wait > 0 {
			return s + ", for about " + length(x.Wait) + "."
		}
		return s + ". How long is not known yet."
	}
	s := "A call would be refused: " + shown(x.Code)
	if x.By != "" {
		s += ", by " + shown(x.By)
	}
	if x.Retry > 0 {
		s += ". It could be made again in " + length(x.Retry)
	}
	return s + "."
}
