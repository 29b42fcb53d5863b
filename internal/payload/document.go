package payload

import (
	"bytes"
	"cmp"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// document is raw JSON on its way into a writer, without its blanks and checked. It has a
// scanner of its own because one that checks the whole text first, as encoding/json does,
// would work by the size of the text and not by the room there is. It needs no recursion,
// since what a secret holds may be nested to any depth.
//
// Where a brace is lost or added nobody knows what belongs to a secret. So of a document that
// is broken, as far as it may be read, nothing is shown after its first secret.
type document struct {
	*writer
	s      []byte
	i      int // of s, up to which it has been read
	cut    bool
	around nesting

	hidden    int  // how many containers a secret that is passed over stands in, itself one; 0 outside
	full      bool // nothing is written any more: what follows is only checked
	secretEnd int  // where in b the first secret ends; 0 if there is none
}

// document appends raw JSON.
func (w *writer) document(s []byte) bool {
	d := document{writer: w, s: s}
	if w.filter != nil {
		if most := 16*w.max + 1<<16; len(s) > most {
			d.s, d.cut = s[:most], true
		}
	}
	if !d.scan() {
		return false
	}
	if d.blank(); d.i < len(d.s) || d.cut {
		return d.fault()
	}
	return w.why == ""
}

// scan goes through one value. It returns false once there is nothing more to do.
func (d *document) scan() bool {
	for {
		ended, ok := d.begin()
		for ok && ended { // a value has: what now?
			if d.hidden > d.around.depth {
				d.hidden = 0
			}
			if d.around.depth == 0 {
				return true
			}
			ended, ok = d.proceed()
		}
		if !ok {
			return false
		}
	}
}

// begin reads the beginning of a value: all of it, unless it is a container with something
// in it.
func (d *document) begin() (ended, ok bool) {
	d.blank()
	if d.i == len(d.s) {
		return false, d.fault()
	}
	switch c := d.s[d.i]; c {
	case '"':
		return true, d.string()
	case '{', '[':
		if d.shows() && d.around.depth == maxDepth && !d.fill(tooDeep) {
			return false, false
		}
		d.around.push(c == '{')
		d.i++
		if !d.put(c) {
			return false, false
		}
		if d.blank(); d.i < len(d.s) && d.s[d.i] == c+2 { // } or ]
			return true, d.close()
		}
		return false, c == '[' || d.key()
	}
	return true, d.scalar()
}

// proceed reads what stands behind a value in a container: a comma, and of an object the
// key of the next value, or the end of the container, which is the end of a value too.
func (d *document) proceed() (ended, ok bool) {
	d.blank()
	object := d.around.top()
	switch {
	case d.i == len(d.s):
	case d.s[d.i] == ',':
		d.i++
		return false, d.put(',') && (!object || d.key())
	case d.s[d.i] == '}' && object, d.s[d.i] == ']' && !object:
		return true, d.close()
	}
	return false, d.fault()
}

// close reads the end of a container.
func (d *document) close() bool {
	c := d.s[d.i]
	d.i++
	d.around.depth--
	return d.put(c)
}

// key reads a key and its colon, and hides the value if its name is one of a secret.
func (d *document) key() bool {
	if d.blank(); d.i == len(d.s) || d.s[d.i] != '"' {
		return d.fault()
	}
	start := d.i
	if !d.string() {
		return false
	}
	name := d.s[start+1 : d.i-1]
	if d.blank(); d.i == len(d.s) || d.s[d.i] != ':' {
		return d.fault()
	}
	d.i++
	if !d.put(':') {
		return false
	}
	if !d.shows() || !d.secretKey(name) {
		return true
	}
	if d.text(redacted) {
		d.secretEnd = cmp.Or(d.secretEnd, len(d.b))
		d.hidden = d.around.depth + 1
		return true
	}
	return d.fill(truncated)
}

// secretKey is Filter.secret of the inside of a string, whose escapes may hide a name.
func (d *document) secretKey(inside []byte) bool {
	if d.filter != nil && bytes.IndexByte(inside, '\\') >= 0 {
		inside = jsonx.Unescape(inside)
	}
	return d.filter.secret(string(inside))
}

// string reads a string. What is shown of it keeps its escapes and gets more where needed.
func (d *document) string() bool {
	s := d.s[d.i:]
	if !d.shows() {
		n, _, ok := jsonx.String(s)
		d.i += n
		return ok || d.fault()
	}
	// Each byte takes one in b at least: of a string that is longer than the room there is
	// no more than that is looked at, and what an escape sequence may take on top.
	if room := max(d.max-len(d.b), 0); len(s)-8 > room {
		s = s[:room+8]
	}
	n, _, ok := jsonx.String(s)
	d.b = jsonx.AppendSafe(d.b, s[:n])
	if len(d.b) > d.max && !d.fill(truncated) {
		return false
	}
	if d.full { // and has to be read to its end
		return d.string()
	}
	d.i += n
	return ok || d.fault()
}

// scalar reads a number or a word.
func (d *document) scalar() bool {
	s := d.s[d.i:]
	n := jsonx.Word(s)
	if n == 0 {
		shows := d.shows()
		if room := max(d.max-len(d.b), 0); shows && len(s)-1 > room {
			s = s[:room+1]
		}
		size, _, ok := jsonx.Number(s)
		if shows && size > d.max-len(d.b) && !d.fill(truncated) {
			return false
		}
		if shows && d.full {
			return d.scalar()
		}
		if n = size; !ok {
			d.i += n
			return d.fault()
		}
	}
	if d.shows() {
		if d.b = append(d.b, s[:n]...); len(d.b) > d.max && !d.fill(truncated) {
			return false
		}
	}
	d.i += n
	return true
}

func (d *document) blank() { d.i += jsonx.Space(d.s[d.i:]) }

// shows reports whether what is read is written.
func (d *document) shows() bool { return !d.full && d.hidden == 0 }

// put appends c if it is shown.
func (d *document) put(c byte) bool {
	if !d.shows() {
		return true
	}
	d.b = append(d.b, c)
	return len(d.b) <= d.max || d.fill(truncated)
}

// fill ends the text. It returns true if reading goes on, since a secret has been shown to
// be there, and nobody knows yet where it ends.
func (d *document) fill(why string) bool {
	d.full, d.why = true, cmp.Or(d.why, why)
	return d.secretEnd > 0
}

// fault ends the text where no JSON can go on: because the document is broken, or no more
// of it may be read.
func (d *document) fault() bool {
	if d.cut && d.i > len(d.s)-8 {
		return d.stop(cmp.Or(d.why, truncated))
	}
	if d.stop(invalid); d.secretEnd > 0 {
		d.b = d.b[:d.secretEnd]
	}
	return false
}

// nesting is the containers around a place in a document, a bit for each: set for objects.
type nesting struct {
	bits  []uint64
	depth int
}

func (n *nesting) push(object bool) {
	if n.depth/64 == len(n.bits) {
		n.bits = append(n.bits, 0)
	}
	bit := uint64(1) << (n.depth % 64)
	n.bits[n.depth/64] &^= bit
	if object {
		n.bits[n.depth/64] |= bit
	}
	n.depth++
}

// top reports whether the innermost is an object.
func (n *nesting) top() bool { return n.bits[(n.depth-1)/64]>>((n.depth-1)%64)&1 == 1 }
