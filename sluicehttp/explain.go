package sluicehttp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-go/sluice"
)

// explainTime bounds what a tool's own functions may take to explain a call.
const explainTime = 10 * time.Second

// patient is a context that ends with ctx, or after explainTime, and has no deadline: a call would be refused that cannot
// start before it, and the one that is explained has all its time.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop, t := context.AfterFunc(ctx, cancel), time.AfterFunc(explainTime, cancel)
	return own, func() {
		stop()
		t.Stop()
		cancel()
	}
}

// explain shows what would become of a call of a tool whose arguments nobody knows, and takes one to explain.
func (p *Page) explain(ctx context.Context, v *view) {
	v.Title, v.Ask, v.Live = "Explain", true, false
	v.Lead = "What would become of a call now. Nothing runs but the tool's own check, key and cost functions."
	v.JSON = struct {
		How string `json:"how"`
	}{`POST {"tool": "…", "args": {…}, "tenant": "…", "priority": 5} here as application/json; or ask for ?tool=…`}
	if v.Query.tool != "" {
		v.Explain = p.nextCall(ctx, v.Query.tool)
		v.JSON = v.Explain
	}
}

// nextCall is what would become of a call of tool whose arguments nobody knows.
func (p *Page) nextCall(ctx context.Context, tool string) *explained {
	ctx, cancel := patient(ctx)
	defer cancel()
	// It is no call of who asks, whom a server's handlers may have made a tenant: others are told the same.
	d := p.conf.Executor.ExplainTool(sluice.WithPipelineContext(ctx, sluice.PipelineContext{}), tool)
	if ctx.Err() != nil {
		return &explained{Verdict: "unknown"} // an interceptor's Wrap takes longer, which is no refusal
	}
	return explainedOf(d)
}

// asked is a call to explain.
type asked struct {
	Tool     string          `json:"tool"`
	Tenant   string          `json:"tenant"`
	Priority sluice.Priority `json:"priority"`
	Args     json.RawMessage `json:"args"`
}

// explainCall answers for a call that the request's body has.
func (p *Page) explainCall(w http.ResponseWriter, r *http.Request, asJSON bool) {
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "The call must come as application/json.")
		return
	}
	var c asked
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&c); err != nil {
		var long *http.MaxBytesError
		var other *json.UnmarshalTypeError
		switch {
		case errors.As(err, &long):
			refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("The call has more than %d bytes.", maxBody))
		case errors.As(err, &other): // its own text has Go's types
			refuse(w, http.StatusBadRequest, fmt.Sprintf("The call's %s is a JSON %s, which it cannot be.", shown(cmp.Or(other.Field, "body")), shown(other.Value)))
		default:
			refuse(w, http.StatusBadRequest, "The call is no JSON: "+shown(err.Error()))
		}
		return
	}
	ctx, cancel := patient(r.Context())
	defer cancel()
	ctx = sluice.WithPipelineContext(ctx, sluice.PipelineContext{Tenant: c.Tenant, Priority: c.Priority})
	x := explainedOf(p.conf.Executor.Explain(ctx, sluice.Request{Tool: c.Tool, Args: c.Args}))
	if ctx.Err() != nil {
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("The tool's own functions have not explained the call within %v.", explainTime))
		return
	}
	if asJSON {
		p.answer(w, r, &view{JSON: x}, true)
		return
	}
	var b strings.Builder
	if err := templates().ExecuteTemplate(&b, "explained", x); err != nil {
		refuse(w, http.StatusInternalServerError, "The answer could not be written.")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	send(w, r, http.StatusOK, []byte(b.String()))
}
