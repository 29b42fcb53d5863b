package upstream

import (
	"hash/maphash"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// backoff makes up pauses for refusals that name none, for each quota apart: that of a host,
// an account and a resource, see quotaOf. The zero value knows none.
type backoff struct {
	known atomic.Int64 // len(quotas), so that answers of quiet ones take no lock

	mu     sync.Mutex
	quotas map[string]*incident
}

// incident is a row of refusals by one quota.
type incident struct {
	until time.Time     // when the pause ends
	pause time.Duration // the last, without jitter
}

// maxQuotaRows bounds the memory of a backoff. A quota beyond it always gets the first pause.
const maxQuotaRows = 1024

// refused is the pause after a refusal at now of a request that was sent at sent: at least
// first, at most bound.
func (b *backoff) refused(quota string, sent, now time.Time, first, bound time.Duration, jitter func(time.Duration) time.Duration) time.Duration {
	first = min(first, bound)
	extra := jitter(first) - first
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.quotas[quota]
	switch {
	case i == nil || now.Sub(i.until) > bound: // none, or so old that it says nothing
		i = b.incidentLocked(quota, now)
		i.pause = first
	case sent.Before(i.until):
		// Sent before the pause was over, so it tells nothing new about how long to wait.
		if left := i.until.Sub(now); left > 0 {
			return min(left, bound)
		}
		i.pause = max(i.pause, first)
	default:
		i.pause = max(min(plus(i.pause, i.pause), bound), first)
	}
	// The jitter was drawn before the lock, as a share of the first pause.
	d := min(plus(i.pause, scale(extra, i.pause, first)), bound)
	i.until = now.Add(d)
	return d
}

// passed says that quota answered a request sent at sent without a refusal.
func (b *backoff) passed(quota string, sent time.Time) {
	if b.known.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := b.quotas[quota]; i != nil && !sent.Before(i.until) {
		delete(b.quotas, quota)
		b.known.Store(int64(len(b.quotas)))
	}
}

// forget ends the row of quota: its refusals do name a time.
func (b *backoff) forget(quota string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.quotas, quota)
	b.known.Store(int64(len(b.quotas)))
}

// incidentLocked is a new incident, remembered if there is room.
func (b *backoff) incidentLocked(quota string, now time.Time) *incident {
	if b.quotas == nil {
		b.quotas = make(map[string]*incident)
	}
	if _, ok := b.quotas[quota]; !ok && len(b.quotas) >= maxQuotaRows {
		for name, i := range b.quotas {
			if i.until.Before(now) {
				delete(b.quotas, name)
			}
		}
		if len(b.quotas) >= maxQuotaRows {
			return &incident{}
		}
	}
	i := &incident{}
	b.quotas[quota] = i
	b.known.Store(int64(len(b.quotas)))
	return i
}

// scale is extra in proportion: as much of d as it is of first.
func scale(extra, d, first time.Duration) time.Duration {
	if first <= 0 {
		return 0
	}
	return time.Duration(float64(extra) / float64(first) * float64(d))
}

// guess is a pause that a Transport has made up for one response. The context of the
// response's request leads to it.
type guess struct {
	b     *backoff
	quota string
}

type guessKey struct{}

// corrected says that the body names a time.
func (g *guess) corrected() { g.b.forget(g.quota) }

// quotaOf is what of a host's quotas a request and its answer count against: another for
// each account, and for each resource that the answer names. Of what tells accounts apart
// only a hash with a key of this process is kept.
func quotaOf(r *http.Request, h http.Header) string {
	return hostOf(r) + "\x00" + strconv.FormatUint(account(r), 36) + "\x00" + resourceOf(h)
}

var seed = maphash.MakeSeed()

// credentials is where APIs take keys from, besides Authorization.
var credentials = struct{ headers, params []string }{
	[]string{"X-Api-Key", "Api-Key", "Apikey", "X-Goog-Api-Key", "X-Auth-Token", "X-Access-Token", "Private-Token", "Ocp-Apim-Subscription-Key", "X-Rapidapi-Key", "X-Subscription-Token"},
	[]string{"key", "api_key", "apikey", "api-key", "access_token", "token"},
}

// account tells apart whose quotas a request counts against.
func account(r *http.Request) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	add := func(name, v string) {
		if v != "" {
			h.WriteString(name)
			h.WriteByte(0)
			h.WriteString(v)
			h.WriteByte(0)
		}
	}
	// A signature differs with every request: what comes before it says whose it is.
	who, _, _ := strings.Cut(first(r.Header, "Authorization"), ",")
	add("Authorization", who)
	for _, name := range credentials.headers {
		add(name, first(r.Header, name))
	}
	if r.URL == nil {
		return h.Sum64()
	}
	if r.URL.User != nil {
		add("User", r.URL.User.String())
	}
	if r.URL.RawQuery != "" && len(r.URL.RawQuery) <= maxField {
		query := r.URL.Query()
		for _, name := range credentials.params {
			add(name, query.Get(name))
		}
	}
	return h.Sum64()
}
