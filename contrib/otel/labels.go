package sluiceotel

import (
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-go/sluice"
)

// names are texts that may be labels: those that came first, so many. Others come out as _OTHER.
type names struct {
	max  int
	mu   sync.RWMutex
	seen map[string]bool
}

// of is s if that is one of them, or becomes one.
func (n *names) of(s string) string {
	n.mu.RLock()
	ok, full := n.seen[s], len(n.seen) >= n.max
	n.mu.RUnlock()
	if ok {
		return s
	}
	if full {
		return other
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.seen[s]:
	case len(n.seen) >= n.max:
		return other
	case n.seen == nil:
		n.seen = map[string]bool{s: true}
	default:
		n.seen[s] = true
	}
	return s
}

// tool is what spans and metrics say of calls of one tool. It does not change, but for what failed remembers.
type tool struct {
	name        string
	title       string // of spans
	description string
	shown       []attribute.KeyValue // on them
	kind        trace.SpanStartOption
	begins      trace.SpanStartOption
	labels      []attribute.KeyValue // of durations
	plain       []metric.RecordOption
	failed      sync.Map // error.type → []metric.RecordOption
}

// tools are those that are known to be registered: a chain has been compiled for them, or a call of theirs was
// admitted or has waited. Nobody else's name is a label, since a model may have made it up.
type tools struct {
	conf  *Config
	other *tool // of all others

	mu sync.RWMutex
	of map[string]*tool
}

func (l *tools) init(o *Observer) {
	l.conf, l.of = &o.conf, make(map[string]*tool)
	l.other = l.make(other, "")
}

// known is the tool of that name, or other.
func (l *tools) known(name string) *tool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if t := l.of[name]; t != nil {
		return t
	}
	return l.other
}

// learn is known of a tool that is registered.
func (l *tools) learn(name string) *tool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.of[name]; t != nil {
		return t
	}
	return l.put(name, "")
}

// describe is told what a registered tool is.
func (l *tools) describe(s sluice.Spec) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.of[s.Name]; t == nil || t.description != s.Description {
		l.put(s.Name, s.Description)
	}
}

// put makes a tool known, if there is room.
func (l *tools) put(name, description string) *tool {
	if len(l.of) >= maxTools && l.of[name] == nil {
		return l.other
	}
	t := l.make(name, description)
	l.of[name] = t
	return t
}

func (l *tools) make(name, description string) *tool {
	t := &tool{name: name, title: "execute_tool " + name, description: description, kind: trace.WithSpanKind(trace.SpanKindInternal)}
	operation, tool, kind := operationKey.String("execute_tool"), toolNameKey.String(name), toolTypeKey.String("function")
	if l.conf.MCP == trace.SpanKindUnspecified {
		t.shown = []attribute.KeyValue{operation, tool, kind}
		t.labels = []attribute.KeyValue{tool, kind}
	} else {
		t.title, t.kind = "tools/call "+name, trace.WithSpanKind(l.conf.MCP)
		method := methodKey.String("tools/call")
		t.shown = []attribute.KeyValue{method, operation, tool}
		t.labels = []attribute.KeyValue{method, operation, tool}
	}
	t.shown = add(add(t.shown, descriptionKey, description), agentKey, l.conf.Agent)
	t.labels = add(t.labels, agentKey, l.conf.Agent)
	t.begins = trace.WithAttributes(t.shown...)
	t.plain = recorded(t.labels)
	return t
}

// recorded has a measurement carry labels.
func recorded(labels []attribute.KeyValue) []metric.RecordOption {
	return []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(labels...))}
}

// outcome has a duration carry the labels of a call that ended so.
func (t *tool) outcome(code string) []metric.RecordOption {
	if code == "" {
		return t.plain
	}
	if x, ok := t.failed.Load(code); ok {
		return x.([]metric.RecordOption)
	}
	list := append(make([]attribute.KeyValue, 0, len(t.labels)+1), t.labels...)
	x, _ := t.failed.LoadOrStore(code, recorded(append(list, errorTypeKey.String(code))))
	return x.([]metric.RecordOption)
}
