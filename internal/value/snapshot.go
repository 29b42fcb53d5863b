package value

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/kv"
	"github.com/sluice-go/sluice/internal/strictjson"
)

// snapshot is what Marshal writes and Restore reads.
type snapshot struct {
	Version uint64           `json:"version"` // no version given before the snapshot began is higher
	Keys    map[string]entry `json:"keys"`
}

type entry struct {
	Value   json.RawMessage `json:"value"`
	Version uint64          `json:"version"`
	Expires *time.Time      `json:"expires,omitempty"`
}

// maxVersion bounds the versions of a snapshot, so that those after it still grow.
const maxVersion = 1 << 60

// Marshal returns the keys of v as they were together at one instant, as JSON. Values are
// encoded outside the locks of the store.
func Marshal(v *kv.View) ([]byte, error) {
	if v.Store.Far() != nil {
		list, highest, err := farSnapshot(v)
		if err != nil {
			return nil, err
		}
		return marshal(list, highest)
	}
	return marshal(v.Store.Snapshot(v.Scope))
}

func marshal(list []kv.Entry, highest uint64) ([]byte, error) {
	now := time.Now()
	out := snapshot{Version: highest, Keys: make(map[string]entry, len(list))}
	for _, e := range list {
		data, err := json.Marshal(Load(e.Value))
		if err != nil {
			return nil, fmt.Errorf("sluice: shared state key %s: %w", errtext.Quote(e.Key), shortError{err})
		}
		n := entry{Value: data, Version: e.Version}
		if e.Left > 0 {
			at := now.Add(e.Left)
			n.Expires = &at
		}
		out.Keys[e.Key] = n
	}
	return json.Marshal(out)
}

// Restore makes what Marshal wrote the whole content of v, at one instant. If it fails, nothing has
// changed: the error is a [kv.Code], or says what is wrong with data.
func Restore(v *kv.View, data []byte) error {
	list, highest, err := parse(data)
	if err != nil {
		return fmt.Errorf("sluice: shared state snapshot: %w", err)
	}
	if v.Store.Far() != nil {
		return fmt.Errorf("sluice: shared state snapshot: %w", errNoRestore)
	}
	return v.Store.Replace(v.Scope, list, highest).Err()
}

// parse returns the entries of a snapshot that are still alive, and the highest version
// given when it was made.
func parse(data []byte) (list []kv.Entry, highest uint64, err error) {
	var in snapshot
	if err := json.Unmarshal(data, &in); err != nil {
		if e, ok := err.(*json.UnmarshalTypeError); ok && e.Field == "" {
			return nil, 0, errors.New("it is no object")
		}
		return nil, 0, shortError{err}
	}
	if err := exact(data); err != nil {
		return nil, 0, err
	}
	if highest = in.Version; highest > maxVersion {
		return nil, 0, fmt.Errorf("the version is %d: must be at most %d", highest, uint64(maxVersion))
	}
	now := time.Now()
	list = make([]kv.Entry, 0, len(in.Keys))
	for key, n := range in.Keys {
		if n.Version > maxVersion {
			return nil, 0, fmt.Errorf("key %s has version %d of %d: must be at most %d",
				errtext.Quote(key), n.Version, in.Version, uint64(maxVersion))
		}
		if n.Value == nil {
			return nil, 0, fmt.Errorf("key %s has no value", errtext.Quote(key))
		}
		highest = max(highest, n.Version)
		e := kv.Entry{Key: key, Value: restore(n.Value), Version: n.Version}
		if n.Expires != nil {
			if e.Left = n.Expires.Sub(now); e.Left <= 0 {
				continue
			}
		}
		list = append(list, e)
	}
	return list, highest, nil
}

// shortError is an error of encoding/json, whose text may hold all of what it was given.
type shortError struct{ error }

func (e shortError) Error() string { return errtext.Line(errwalk.Text(e.error)) }
func (e shortError) Unwrap() error { return e.error }

// exact returns an error unless the names in a snapshot, which encoding/json has taken, are
// those of one, byte for byte, each once. What a value holds is its own affair.
func exact(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	return members(d, data, "it", func(name string) error {
		switch name {
		case "version":
			return notNull(d, "the version")
		case "keys":
			return members(d, data, "keys", func(key string) error {
				where := "key " + errtext.Quote(key)
				return members(d, data, where, func(name string) error {
					switch name {
					case "value":
						return d.Decode(new(json.RawMessage))
					case "version", "expires":
						return notNull(d, name+" of "+where)
					}
					return fmt.Errorf(`%s has an unknown name %s: must be "value", "version" or "expires"`,
						where, errtext.Quote(name))
				})
			})
		}
		return fmt.Errorf(`it has an unknown name %s: must be "version" or "keys"`, errtext.Quote(name))
	})
}

// members calls each for the members of the object that comes next; it reads the value.
func members(d *json.Decoder, data []byte, where string, each func(name string) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%s is no object", where)
	}
	seen := make(map[string]bool)
	for d.More() {
		from := d.InputOffset()
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return fmt.Errorf("%s is no object", where)
		}
		// The decoder puts U+FFFD for what is no character, so that names could become equal.
		raw := bytes.TrimLeft(data[from:d.InputOffset()], ", \t\r\n")
		if err := strictjson.Check(raw, strictjson.Limits{MaxBytes: len(data)}); err != nil {
			return fmt.Errorf("%s has the name %s, which is not UTF-8", where, errtext.Quote(name))
		}
		if seen[name] {
			return fmt.Errorf("%s has %s twice", where, errtext.Quote(name))
		}
		seen[name] = true
		if err := each(name); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// notNull reads the value that comes next.
func notNull(d *json.Decoder, what string) error {
	var v json.RawMessage
	if err := d.Decode(&v); err != nil {
		return err
	}
	if string(v) == "null" {
		return fmt.Errorf("%s is null", what)
	}
	return nil
}
