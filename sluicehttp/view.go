package sluicehttp

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/sluice-go/sluice"
)

// view is one page: what the template shows, and what its JSON is.
type view struct {
	Page     *Page
	Name     string // as in the address
	Title    string
	Lead     string // a sentence below the title
	At       time.Time
	Seq      uint64
	Query    query
	Search   bool // its lists can be searched
	Live     bool // it follows what happens
	Figures  []figure
	Alerts   []alert
	MoreHere int // alerts that are left out
	Charts   []chart
	Drawn    string // how far back they go
	Tables   []table
	Facts    []fact
	Explain  *explained
	Ask      bool // it takes a call to explain
	Change   *changeView
	JSON     any
	status   int
}

// figure is one number.
type figure struct {
	ID, Label string
	N         string // as shown
	Value     string // as it is
}

// fact is one line of words.
type fact struct{ ID, Label, Text string }

// alert is something that needs attention.
type alert struct {
	Status status
	Text   string
	Name   string
	Key    string
	View   string
}

// status is a state, by word and shape; Class is its look.
type status struct{ Shape, Word, Class string }

// table is a list.
type table struct {
	ID, Caption string
	Columns     []column
	Rows        []row
	Total       int
	Shown       int
	Note        string // how many there are, or why none
	Empty       string
	Back, Next  string // addresses
}

type column struct {
	Label string
	Num   bool
}

// row has one cell for each column.
type row struct {
	Name, Key string // which thing it is about
	Cells     []cell
}

type cell struct {
	Field  string // what it is, for programs
	Value  string // as it is; empty if as Text
	Text   string
	Num    bool
	Head   bool // it names the row
	Href   string
	Bar    *bar
	Status []status
}

// bar is a part of a whole.
type bar struct {
	Percent int // 0 to 100
	Full    bool
}

// tabs are the views that the page offers.
var tabs = []struct{ Name, Label string }{
	{"overview", "Overview"}, {"queue", "Queue"}, {"limits", "Limits"}, {"rates", "Rates"}, {"breakers", "Breakers"},
	{"layers", "Layers"}, {"fleets", "Fleets"}, {"tools", "Tools"}, {"recent", "Recent"}, {"explain", "Explain"}, {"change", "Change"},
}

// Tab is one entry of the page's navigation.
type tab struct {
	Href, Label string
	Current     bool
}

// Tabs is the navigation.
func (v *view) Tabs() (out []tab) {
	for _, t := range tabs {
		if t.Name == "change" && v.Page.conf.Actor == nil {
			continue
		}
		current := t.Name == v.Name || t.Name == "tools" && v.Name == "tool"
		out = append(out, tab{query{n: standardRows}.href(t.Name, ""), t.Label, current})
	}
	return out
}

// JSONHref is the address of the view's JSON.
func (v *view) JSONHref() string { return v.Query.href(v.Name, ".json") }

// Stream is where changes are told; empty if they are not.
func (v *view) Stream() string {
	if !v.Live {
		return ""
	}
	return v.Query.stream()
}

// Version is that of the page's files.
func (v *view) Version() string { return version }

// Text is what is searched for.
func (v *view) Text() string { return v.Query.text }

// Clock is the instant of what is shown.
func (v *view) Clock() string { return clock(v.At, v.At) }

// Stamp is that for programs.
func (v *view) Stamp() string { return stamp(v.At) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// build is the view that q asks for, or nil if there is none.
func (p *Page) build(ctx context.Context, x *reading, q query) *view {
	v := &view{Page: p, Name: q.view, At: x.snap.At, Seq: x.seq, Query: q, Live: true}
	switch q.view {
	case "overview":
		x.order()
		p.overview(v, x)
	case "queue":
		x.order()
		p.queue(v, x)
	case "limits", "rates", "breakers", "layers":
		x.order()
		p.constraints(v, x)
	case "fleets":
		p.fleets(v, x)
	case "tools":
		p.tools(v, x)
	case "tool":
		p.tool(ctx, v, x)
	case "recent":
		p.recent(v, x)
	case "explain":
		p.explain(ctx, v)
	case "change":
		if p.conf.Actor == nil {
			return nil
		}
		p.change(v)
	default:
		return nil
	}
	return v
}

// queue shows who waits.
func (p *Page) queue(v *view, x *reading) {
	v.Title, v.Search = "Queue", true
	v.Lead = fmt.Sprintf("%s in %s. A lane is the calls that have tool, tenant, priority and what they wait for in common.",
		count(x.snap.Queued, "call waits", "calls wait"), count(len(x.lanes), "lane", "lanes"))
	l := pick(v.Query, stamp(v.At), x.lanes, func(l *sluice.LaneState) []string { return []string{l.Tool, l.Tenant, l.By, l.Key} })
	v.JSON = l
	v.Tables = []table{pagedTable(v.Query, l, laneTable(l.Rows))}
}

func laneTable(lanes []sluice.LaneState) table {
	t := table{Caption: "Waiting calls by lane, most first", Empty: "No call waits.", Columns: []column{
		{"Tool", false}, {"Tenant", false}, {"Priority", true}, {"Waiting", true}, {"Longest", true}, {"Waits for", false}, {"Key", false}}}
	for _, l := range lanes {
		t.Rows = append(t.Rows, row{Name: l.Tool, Key: l.Key, Cells: []cell{
			{Field: "tool", Text: l.Tool, Head: true, Href: toolHref(l.Tool)},
			{Field: "tenant", Text: l.Tenant},
			{Field: "priority", Text: priorityText(l.Priority), Num: true},
			numCell("waiting", l.Waiting),
			{Field: "oldest", Text: length(l.Oldest), Value: fmt.Sprint(int64(l.Oldest)), Num: true},
			{Field: "by", Text: l.By},
			{Field: "key", Text: l.Key},
		}})
	}
	return t
}

func priorityText(p sluice.Priority) string {
	if p == 0 {
		return ""
	}
	return fmt.Sprint(int(p))
}

func toolHref(name string) string { return "tool?" + url.Values{"tool": {name}}.Encode() }

func numCell[N int | int64 | uint64](field string, n N) cell {
	return cell{Field: field, Text: number(n), Value: fmt.Sprint(n), Num: true}
}

// constraints shows limits, rates, breakers, or what interceptors say of themselves.
func (p *Page) constraints(v *view, x *reading) {
	v.Search = true
	var t table
	l := pick(v.Query, stamp(v.At), x.gates[v.Name], func(g *sluice.GateState) []string {
		list := []string{g.Name, g.Key, g.Scope}
		for _, s := range statuses(g, x.snap.At) {
			list = append(list, s.Word)
		}
		return list
	})
	switch v.Name {
	case "limits":
		v.Title, v.Lead = "Limits", "Calls in flight, or their weight, and how many may be at once."
		t = table{Caption: "Concurrency limits, what needs attention first", Empty: "No limit has been used yet."}
	case "rates":
		v.Title, v.Lead = "Rates", "What has been charged and is not refilled yet. A rate in debt has been charged more than it holds."
		t = table{Caption: "Rate limits, what needs attention first", Empty: "There is no rate, or none has been used yet."}
	case "breakers":
		v.Title, v.Lead = "Breakers", "An open breaker refuses calls; a half-open one lets few through, to find out."
		t = table{Caption: "Circuit breakers, open ones first", Empty: "There is no breaker, or none has been used yet."}
	case "layers":
		v.Title, v.Lead = "Layers", "What interceptors around the limits say of themselves: budgets of retries, caches, joins."
		t = table{Caption: "Layers", Empty: "No interceptor says anything of itself."}
	}
	v.JSON = l
	p.gateTable(&t, v.Name, l.Rows, x.snap.At)
	v.Tables = []table{pagedTable(v.Query, l, t)}
}

// gateTable fills t with rows of gates.
func (p *Page) gateTable(t *table, name string, gates []sluice.GateState, at time.Time) {
	t.Columns = []column{{"Name", false}, {"Scope", false}, {"Key", false}}
	switch name {
	case "rates":
		t.Columns = append(t.Columns, column{"Used", true}, column{"of", true}, column{"Use", false}, column{"Full in", true})
	case "limits", "layers":
		t.Columns = append(t.Columns, column{"Used", true}, column{"of", true}, column{"Use", false})
	}
	if name != "breakers" && name != "layers" {
		t.Columns = append(t.Columns, column{"Waiting", true})
	}
	t.Columns = append(t.Columns, column{"State", false})
	for i := range gates {
		g := &gates[i]
		cells := []cell{
			{Field: "name", Text: g.Name, Head: true, Href: p.changeHref(g)},
			{Field: "scope", Text: g.Scope}, {Field: "key", Text: g.Key},
		}
		if name != "breakers" {
			of := cell{Field: "limit", Text: "no limit", Value: "0", Num: true}
			if g.Limit > 0 {
				of = numCell("limit", g.Limit)
			}
			cells = append(cells, numCell("used", g.Used), of, barCell(g))
		}
		if name == "rates" {
			c := cell{Field: "full", Num: true}
			if !g.Full.IsZero() {
				c.Text, c.Value = length(g.Full.Sub(at)), stamp(g.Full)
			}
			cells = append(cells, c)
		}
		if name != "breakers" && name != "layers" {
			cells = append(cells, numCell("waiting", g.Waiting))
		}
		cells = append(cells, cell{Field: "state", Status: statuses(g, at)})
		t.Rows = append(t.Rows, row{Name: g.Name, Key: g.Key, Cells: cells})
	}
}

func barCell(g *sluice.GateState) cell {
	c := cell{Field: "use"}
	if g.Limit > 0 {
		c.Bar = &bar{int(100 * min(1, max(0, use(g)))), g.Used >= g.Limit}
		c.Text = percent(use(g))
	}
	return c
}

// statuses is what is to be said of g.
func statuses(g *sluice.GateState, at time.Time) (out []status) {
	until := ""
	if !g.Until.IsZero() {
		until = " for " + length(g.Until.Sub(at))
	}
	switch g.State {
	case sluice.BreakerOpen:
		out = append(out, status{"■", "open" + until, "bad"})
	case sluice.BreakerHalfOpen:
		out = append(out, status{"◆", "half-open", "warn"})
	case sluice.BreakerClosed:
		out = append(out, status{"○", "closed", "good"})
	}
	if g.Stalled {
		out = append(out, status{"✖", "stalled: nothing released for a minute", "bad"})
	}
	if g.Paused {
		out = append(out, status{"‖", "paused" + until, "warn"})
	}
	if inDebt(g) {
		out = append(out, status{"▼", fmt.Sprintf("in debt by %s", number(g.Used-g.Limit)), "warn"})
	}
	if g.Ordered {
		out = append(out, status{"↓", "ordered", "plain"})
	}
	if n := len(g.Unmatched); n > 0 {
		names := strings.Join(g.Unmatched[:min(n, 5)], ", ")
		if n > 5 {
			names += fmt.Sprintf(" and %d more", n-5)
		}
		out = append(out, status{"?", "no tool has the names " + names, "warn"})
	}
	if len(out) == 0 && g.Limit > 0 && g.Used >= g.Limit {
		out = append(out, status{"●", "full", "warn"})
	}
	return out
}

// fleets shows what is shared with other processes.
func (p *Page) fleets(v *view, x *reading) {
	v.Title, v.Lead = "Fleets", "Rates and slots that this process shares with others."
	l := pick(v.Query, stamp(v.At), x.snap.Fleets, func(f *sluice.FleetState) []string {
		list := []string{f.Name, f.Origin}
		for _, s := range fleetStatuses(f) {
			list = append(list, s.Word)
		}
		return list
	})
	v.JSON = l
	t := table{Caption: "Fleets", Empty: "No limiter shares anything.", Columns: []column{{"Name", false}, {"This process", false},
		{"State", false}, {"Trips", true}, {"Failed", true}, {"Brought nothing", true}, {"Units fetched", true}, {"Given back", true},
		{"Slots leased", true}, {"Short", true}, {"Events lost", true}}}
	for i := range l.Rows {
		f := &l.Rows[i]
		t.Rows = append(t.Rows, row{Name: f.Name, Key: f.Origin, Cells: []cell{
			{Field: "name", Text: f.Name, Head: true}, {Field: "origin", Text: f.Origin}, {Field: "state", Status: fleetStatuses(f)},
			numCell("trips", f.Trips), numCell("failed", f.Failed), numCell("denied", f.Denied), numCell("fetched", f.Fetched),
			numCell("returned", f.Returned), numCell("slots", f.Slots), numCell("short", f.Short), numCell("dropped", f.Dropped)}})
	}
	v.Tables = []table{pagedTable(v.Query, l, t)}
}

// fleetStatuses is what is to be said of f.
func fleetStatuses(f *sluice.FleetState) []status {
	s := []status{{"○", "answers", "good"}}
	if f.Away {
		s = []status{{"■", "away", "bad"}}
	}
	if f.Shadow {
		s = append(s, status{"◌", "shadow", "plain"})
	}
	return s
}

// recent shows what has been refused and changed.
func (p *Page) recent(v *view, x *reading) {
	v.Title, v.Search = "Recent", true
	texts := func(e *entry) []string {
		return []string{e.Tool, e.Tenant, e.Code, e.By, e.Key, e.From, e.To, e.Actor, string(e.Kind)}
	}
	refused := pick(v.Query, stamp(v.At), x.refused, texts)
	changed := pick(v.Query, stamp(v.At), x.changed, texts)
	v.JSON = struct {
		Refused listing[entry] `json:"refused"`
		Changed listing[entry] `json:"changed"`
	}{refused, changed}
	if p.conf.Recent == nil {
		v.Lead = "Config.Recent is not set: refusals and changes are not kept."
	} else {
		v.Lead = fmt.Sprintf("The latest %d refusals, and as many changes. Texts of errors are not kept.", remembered)
	}
	v.Tables = []table{pagedTable(v.Query, refused, refusalTable(refused.Rows, v.At)), pagedTable(v.Query, changed, changeTable(changed.Rows, v.At))}
}

func refusalTable(list []entry, at time.Time) table {
	t := table{ID: "refused", Caption: "Refused calls, latest first", Empty: "None.", Columns: []column{
		{"At", false}, {"Tool", false}, {"Tenant", false}, {"Why", false}, {"By", false}, {"Waited", true}, {"Retry after", true}}}
	for _, e := range list {
		t.Rows = append(t.Rows, row{Name: e.Tool, Cells: []cell{
			{Field: "at", Text: clock(e.At, at), Value: stamp(e.At), Head: true}, {Field: "tool", Text: e.Tool, Href: toolHref(e.Tool)},
			{Field: "tenant", Text: e.Tenant}, {Field: "code", Text: e.Code}, {Field: "by", Text: e.By},
			{Field: "waited", Text: orNothing(e.Waited), Num: true}, {Field: "retry_after", Text: orNothing(e.Retry), Num: true}}})
	}
	return t
}

func orNothing(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return length(d)
}

func changeTable(list []entry, at time.Time) table {
	t := table{ID: "changed", Caption: "Changes of limits, latest first", Empty: "None.", Columns: []column{
		{"At", false}, {"What", false}, {"Name", false}, {"Key", false}, {"From", false}, {"To", false}, {"For", true}, {"By", false}}}
	for _, e := range list {
		t.Rows = append(t.Rows, row{Name: e.By, Key: e.Key, Cells: []cell{
			{Field: "at", Text: clock(e.At, at), Value: stamp(e.At), Head: true}, {Field: "kind", Text: string(e.Kind)}, {Field: "name", Text: e.By},
			{Field: "key", Text: e.Key}, {Field: "from", Text: e.From}, {Field: "to", Text: e.To},
			{Field: "for", Text: orNothing(e.Retry), Num: true}, {Field: "actor", Text: e.Actor}}})
	}
	return t
}

// AskTool is the tool whose call is to be explained.
func (v *view) AskTool() string { return v.Query.tool }
