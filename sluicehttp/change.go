package sluicehttp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-go/sluice"
)

// gate is a component that can be changed.
type gate struct {
	of    sluice.Interceptor
	label string // as its constraints' names begin, see [sluice.GateState]
	name  string
}

// changeable is those of list that can be changed.
func changeable(list []sluice.Interceptor) (out []gate, err error) {
	for i, x := range list {
		kind := ""
		switch g := x.(type) {
		case *sluice.ConcurrencyLimiter:
			kind = "concurrency"
		case *sluice.RateLimiter:
			kind = "rate"
		case *sluice.CircuitBreaker:
			kind = "breaker"
		case *sluice.PriorityScheduler:
			kind = "priority"
		default:
			_ = g
			continue
		}
		if reflect.ValueOf(x).IsNil() {
			return nil, fmt.Errorf("sluicehttp: Config.Gates[%d] is nil: must be made by its New function", i)
		}
		g := gate{of: x, label: kind, name: fmt.Sprint(x)}
		if g.name != kind {
			g.label += "/" + g.name
		}
		for _, o := range out {
			if o.label == g.label {
				return nil, fmt.Errorf("sluicehttp: Config.Gates[%d] has the kind and name of another, %q: must differ in one", i, g.label)
			}
		}
		out = append(out, g)
	}
	return out, nil
}

// changeHref is where g can be changed; empty if it cannot.
func (p *Page) changeHref(g *sluice.GateState) string {
	if p.conf.Actor == nil {
		return ""
	}
	best := ""
	for _, x := range p.gates {
		if (g.Name == x.label || strings.HasPrefix(g.Name, x.label+" ")) && len(x.label) > len(best) {
			best = x.label
		}
	}
	if best == "" {
		if rest, ok := strings.CutPrefix(g.Name, "tool/"); ok {
			name, _, _ := strings.Cut(rest, " ")
			return "change?" + url.Values{"tool": {name}}.Encode()
		}
		return ""
	}
	return "change?" + url.Values{"gate": {best}, "key": {g.Key}}.Encode()
}

// changeView is the forms of one component.
type changeView struct {
	Pick  []fact // components there are: ID is the address
	Gate  string
	Tool  string
	Forms []form
	Made  table // changes made here
	Done  bool
}

// form is one change.
type form struct {
	ID, Legend, Button string
	Note               string
	Danger             bool
	Key                string // that it is about
	Hidden             []input
	Inputs             []input
}

type input struct {
	Name, Label, Value string
	Type               string // "text" or "number"
	Min                string
}

// change shows what can be changed.
func (p *Page) change(v *view) {
	v.Title, v.Live = "Change", false
	v.Lead = "What is changed here holds at once, for calls that wait too. It is told in events, with who did it."
	c := &changeView{Gate: v.Query.gate, Tool: v.Query.tool, Done: v.Query.done}
	v.Change = c
	names := []string{}
	for _, g := range p.gates {
		names = append(names, g.label)
		c.Pick = append(c.Pick, fact{ID: "change?" + url.Values{"gate": {g.label}}.Encode(), Label: g.label})
	}
	switch {
	case c.Gate != "":
		if g := p.gate(c.Gate); g != nil {
			c.Forms = g.forms(v.Query.key)
		} else {
			v.Lead, v.status = "There is no component of that name in Config.Gates.", http.StatusNotFound
		}
	case c.Tool != "":
		if s, ok := p.conf.Executor.Registry().Lookup(c.Tool); ok {
			c.Forms = toolForms(&s)
		} else {
			v.Lead, v.status = "There is no tool of that name.", http.StatusNotFound
		}
	}
	p.mu.Lock()
	made := p.changes.latest()
	p.mu.Unlock()
	t := changeTable(made, v.At)
	t.ID, t.Caption = "made", "Changes made on this page, latest first"
	c.Made = more(t, "change", len(made), len(made))
	v.JSON = struct {
		Gates []string `json:"gates"`
		Made  []entry  `json:"made"`
	}{names, made}
}

func (p *Page) gate(label string) *gate {
	for i := range p.gates {
		if p.gates[i].label == label {
			return &p.gates[i]
		}
	}
	return nil
}

func text(name, label, value string) input { return input{name, label, value, "text", ""} }
func num[N int | int64](name, label string, value N, min string) input {
	return input{name, label, fmt.Sprint(value), "number", min}
}

// was is a field that says what the form was made of: it is no use for another.
func was(config string) input { return input{Name: "was", Value: config} }

// forms is the changes of g, of one key where it has several.
func (g *gate) forms(key string) (out []form) {
	who := []input{{Name: "gate", Value: g.label}}
	action := func(a string, more ...input) []input {
		return append(append([]input{{Name: "action", Value: a}}, who...), more...)
	}
	at := []input{text("key", "Key (empty for a limit of one key)", "")}
	if key != "" { // as it is, whatever is in it
		who, at = append(who, input{Name: "quoted", Value: strconv.QuoteToASCII(key)}), nil
	}
	switch x := g.of.(type) {
	case *sluice.ConcurrencyLimiter:
		c := x.Config()
		f := form{ID: "set", Legend: "Limits", Button: "Set limits", Hidden: action("set", was(limitsText(c)))}
		for i, l := range c.Limits {
			name := strings.TrimSpace(l.Unit + " " + l.Scope.String())
			if a := l.Adaptive; a != nil {
				f.Inputs = append(f.Inputs, num(fmt.Sprintf("min%d", i), "Least at once, "+name, a.Min, "1"), num(fmt.Sprintf("max%d", i), "Most at once, "+name, a.Max, "1"))
			} else {
				f.Inputs = append(f.Inputs, num(fmt.Sprintf("max%d", i), "At once, "+name, l.Max, "1"))
			}
		}
		out = append(out, f)
	case *sluice.RateLimiter:
		c := x.Config()
		f := form{ID: "set", Legend: "Rates, " + c.Scope.String(), Button: "Set rates", Hidden: action("set", was(ratesText(c)))}
		for i, r := range c.Rates {
			unit := cmp.Or(r.Unit, "calls")
			f.Inputs = append(f.Inputs, num(fmt.Sprintf("n%d", i), "How many "+unit, r.N, "1"), text(fmt.Sprintf("per%d", i), "Per", r.Per.String()),
				num(fmt.Sprintf("burst%d", i), "Most at once", r.Burst, "1"))
		}
		if len(c.Rates) > 0 {
			out = append(out, f)
		}
		out = append(out,
			form{ID: "pause", Legend: "Pause", Button: "Pause", Note: "Nobody starts under this key for so long; then calls start in a ramp. A longer pause stays.", Danger: true,
				Hidden: action("pause"), Key: key, Inputs: append(at, text("for", "For", "30s"))},
			form{ID: "lift", Legend: "Lift", Button: "Lift pause and debt", Note: "Calls start at once, as the rate allows.",
				Hidden: action("lift"), Key: key, Inputs: at})
	case *sluice.CircuitBreaker:
		out = append(out,
			form{ID: "trip", Legend: "Trip", Button: "Trip", Note: "Calls of this key are refused, until somebody resets it.", Danger: true,
				Hidden: action("trip"), Key: key, Inputs: at},
			form{ID: "reset", Legend: "Reset", Button: "Reset", Note: "The key closes, and its failures are forgotten.",
				Hidden: action("reset"), Key: key, Inputs: at})
	case *sluice.PriorityScheduler:
		c := x.Config()
		out = append(out, form{ID: "set", Legend: "Queue", Button: "Set queue", Hidden: action("set", was(orderText(c))), Inputs: []input{
			num("queue", "Calls that may wait", c.MaxQueue, "1"), num("tenant", "Of one tenant", c.MaxPerTenant, "1"),
			num("ageing", "Starts worth one step of priority", c.Ageing, "1")}})
	}
	return out
}

// toolForms is the changes of a tool.
func toolForms(s *sluice.Spec) []form {
	who := []input{{Name: "tool", Value: s.Name}}
	return []form{
		{ID: "policy", Legend: "Calls at once", Button: "Set limit", Note: "0 means no limit of its own.",
			Hidden: append([]input{{Name: "action", Value: "policy"}, was(fmt.Sprint(s.Policy.Concurrency))}, who...),
			Inputs: []input{num("max", "At once", s.Policy.Concurrency, "0")}},
		{ID: "lift", Legend: "Lift", Button: "Lift pause and debt", Note: "Of the tool's own rates, and the pause that an upstream asked for.",
			Hidden: append([]input{{Name: "action", Value: "lift"}}, who...)},
	}
}

func limitsText(c sluice.ConcurrencyLimiterConfig) string {
	var b strings.Builder
	for _, l := range c.Limits {
		if a := l.Adaptive; a != nil {
			fmt.Fprintf(&b, "%d to %d; ", a.Min, a.Max)
		} else {
			fmt.Fprintf(&b, "%d; ", l.Max)
		}
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func ratesText(c sluice.RateLimiterConfig) string {
	var b strings.Builder
	for _, r := range c.Rates {
		fmt.Fprintf(&b, "%d per %v, burst %d; ", r.N, r.Per, r.Burst)
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func orderText(c sluice.PrioritySchedulerConfig) string {
	return fmt.Sprintf("%d, of a tenant %d, ageing %d", c.MaxQueue, c.MaxPerTenant, c.Ageing)
}

// post changes something, or explains a call.
func (p *Page) post(w http.ResponseWriter, r *http.Request, name string) {
	if err := p.cross.Check(r); err != nil {
		refuse(w, http.StatusForbidden, "A request of another site is refused.")
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(writeTime))
	name, asJSON := strings.CutSuffix(name, ".json")
	switch {
	case name == "explain":
		p.explainCall(w, r, asJSON)
	case name != "change" || p.conf.Actor == nil:
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "Nothing can be changed here.")
	default:
		p.makeChange(w, r)
	}
}

// errStale is the answer to a form whose component has changed since.
var errStale = errors.New("it has been changed since the form was made: look again")

// makeChange makes the change that a form asks for.
func (p *Page) makeChange(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, "The form could not be read.")
		return
	}
	actor := p.conf.Actor(r)
	if actor == "" {
		refuse(w, http.StatusForbidden, "You may not change anything here.")
		return
	}
	f := r.PostForm
	if s := f.Get("quoted"); s != "" {
		key, err := strconv.Unquote(s)
		if err != nil {
			refuse(w, http.StatusBadRequest, "The key could not be read.")
			return
		}
		f.Set("key", key)
	}
	e := entry{Kind: sluice.LimitChanged, Actor: kept(actor), Key: kept(f.Get("key"))}
	if err := p.apply(f, actor, &e); err != nil {
		status := http.StatusBadRequest
		if errors.Is(err, errStale) {
			status = http.StatusConflict
		}
		refuse(w, status, "Nothing was changed: "+words(err.Error()))
		return
	}
	a := f.Get("action")
	p.told(r.Context(), e, a != "set" && a != "policy") // which Reconfigure has told of
	p.stale()
	q := url.Values{"done": {"1"}}
	for _, n := range []string{"gate", "tool", "key"} {
		if s := f.Get(n); s != "" {
			q.Set(n, s)
		}
	}
	w.Header().Set("Location", "change?"+q.Encode()) // relative: nobody knows what the path was before http.StripPrefix
	send(w, r, http.StatusSeeOther, nil)
}

// told notes what has been changed, and tells of it unless the executor has.
func (p *Page) told(ctx context.Context, e entry, tell bool) {
	e.At = time.Now()
	p.mu.Lock()
	p.changes.add(e)
	p.mu.Unlock()
	defer func() { _ = recover() }() // a panic of the sink: what is changed has to be answered
	if s := p.conf.Sink; tell && s != nil && s.Enabled(e.Kind) {
		_ = s.Emit(ctx, &sluice.Event{Kind: e.Kind, Time: e.At, By: e.By, Key: e.Key, OldLimit: e.From, NewLimit: e.To, Actor: e.Actor, RetryAfter: e.Retry})
	}
}

// apply does what f asks for, and says in e what that was.
func (p *Page) apply(f url.Values, actor string, e *entry) error {
	p.changing.Lock() // so that of two forms that were made of one configuration one is stale
	defer p.changing.Unlock()
	action := f.Get("action")
	if name := f.Get("tool"); name != "" {
		e.By = "tool/" + name
		return p.applyToTool(f, action, name, actor, e)
	}
	g := p.gate(f.Get("gate"))
	if g == nil {
		return errors.New("there is no component of that name in Config.Gates")
	}
	e.By = g.label
	key := f.Get("key")
	switch x := g.of.(type) {
	case *sluice.CircuitBreaker:
		was, _ := x.State(key)
		e.From = was.String()
		switch action {
		case "trip":
			e.To = "tripped"
			return x.Trip(key)
		case "reset":
			e.To = "reset"
			return x.Reset(key)
		}
	case *sluice.RateLimiter:
		switch action {
		case "pause":
			d, err := time.ParseDuration(f.Get("for"))
			if err != nil || d <= 0 || d > 24*time.Hour {
				return errors.New("for must be a duration such as 30s, up to 24h")
			}
			e.To, e.Retry = "paused", d
			return x.Pause(key, d)
		case "lift":
			e.To = "lifted"
			return x.Lift(key)
		case "set":
			c := x.Config()
			if e.From = ratesText(c); f.Get("was") != e.From {
				return errStale
			}
			for i := range c.Rates {
				var err error
				if c.Rates[i].Per, err = time.ParseDuration(f.Get(fmt.Sprintf("per%d", i))); err != nil || c.Rates[i].Per <= 0 {
					return fmt.Errorf("per%d must be a duration such as 1m", i) // zero would be a default that nobody has asked for
				}
				if err = cmp.Or(whole(f, fmt.Sprintf("n%d", i), 0, &c.Rates[i].N), whole(f, fmt.Sprintf("burst%d", i), 1, &c.Rates[i].Burst)); err != nil {
					return err
				}
			}
			e.To, e.Key = ratesText(c), ""
			return sluice.Reconfigure(actor, x.Change(c))
		}
	case *sluice.ConcurrencyLimiter:
		if action == "set" {
			c := x.Config()
			if e.From = limitsText(c); f.Get("was") != e.From {
				return errStale
			}
			for i := range c.Limits {
				l := &c.Limits[i]
				max := &l.Max
				if l.Adaptive != nil {
					max = &l.Adaptive.Max
					if err := whole(f, fmt.Sprintf("min%d", i), 1, &l.Adaptive.Min); err != nil {
						return err
					}
				}
				if err := whole(f, fmt.Sprintf("max%d", i), 0, max); err != nil {
					return err
				}
			}
			e.To, e.Key = limitsText(c), ""
			return sluice.Reconfigure(actor, x.Change(c))
		}
	case *sluice.PriorityScheduler:
		if action == "set" {
			c := x.Config()
			if e.From = orderText(c); f.Get("was") != e.From {
				return errStale
			}
			if err := cmp.Or(whole(f, "queue", 1, &c.MaxQueue), whole(f, "tenant", 1, &c.MaxPerTenant), whole(f, "ageing", 1, &c.Ageing)); err != nil {
				return err
			}
			e.To, e.Key = orderText(c), ""
			return sluice.Reconfigure(actor, x.Change(c))
		}
	}
	return fmt.Errorf("%s cannot be asked for %q", g.label, action)
}

func (p *Page) applyToTool(f url.Values, action, name, actor string, e *entry) error {
	r := p.conf.Executor.Registry()
	switch action {
	case "lift":
		e.To = "lifted"
		return r.Lift(name)
	case "policy":
		s, ok := r.Lookup(name)
		if !ok {
			return errors.New("there is no tool of that name")
		}
		if e.From = fmt.Sprint(s.Policy.Concurrency); f.Get("was") != e.From {
			return errStale
		}
		if err := whole(f, "max", 0, &s.Policy.Concurrency); err != nil {
			return err
		}
		e.To = fmt.Sprint(s.Policy.Concurrency)
		return sluice.Reconfigure(actor, r.WithPolicy(name, s.Policy))
	}
	return fmt.Errorf("a tool cannot be asked for %q", action)
}

// whole reads a whole number of at least that.
func whole[N int | int64](f url.Values, name string, least int64, to *N) error {
	n, err := strconv.ParseInt(f.Get(name), 10, 64)
	if err != nil || n < least || int64(N(n)) != n { // an int may have 32 bits
		return fmt.Errorf("%s must be a whole number of at least %d", name, least)
	}
	*to = N(n)
	return nil
}
