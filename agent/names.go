package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"

	"github.com/sluice-go/sluice"
)

// maxName is how long a name may be for all providers.
const maxName = 64

// Names gives tools names that all models take, [A-Za-z0-9_-]{1,64} with no digit and no dash at the front, and
// knows which tool each means. A tool whose own name is such keeps it. The nil *Names changes no name. It never
// changes, and is safe for concurrent use.
type Names struct {
	wire map[string]string // by the tool's name
	tool map[string]string // by the model's
}

// NewNames names all tools of the lists, as [sluice.ToolRegistry.Tools] is one. The name that a tool gets depends on
// its own alone (unless two would meet), so a history stays valid when tools come and go: make new Names then.
// Two tools of one name are an error.
func NewNames(lists ...iter.Seq[sluice.Spec]) (*Names, error) {
	var all []string
	n := &Names{wire: map[string]string{}, tool: map[string]string{}}
	for _, list := range lists {
		for spec := range list {
			if spec.Name == "" {
				return nil, fmt.Errorf("agent: a tool has no name: must have one")
			}
			all = append(all, spec.Name)
		}
	}
	slices.Sort(all)
	for i, name := range all {
		if i > 0 && all[i-1] == name {
			return nil, fmt.Errorf("agent: the tool %q is listed twice: names must differ", name)
		}
		if fits(name) && leads(name) {
			n.wire[name], n.tool[name] = name, name
		}
	}
	for _, name := range all {
		for digits := 8; n.wire[name] == ""; digits += 4 {
			if wire := renamed(name, digits); n.tool[wire] == "" {
				n.wire[name], n.tool[wire] = wire, name
			} else if digits >= maxName-4 {
				return nil, fmt.Errorf("agent: the tool %q has the same name for a model as %q: rename one", name, n.tool[wire])
			}
		}
	}
	return n, nil
}

// fits reports whether all models take a name, but for what it begins with.
func fits(name string) bool {
	for i := range len(name) {
		if !letter(name[i]) {
			return false
		}
	}
	return len(name) > 0 && len(name) <= maxName
}

func letter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// leads reports whether name, which fits, has no digit and no dash at its front, where Gemini takes none.
func leads(name string) bool { return name[0] > '9' }

// renamed is a name that fits: what can be kept of name, and digits of its hash.
func renamed(name string, digits int) string {
	sum := sha256.Sum256([]byte(name))
	if letter(name[0]) && !leads(name) {
		name = "_" + name
	}
	b := []byte(name[:min(len(name), maxName-1-digits)])
	for i, c := range b {
		if !letter(c) {
			b[i] = '_'
		}
	}
	return string(append(append(b, '_'), hex.EncodeToString(sum[:])[:digits]...))
}

// Name is what models call the tool: its own name if that is not of the lists.
func (n *Names) Name(tool string) string {
	if n != nil {
		if s, ok := n.wire[tool]; ok {
			return s
		}
	}
	return tool
}

// Tool is the tool that a model calls by name: that name itself if it is none of those.
func (n *Names) Tool(name string) string {
	if n != nil {
		if s, ok := n.tool[name]; ok {
			return s
		}
	}
	return name
}

// wireName is what the message calls the tool.
func (a *Asked) wireName(n *Names) string {
	if a.name != "" {
		return a.name
	}
	return n.Name(a.Request.Tool)
}
