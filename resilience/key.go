package resilience

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/sluice-go/sluice"
)

// callKey tells calls apart that ask for different things: by tool, tenant, and arguments as JSON with the
// names in order. It fails for a call whose arguments have no JSON.
func callKey(c sluice.Call) (key string, ok bool) {
	raw, err := c.JSON()
	if err != nil {
		return "", false
	}
	if _, isRaw := c.Input.(json.RawMessage); isRaw { // else it is in the order of the type's fields
		if raw, err = inOrder(raw); err != nil {
			return "", false
		}
	}
	var b strings.Builder
	b.Grow(len(c.Tool) + len(raw) + 16)
	for _, part := range []string{c.Tool, cmp.Or(c.Pipeline.Tenant, c.Pipeline.OrgID)} {
		b.WriteString(part)
		b.WriteByte(0)
	}
	b.Write(raw)
	return b.String(), true
}

// argsHash is the SHA-256 of the arguments as JSON with all names in order, in hexadecimal: the same for a
// type whose fields are in another order.
func argsHash(c sluice.Call) (string, error) {
	raw, err := c.JSON()
	if err == nil {
		raw, err = inOrder(raw)
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// inOrder is raw with the names of each object in order, and no space.
func inOrder(raw json.RawMessage) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// readOnly reports whether a tool only reads.
func readOnly(tool sluice.Spec) bool { return tool.Hints.ReadOnly && !tool.Hints.Untrusted }

// harmless reports whether a tool can be called again as if it had been called once.
func harmless(tool sluice.Spec) bool {
	return (tool.Hints.ReadOnly || tool.Hints.Idempotent) && !tool.Hints.Untrusted
}
