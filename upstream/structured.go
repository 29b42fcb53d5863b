package upstream

import "strings"

// fields reads Structured Fields (RFC 9651) one piece after the other: lists and
// dictionaries of items with parameters. Inner lists, which no field here has, are errors
// like any other. After an error bad is set and nothing more is read.
type fields struct {
	rest string
	bad  bool
}

// bareItem is a bare item. Texts are parts of the field, not copies, unless they had
// escapes.
type bareItem struct {
	kind byte   // 'i' integer, 'd' decimal, 's' string, 't' token, 'b' bytes, '?' boolean, '@' date, '%' display string
	text string // of strings, tokens and byte sequences (those in base64)
	num  int64  // of integers
}

// newFields begins a field; more tells whether it has a first member.
func newFields(s string) fields { return fields{rest: strings.Trim(s, " ")} }

// more goes to the next member of a list or dictionary: at the start to the first.
func (f *fields) more(first bool) bool {
	if f.bad || first {
		return !f.bad && f.rest != ""
	}
	f.rest = trim(f.rest)
	if f.rest == "" {
		return false
	}
	if f.rest[0] != ',' {
		return f.fail()
	}
	f.rest = trim(f.rest[1:])
	return true // after a comma there is one, or the field is malformed
}

// key reads the key of a dictionary member and its "=", if it has one.
func (f *fields) key() (key string, valued bool) {
	n := 0
	for n < len(f.rest) && isKeyByte(f.rest[n], n == 0) {
		n++
	}
	if n == 0 {
		f.fail()
		return "", false
	}
	key, f.rest = f.rest[:n], f.rest[n:]
	if f.rest != "" && f.rest[0] == '=' {
		f.rest = f.rest[1:]
		return key, true
	}
	return key, false
}

// param reads the next parameter of the item just read; false if there is none.
func (f *fields) param() (key string, v bareItem, ok bool) {
	if f.bad || f.rest == "" || f.rest[0] != ';' {
		return "", v, false
	}
	f.rest = strings.TrimLeft(f.rest[1:], " ")
	key, valued := f.key()
	if f.bad {
		return "", v, false
	}
	if !valued {
		return key, bareItem{kind: '?', num: 1}, true
	}
	v = f.item()
	return key, v, !f.bad
}

// skipParams reads parameters that nobody asks for.
func (f *fields) skipParams() {
	for ok := true; ok; {
		_, _, ok = f.param()
	}
}

// item reads a bare item.
func (f *fields) item() bareItem {
	if f.rest == "" {
		f.fail()
		return bareItem{}
	}
	switch b := f.rest[0]; {
	case b == '-' || isDigit(b):
		return f.number()
	case b == '"':
		return f.str()
	case b == '*' || isAlpha(b):
		return f.token()
	case b == ':':
		return f.bytes()
	case b == '?':
		if len(f.rest) >= 2 && (f.rest[1] == '0' || f.rest[1] == '1') {
			v := bareItem{kind: '?', num: int64(f.rest[1] - '0')}
			f.rest = f.rest[2:]
			return v
		}
	case b == '@':
		f.rest = f.rest[1:]
		if v := f.number(); v.kind == 'i' {
			v.kind = '@'
			return v
		}
	case strings.HasPrefix(f.rest, `%"`):
		return f.display()
	}
	f.fail()
	return bareItem{}
}

// number reads an integer of up to 15 digits, or a decimal of up to 12 and 3.
func (f *fields) number() bareItem {
	s, i, negative := f.rest, 0, false
	if strings.HasPrefix(s, "-") {
		i, negative = 1, true
	}
	start := i
	v := bareItem{kind: 'i'}
	for ; i < len(s) && isDigit(s[i]) && i-start < 16; i++ {
		v.num = v.num*10 + int64(s[i]-'0')
	}
	digits := i - start
	if digits == 0 || digits > 15 {
		f.fail()
		return bareItem{}
	}
	if i < len(s) && s[i] == '.' {
		point := i
		for i++; i < len(s) && isDigit(s[i]) && i-point < 5; i++ {
		}
		if n := i - point - 1; digits > 12 || n < 1 || n > 3 {
			f.fail()
			return bareItem{}
		}
		v.kind = 'd'
	}
	if negative {
		v.num = -v.num
	}
	f.rest = s[i:]
	return v
}

// str reads a string of printable ASCII with \" and \\.
func (f *fields) str() bareItem {
	escaped := false
	for i := 1; i < len(f.rest); i++ {
		switch b := f.rest[i]; {
		case b == '\\':
			i++
			if i == len(f.rest) || f.rest[i] != '"' && f.rest[i] != '\\' {
				f.fail()
				return bareItem{}
			}
			escaped = true
		case b == '"':
			v := bareItem{kind: 's', text: f.rest[1:i]}
			if escaped {
				v.text = unescape(v.text)
			}
			f.rest = f.rest[i+1:]
			return v
		case b < ' ' || b > '~':
			f.fail()
			return bareItem{}
		}
	}
	f.fail()
	return bareItem{}
}

func unescape(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

func (f *fields) token() bareItem {
	n := 1
	for n < len(f.rest) && (isAlpha(f.rest[n]) || isDigit(f.rest[n]) || strings.IndexByte("!#$%&'*+-.^_`|~:/", f.rest[n]) >= 0) {
		n++
	}
	v := bareItem{kind: 't', text: f.rest[:n]}
	f.rest = f.rest[n:]
	return v
}

func (f *fields) bytes() bareItem {
	end := strings.IndexByte(f.rest[1:], ':')
	if end < 0 {
		f.fail()
		return bareItem{}
	}
	v := bareItem{kind: 'b', text: f.rest[1 : 1+end]}
	for i := range len(v.text) {
		if b := v.text[i]; !isAlpha(b) && !isDigit(b) && b != '+' && b != '/' && b != '=' {
			f.fail()
			return bareItem{}
		}
	}
	f.rest = f.rest[end+2:]
	return v
}

// display reads a display string up to its end; nobody asks what it says.
func (f *fields) display() bareItem {
	for i := 2; i < len(f.rest); i++ {
		switch b := f.rest[i]; {
		case b == '"':
			f.rest = f.rest[i+1:]
			return bareItem{kind: '%'}
		case b == '%':
			if i+2 >= len(f.rest) || !isLowerHex(f.rest[i+1]) || !isLowerHex(f.rest[i+2]) {
				f.fail()
				return bareItem{}
			}
			i += 2
		case b < ' ' || b > '~':
			f.fail()
			return bareItem{}
		}
	}
	f.fail()
	return bareItem{}
}

func (f *fields) fail() bool {
	f.bad, f.rest = true, ""
	return false
}

func isKeyByte(b byte, first bool) bool {
	return b >= 'a' && b <= 'z' || b == '*' || !first && (isDigit(b) || b == '_' || b == '-' || b == '.')
}

func isAlpha(b byte) bool    { return b|0x20 >= 'a' && b|0x20 <= 'z' }
func isLowerHex(b byte) bool { return isDigit(b) || b >= 'a' && b <= 'f' }
