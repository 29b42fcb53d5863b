package sluice

import (
	"fmt"
	"slices"
	"strings"
)

// Scope is what a limit counts by. The zero value means the component's default.
//
// Scopes are values: == compares what they say, so that ForType("a", "b") is ForType("b",
// "a"). Functions cannot be compared: a scope of [ByKey] is == to its own copies alone.
// In one component, and in a Change of it, its name stands for its function: two of one
// name are the same scope.
type Scope struct {
	kind  scopeKind
	names string   // of ForTool and ForType: as joinNames makes it; of ByKey its name
	key   *keyFunc // of ByKey
}

// keyFunc is a function that can be compared, by where it stands.
type keyFunc struct{ of func(Call) string }

// endOfName cannot be in a name that check lets pass: it is not UTF-8.
const endOfName = "\xff"

type scopeKind uint8

const (
	scopeDefault scopeKind = iota
	scopeGlobal
	scopeTool
	scopeType
	scopeTenant
	scopeForTool
	scopeForType
	scopeKeyed
)

// The scopes that need no name.
var (
	Global   = Scope{kind: scopeGlobal} // all calls together
	ByTool   = Scope{kind: scopeTool}   // each tool apart
	ByType   = Scope{kind: scopeType}   // each Spec.Type apart; tools without one together
	ByTenant = Scope{kind: scopeTenant} // each tenant apart; calls without one together
)

// ForTool counts the named tools together and leaves others alone.
func ForTool(names ...string) Scope {
	return Scope{kind: scopeForTool, names: joinNames(names)}
}

// ForType counts the tools of these types together and leaves others alone.
func ForType(types ...string) Scope {
	return Scope{kind: scopeForType, names: joinNames(types)}
}

// ByKey counts by any key of the call, such as an API key, a host or an attribute of the
// run; "" leaves the call alone. name stands in refusals and snapshots. key runs once per
// attempt, before the call queues and outside every lock; if it panics, the call is
// refused. It must not change what it is given. A Change keeps the function there is.
func ByKey(name string, key func(c Call) string) Scope {
	return Scope{scopeKeyed, name, &keyFunc{key}}
}

// joinNames makes a list of names one comparable value.
func joinNames(names []string) string {
	names = slices.Clone(names)
	if !slices.Contains(names, "") { // else check will refuse it, and say where that is
		slices.Sort(names)
	}
	var b strings.Builder
	for _, n := range names {
		b.WriteString(strings.ReplaceAll(n, endOfName, "\xfe")) // which is as wrong in a name
		b.WriteString(endOfName)
	}
	return b.String()
}

// listed is the names that joinNames has joined.
func (s Scope) listed() []string {
	names := strings.Split(s.names, endOfName)
	return names[:len(names)-1]
}

// same reports whether s and o are one scope to the component that has them.
func (s Scope) same(o Scope) bool { return s.kind == o.kind && s.names == o.names }

// String is how the scope stands in refusals and snapshots.
func (s Scope) String() string {
	switch s.kind {
	case scopeGlobal:
		return "global"
	case scopeTool:
		return "per tool"
	case scopeType:
		return "per type"
	case scopeTenant:
		return "per tenant"
	case scopeForTool:
		return "tool " + strings.Join(s.listed(), "+")
	case scopeForType:
		return "type " + strings.Join(s.listed(), "+")
	case scopeKeyed:
		return "per " + s.names
	}
	return "default"
}

// Key is what the call c of the tool counts under, and whether it counts at all. It runs
// the key function of ByKey. The zero Scope counts like Global.
func (s Scope) Key(tool Spec, c Call) (key string, counts bool) {
	if !s.keyed() {
		return s.fixed(&tool)
	}
	if c.Pipeline == nil {
		c.Pipeline = anonymous.pipeline
	}
	key = s.of(&c)
	return key, key != "" || s.kind == scopeTenant
}

func (s Scope) or(def Scope) Scope {
	if s.kind == scopeDefault {
		return def
	}
	return s
}

// keyed reports whether each call has to be asked for its key.
func (s Scope) keyed() bool { return s.kind == scopeTenant || s.kind == scopeKeyed }

// picked is what a ForTool or ForType scope names, nil of others.
func (s Scope) picked() []string {
	if s.kind == scopeForTool || s.kind == scopeForType {
		return s.listed()
	}
	return nil
}

// byPlan reports whether the keys come and go with the tools.
func (s Scope) byPlan() bool { return s.kind == scopeTool || s.kind == scopeType }

// rank orders constraints from narrow to wide; it is also the order they are asked in.
func (s Scope) rank() uint8 {
	switch s.kind {
	case scopeTool:
		return 0
	case scopeForTool:
		return 1
	case scopeTenant:
		return 2
	case scopeKeyed:
		return 3
	case scopeType:
		return 4
	case scopeForType:
		return 5
	}
	return 7
}

// fixed is the key under which every call of the tool counts, and whether it counts at all.
func (s Scope) fixed(tool *Spec) (string, bool) {
	switch s.kind {
	case scopeTool:
		return tool.Name, true
	case scopeType:
		return tool.Type, true
	case scopeForTool:
		return "", slices.Contains(s.listed(), tool.Name)
	case scopeForType:
		return "", slices.Contains(s.listed(), tool.Type)
	}
	return "", true
}

// of is the key of one call under a keyed scope.
func (s Scope) of(c *Call) string {
	if s.kind == scopeTenant {
		return c.Pipeline.tenant()
	}
	return s.key.of(c.shown())
}

// check says what is wrong with a scope in the field named.
func (s Scope) check(field string) error {
	switch s.kind {
	case scopeForTool, scopeForType:
		names := s.listed()
		if len(names) == 0 {
			return fmt.Errorf("sluice: %s names nothing: must name at least one", field)
		}
		for i, n := range names {
			if n == "" {
				return fmt.Errorf("sluice: %s has an empty name at %d: must not be empty", field, i)
			}
			if err := checkName(field, n); err != nil {
				return err
			}
			if i > 0 && n == names[i-1] {
				return fmt.Errorf("sluice: %s names %q twice: must name each once", field, n)
			}
		}
	case scopeKeyed:
		if s.names == "" {
			return fmt.Errorf("sluice: %s is ByKey without a name: must have one", field)
		}
		if err := checkName(field, s.names); err != nil {
			return err
		}
		if s.key.of == nil {
			return fmt.Errorf("sluice: %s is ByKey(%q) with a nil function: must not be nil", field, s.names)
		}
	}
	return nil
}
