package sluicecloudevents

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sluice-go/sluice"
)

// ContentType is what an encoded event is in HTTP, or in a broker's headers.
const ContentType = "application/cloudevents+json"

// maxSubject is how many bytes a subject may have.
const maxSubject = 256

// Config says where events come from.
type Config struct {
	// Source is a URI, or a reference to one, that names this producer of events, as
	// "https://example.com/agents/planner" or "/agents/planner". Required.
	Source string

	// TypePrefix comes before the name of the kind, and ".v1" after it. It should be the name of a domain that you
	// own, reversed, as "com.example.agents". Empty means "io.github.sluice-go".
	TypePrefix string
	_          struct{}
}

// Encoder writes events. Make one with [NewEncoder]; it is safe for concurrent use.
type Encoder struct {
	conf   Config
	origin string        // in the ids of events outside calls
	others atomic.Uint64 // how many of those it has written
}

var (
	uriReference = regexp.MustCompile(`^[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+$`) // RFC 3986 has no other characters
	typePrefix   = regexp.MustCompile(`^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$`)
)

// NewEncoder returns an encoder, or an error that names the wrong field of c.
func NewEncoder(c Config) (*Encoder, error) {
	if c.TypePrefix == "" {
		c.TypePrefix = "io.github.sluice-go"
	}
	if _, err := url.Parse(c.Source); err != nil || !uriReference.MatchString(c.Source) {
		return nil, fmt.Errorf("sluicecloudevents: Config.Source is %q: must be a URI or a reference to one, as \"/agents/planner\"", c.Source)
	}
	if !typePrefix.MatchString(c.TypePrefix) {
		return nil, fmt.Errorf("sluicecloudevents: Config.TypePrefix is %q: must be names of letters, digits and hyphens with dots between, as \"com.example\"", c.TypePrefix)
	}
	return &Encoder{conf: c, origin: rand.Text()}, nil
}

// attributes are those of a CloudEvent in structured mode. Its data comes after them.
type attributes struct {
	SpecVersion  string `json:"specversion"`
	ID           string `json:"id"`
	Source       string `json:"source"`
	Type         string `json:"type"`
	Subject      string `json:"subject,omitempty"`
	Time         string `json:"time,omitempty"`
	ContentType  string `json:"datacontenttype"`
	Sequence     string `json:"sequence,omitempty"`
	PartitionKey string `json:"partitionkey,omitempty"`
}

// Encode is e as one JSON object on one line. It does not keep e. An error is that of e's own JSON.
func (x *Encoder) Encode(e *sluice.Event) ([]byte, error) {
	data, err := e.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("sluicecloudevents: %s: %w", e.Kind, err)
	}
	out := attributes{
		SpecVersion: "1.0",
		Source:      x.conf.Source,
		Type:        x.conf.TypePrefix + "." + text(string(e.Kind)) + ".v1",
		Subject:     text(cut(e.Call.Tool)),
		ContentType: "application/json",
	}
	if !e.Time.IsZero() {
		out.Time = e.Time.UTC().Format(time.RFC3339Nano)
	}
	if key := e.CallKey.String(); key != "" {
		out.ID = key + "/" + strconv.FormatUint(uint64(e.Seq), 10)
		out.Sequence, out.PartitionKey = fmt.Sprintf("%010d", e.Seq), key
	} else {
		out.ID = x.origin + "/" + strconv.FormatUint(x.others.Add(1), 10)
		if out.Subject == "" {
			out.Subject = text(cut(e.By))
		}
	}
	b, err := json.Marshal(&out)
	if err != nil {
		return nil, fmt.Errorf("sluicecloudevents: %s: %w", e.Kind, err)
	}
	b = append(b[:len(b)-1], `,"data":`...)
	return append(append(b, data...), '}'), nil
}

// cut is s, or its beginning, if that is too long for a subject.
func cut(s string) string {
	if len(s) > maxSubject {
		s = s[:maxSubject]
		for i := 0; i < utf8.UTFMax-1 && s != "" && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]); i++ {
			s = s[:len(s)-1]
		}
	}
	return s
}

// text is s without what the specification keeps out of a string, which is control characters and code points that are
// no characters, and without those that are invisible or change the direction of others.
func text(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp), r < 0x20, 0x7f <= r && r < 0xa0, 0xfdd0 <= r && r <= 0xfdef, r&0xfffe == 0xfffe:
			return utf8.RuneError
		}
		return r
	}, s)
}
