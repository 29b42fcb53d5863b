package agent

import "github.com/sluice-go/sluice/internal/jsonx"

// merged is an object that comes in parts: strings and lists of one name are put together, of other
// values the last counts.
type merged struct {
	members []*member
	index   []byte // of a call, raw
	id      []byte // likewise
	whole   []byte // it is no object but this
	over    bool   // it had more members than are kept
}

type member struct {
	name   string
	kind   byte   // what its value begins with
	value  []byte // raw, without quotes or brackets around strings and lists
	object *merged
}

func (m *merged) find(name string) *member {
	for _, x := range m.members {
		if x.name == name {
			return x
		}
	}
	return nil
}

func (m *merged) has(name string) bool { return m.find(name) != nil }

// set replaces a member.
func (m *merged) set(name string, kind byte, value []byte) {
	x := m.find(name)
	if x == nil {
		x = &member{name: name}
		m.members = append(m.members, x)
	}
	x.kind, x.value, x.object = kind, value, nil
}

// add puts a part to the member of that name. The bytes of raw are copied.
func (m *merged) add(name, raw []byte) {
	if len(raw) == 0 || m.whole != nil {
		return
	}
	x := m.find(string(name))
	switch {
	case x == nil && len(m.members) == maxParts:
		m.over = true
		return
	case x == nil:
		x = &member{name: string(name)}
		m.members = append(m.members, x)
	case raw[0] == 'n':
		return
	case raw[0] == '"' && x.kind == '"' && len(x.value) > 0 && once(x.name):
		return // servers repeat it
	case raw[0] != x.kind:
		x.value, x.object = nil, nil
	}
	x.kind = raw[0]
	switch inside := raw[min(1, len(raw)):max(1, len(raw)-1)]; {
	case x.kind == '"':
		x.value = append(x.value, inside...)
	case x.kind == '[':
		if inside = trim(inside); len(inside) > 0 {
			if len(x.value) > 0 {
				x.value = append(x.value, ',')
			}
			x.value = append(x.value, inside...)
		}
	case x.kind == '{' && (x.name == "function" || x.name == "custom"):
		if x.object == nil {
			x.object = &merged{}
		}
		for key, value := range members(raw) {
			x.object.add(key, value)
		}
		m.over = m.over || x.object.over
	default:
		x.value = append(x.value[:0], raw...)
	}
}

// once reports whether a string of that name comes whole.
func once(name string) bool {
	return name == "id" || name == "type" || name == "role" || name == "name"
}

func trim(s []byte) []byte { return s[jsonx.Space(s):] }

func (m *merged) append(b []byte) []byte {
	if m.whole != nil {
		return append(b, m.whole...)
	}
	return append(m.appendMembers(append(b, '{')), '}')
}

func (m *merged) appendMembers(b []byte) []byte {
	for i, x := range m.members {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(jsonx.AppendString(b, x.name, len(x.name)), ':')
		switch {
		case x.object != nil:
			b = x.object.append(b)
		case x.kind == '"':
			b = append(append(append(b, '"'), x.value...), '"')
		case x.kind == '[':
			b = append(append(append(b, '['), x.value...), ']')
		default:
			b = append(b, x.value...)
		}
	}
	return b
}
