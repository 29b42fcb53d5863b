package sluice

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/kv"
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
	now := time.Now()
	out := stateJSON{Version: highest, Keys: make(map[string]entryJSON, len(list))}
	for _, e := range list {
		if !utf8.ValidString(e.Key) {
			return nil, fmt.Errorf("sluice: shared state key %q is not UTF-8: JSON cannot hold it", e.Key)
		}
		data, err := json.Marshal(entryOf(e, 0).Value)
		if err != nil {
			return nil, fmt.Errorf("sluice: shared state key %q: %w", e.Key, err)
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
// fails, nothing has changed. What had expired by the time of day is left out.
//
// A restored value has no Go type until a [Key] writes it. Until then each read decodes
// it, without a detour over float64 for integers, and gets [ErrWrongType] if it does not
// fit the key's type. Keys keep their versions where these are higher than all that the
// key has had in s, and no key that is created later gets a version that the
// snapshotted store may have given.
func (s *SharedState) UnmarshalJSON(data []byte) error {
	if s.store == nil {
		c, _ := SharedStateConfig{}.resolve()
		s.store, s.scope = newStore(c)
	}
	if err := s.check(""); err != nil {
		return err
	}
	var in stateJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("sluice: shared state snapshot: %w", err)
	}
	now := time.Now()
	list := make([]kv.Entry, 0, len(in.Keys))
	for key, n := range in.Keys {
		if n.Version > maxVersion || in.Version > maxVersion {
			return fmt.Errorf("sluice: shared state snapshot: key %q has version %d of %d: must be at most %d", key, n.Version, in.Version, uint64(maxVersion))
		}
		if n.Value == nil {
			return fmt.Errorf("sluice: shared state snapshot: key %q has no value", key)
		}
		r := &restored{data: n.Value}
		r.Box = kv.Box{Datum: r, Size: boxBytes + cap(n.Value)}
		e := kv.Entry{Key: key, Value: kv.Value{Box: &r.Box}, Version: n.Version}
		if n.Expires != nil {
			if e.Left = n.Expires.Sub(now); e.Left <= 0 {
				continue
			}
		}
		list = append(list, e)
	}
	return errorOf("", s.store.Replace(s.scope, list, in.Version))
}
