package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-go/sluice/internal/check"
)

// Kind is how a scope tells calls apart.
type Kind uint8

const (
	Unset     Kind = iota // the component's default
	Global                // not at all
	ByTool                // by the tool's name
	ByType                // by its type
	ByTenant              // by the tenant
	ForTool               // only some tools count, together
	ForType               // only tools of some types count, together
	ByKey                 // by what a function says
	ByKeys                // by each of several keys that a function says
	ByWeights             // likewise, with a weight for each
)

// Scope is what a limit counts by. Scopes are ==, if they say the same; of two with functions
// only copies of one another are, but see [Scope.Same].
type Scope struct {
	kind  Kind
	names string // of ForTool and ForType: as joined makes it; of ByKey, ByKeys and ByWeights its name
	key   any    // of those: what its owner made it with; comparable
}

// Of is the scope of a kind that needs no name.
func Of(k Kind) Scope { return Scope{kind: k} }

// For is the scope of the kind ForTool or ForType that counts those of the names, in any order.
func For(k Kind, names []string) Scope { return Scope{kind: k, names: joined(names)} }

// Keyed is the scope of the kind ByKey, ByKeys or ByWeights with that name, and what its owner finds a call's keys
// with; nil is refused by Complete.
func Keyed(k Kind, name string, key any) Scope { return Scope{k, name, key} }

// endOfName cannot be in a name that is valid: it is not UTF-8.
const endOfName = "\xff"

// joined makes a list of names one comparable value.
func joined(names []string) string {
	names = slices.Clone(names)
	if !slices.Contains(names, "") { // else whoever checks them will say where that is
		slices.Sort(names)
	}
	var b strings.Builder
	for _, n := range names {
		b.WriteString(strings.ReplaceAll(n, endOfName, "\xfe")) // which is as wrong in a name
		b.WriteString(endOfName)
	}
	return b.String()
}

// Kind is how s tells calls apart.
func (s Scope) Kind() Kind { return s.kind }

// Name is the name of a ByKey, ByKeys or ByWeights scope.
func (s Scope) Name() string { return s.names }

// Key is what such a scope was made with.
func (s Scope) Key() any { return s.key }

// Names is what a ForTool or ForType scope names, sorted unless one is empty; nil of others.
func (s Scope) Names() []string {
	if s.kind != ForTool && s.kind != ForType {
		return nil
	}
	names := strings.Split(s.names, endOfName)
	return names[:len(names)-1]
}

// Same reports whether s and o are one scope to the component that has them: the name of a
// function stands for it.
func (s Scope) Same(o Scope) bool { return s.kind == o.kind && s.names == o.names }

// OneKey reports whether all calls that count by s count together.
func (s Scope) OneKey() bool { return s.kind == Global || s.kind == ForTool || s.kind == ForType }

// Complete is s, or def if s is unset; an error if there can be no such scope.
func (s Scope) Complete(field string, def Kind) (Scope, error) {
	switch s.kind {
	case Unset:
		return Of(def), nil
	case ForTool, ForType:
		return s, s.checkNames(field)
	case ByKey, ByKeys, ByWeights:
		maker := s.maker()
		if s.names == "" {
			return s, fmt.Errorf("%s is %s without a name: must have one", field, maker)
		}
		if s.key == nil {
			return s, fmt.Errorf("%s is %s(%q) with a nil function: must not be nil", field, maker, s.names)
		}
		return s, check.Name(field, s.names)
	}
	return s, nil
}

// maker is the function that makes a keyed scope.
func (s Scope) maker() string {
	return [...]string{"ByKey", "ByKeys", "ByWeights"}[s.kind-ByKey]
}

// CompleteOne is Complete for a component whose calls have one key.
func (s Scope) CompleteOne(field string, def Kind) (Scope, error) {
	if s.Several() {
		return s, fmt.Errorf("%s is %s(%q): must have one key for each call, only Limit.Scope may be %[2]s", field, s.maker(), s.names)
	}
	return s.Complete(field, def)
}

// Named completes the name of a component whose calls have one key, and its scope.
func Named(field string, name *string, defName string, s *Scope, defScope Kind) (err error) {
	if err := check.NameOr(field+".Name", name, defName); err != nil {
		return err
	}
	*s, err = s.CompleteOne(field+".Scope", defScope)
	return err
}

// checkNames refuses names that no tool or type can have, and to name none, or one twice.
func (s Scope) checkNames(field string) error {
	names := s.Names()
	if len(names) == 0 {
		return fmt.Errorf("%s names nothing: must name at least one", field)
	}
	for i, n := range names {
		if n == "" {
			return fmt.Errorf("%s has an empty name at %d: must not be empty", field, i)
		}
		if err := check.Name(field, n); err != nil {
			return err
		}
		if i > 0 && n == names[i-1] {
			return fmt.Errorf("%s names %q twice: must name each once", field, n)
		}
	}
	return nil
}

// String is how the scope stands in refusals and snapshots.
func (s Scope) String() string {
	switch s.kind {
	case Global:
		return "global"
	case ByTool:
		return "per tool"
	case ByType:
		return "per type"
	case ByTenant:
		return "per tenant"
	case ForTool:
		return "tool " + strings.Join(s.Names(), "+")
	case ForType:
		return "type " + strings.Join(s.Names(), "+")
	case ByKey, ByKeys, ByWeights:
		return "per " + s.names
	}
	return "default"
}

// Keyed reports whether each call has to be asked for its key.
func (s Scope) Keyed() bool { return s.kind == ByTenant || s.Asks() }

// Asks reports whether a function says a call's keys. A call for which it says none does not count.
func (s Scope) Asks() bool { return s.kind == ByKey || s.Several() }

// Several reports whether a call can have more keys than one, which [EachKey] takes apart.
func (s Scope) Several() bool { return s.kind == ByKeys || s.kind == ByWeights }

// Fixed is the key under which every call of a tool counts, and whether any counts at all. Of a
// keyed scope all do, and the key is not known.
func (s Scope) Fixed(tool, typ string) (key string, counts bool) {
	switch s.kind {
	case ByTool:
		return tool, true
	case ByType:
		return typ, true
	case ForTool:
		return "", slices.Contains(s.Names(), tool)
	case ForType:
		return "", slices.Contains(s.Names(), typ)
	}
	return "", true
}

// Wants says what a key of s can be, and whether key can be one, of some tool or type if need be.
func (s Scope) Wants(key string) (wants string, may bool) {
	switch s.kind {
	case ByTool:
		return "the name of a registered tool", check.Tool("", key) == nil
	case ByType:
		return "the Type of a registered tool", check.Name("", key) == nil
	case ByTenant:
		return fmt.Sprintf("at most %d bytes", MaxKeyBytes), len(key) <= MaxKeyBytes
	case ByKey, ByKeys, ByWeights:
		return fmt.Sprintf("from 1 to %d bytes", MaxKeyBytes), key != "" && len(key) <= MaxKeyBytes
	}
	return "empty", key == ""
}

// rank orders constraints from narrow to wide; it is also the order they are asked in.
func (s Scope) rank() uint8 {
	switch s.kind {
	case ByTool:
		return 0
	case ForTool:
		return 1
	case ByTenant:
		return 2
	case ByKey, ByKeys, ByWeights:
		return 3
	case ByType:
		return 4
	case ForType:
		return 5
	}
	return 7
}

// place is the rank of a constraint that counts by s, and whether its cells come and go with the
// tools.
func (s Scope) place() (rank uint8, byPlan bool) {
	return s.rank(), s.kind == ByTool || s.kind == ByType
}

// TableSize is how many keys the cells of a constraint that counts by s may have at once, of
// which a configuration allows n: zero if calls do not bring them.
func (s Scope) TableSize(n int) int {
	if s.Keyed() {
		return n
	}
	return 0
}
