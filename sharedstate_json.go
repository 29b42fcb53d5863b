package sluice

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/kv"
	"github.com/sluice-go/sluice/internal/strictjson"
)

// stateJSON is a snapshot.
type stateJSON struct {
	Version uint64               `json:"version"` // no version given so far is higher
	Keys    map[string]entryJSON `json:"keys"`
}

type entryJSON struct {
	Value   json.RawMessage `json:"value"`
	Version uint64          `json:"version"`
	Expires *time.Time      `json:"expires,omitempty"`
}

// MarshalJSON returns a snapshot of all keys of s as they were together at one instant:
//
//	{"version":7,"keys":{"hits":{"value":3,"version":7,"expires":"2026-11-24T15:04:05Z"}}}
//
// Values are encoded as [encoding/json] does it, outside all locks; a value that it cannot encode
// fails the snapshot.
func (s *SharedState) MarshalJSON() ([]byte, error) {
	if err := s.check(""); err != nil {
		return nil, err
	}
	list, highest := s.store.Snapshot(s.scope)
	runtime.KeepAlive(s)
	now := time.Now()
	out := stateJSON{Version: highest, Keys: make(map[string]entryJSON, len(list))}
	for _, e := range list {
		data, err := json.Marshal(entryOf(e, 0).Value)
		if err != nil {
			return nil, fmt.Errorf("sluice: shared state key %s: %w", quoted(e.Key), shortError{err})
		}
		n := entryJSON{Value: data, Version: e.Version}
		if e.Left > 0 {
			at := now.Add(e.Left)
			n.Expires = &at
		}
		out.Keys[e.Key] = n
	}
	return json.Marshal(out)
}

// maxVersion bounds the versions of a snapshot, so that those after it still grow.
const maxVersion = 1 << 60

// UnmarshalJSON replaces all keys of s by those of a snapshot, at one instant; if it
// fails, nothing has changed. What had expired by the time of day is left out. A snapshot
// has the names that MarshalJSON writes, letter for letter, each at most once, and no
// others; a missing version counts as zero.
//
// A restored value has no Go type until a [Key] writes it. Until then each read decodes
// it, without a detour over float64 for integers, and gets [ErrWrongType] if it does not
// fit the key's type. Keys keep their versions where these are higher than all that the
// key has had in s, and no key that is created later gets a version that the
// snapshotted store may have given.
func (s *SharedState) UnmarshalJSON(data []byte) error {
	if s == nil {
		return s.missing("")
	}
	store, scope := s.store, s.scope
	if store == nil {
		c, _ := SharedStateConfig{}.resolve()
		store, scope = newStore(c)
	} else if err := s.check(""); err != nil {
		return err
	}
	list, highest, err := readSnapshot(data)
	if err != nil {
		return fmt.Errorf("sluice: shared state snapshot: %w", err)
	}
	if err := errorOf("", store.Replace(scope, list, highest)); err != nil {
		return err
	}
	if s.store == nil {
		s.store, s.scope = store, scope
	}
	runtime.KeepAlive(s)
	return nil
}

// readSnapshot returns the entries of a snapshot that are still alive, and the highest
// version given when it was made.
func readSnapshot(data []byte) (list []kv.Entry, highest uint64, err error) {
	var in stateJSON
	if err := json.Unmarshal(data, &in); err != nil {
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
			return nil, 0, fmt.Errorf("key %s has version %d of %d: must be at most %d", quoted(key), n.Version, in.Version, uint64(maxVersion))
		}
		if n.Value == nil {
			return nil, 0, fmt.Errorf("key %s has no value", quoted(key))
		}
		highest = max(highest, n.Version)
		r := &restored{data: n.Value}
		r.Box = kv.Box{Datum: r, Size: int64(boxBytes + cap(n.Value))}
		e := kv.Entry{Key: key, Value: kv.Value{Box: &r.Box}, Version: n.Version}
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

func (e shortError) Error() string { return oneLine(cut(errwalk.Text(e.error), 512)) }
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
				where := "key " + quoted(key)
				return members(d, data, where, func(name string) error {
					switch name {
					case "value":
						return d.Decode(new(json.RawMessage))
					case "version", "expires":
						return notNull(d, name+" of "+where)
					}
					return fmt.Errorf(`%s has an unknown name %s: must be "value", "version" or "expires"`, where, quoted(name))
				})
			})
		}
		return fmt.Errorf(`it has an unknown name %s: must be "version" or "keys"`, quoted(name))
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
		if err := strictjson.Check(bytes.TrimLeft(data[from:d.InputOffset()], ", \t\r\n"), strictjson.Limits{MaxBytes: len(data)}); err != nil {
			return fmt.Errorf("%s has the name %s, which is not UTF-8", where, quoted(name))
		}
		if seen[name] {
			return fmt.Errorf("%s has %s twice", where, quoted(name))
		}
		seen[name] = true
		if err := each(name); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

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
