package sluicehttp

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// Config configures a [Page]. Only Executor is required.
type Config struct {
	Executor *sluice.Executor
	Recent   *Recent // refusals and changes; list it in the executor's Sink too; nil means that none are shown

	// Actor lets limits be changed: it says who asks, by what your authentication knows, for events; empty refuses.
	// It runs for each change, on the request's goroutine. nil means that nothing can be changed, and the page has no form.
	Actor func(r *http.Request) string
	// Gates are the components that can be changed, as in [sluice.Config].Interceptors; others in the list are left out.
	// Tools of the executor's registry can be anyway. It needs Actor.
	Gates []sluice.Interceptor
	// Sink hears of what trips or closes a breaker here, and pauses or lifts a rate, as a sluice.LimitChanged with its
	// Actor, whom the executor's own events of that do not know; of other changes they do. nil discards. List the
	// executor's.
	Sink sluice.EventSink

	Hosts      []string      // by which the page may be asked for, without a port; empty means those of the loopback interface
	Interval   time.Duration // between two snapshots, if anybody looks; zero means 1 s, from 100 ms to 1 min
	MaxViewers int           // streams at once, and requests besides; more get 503; zero means 100
	_          struct{}
}

const (
	minInterval = 100 * time.Millisecond
	maxViewers  = 10_000
	// writeTime is how long a response may take to be taken, and each part of a stream.
	writeTime = 10 * time.Second
	// maxBody bounds what a request may bring.
	maxBody = 256 << 10
)

// validate fills in the defaults.
func (c *Config) validate() error {
	switch {
	case c.Executor == nil || c.Executor.Registry() == nil:
		return errors.New("sluicehttp: Config.Executor is nil: must be made by sluice.NewExecutor")
	case c.Interval != 0 && (c.Interval < minInterval || c.Interval > time.Minute):
		return fmt.Errorf("sluicehttp: Config.Interval is %v: must be from %v to 1m, or zero", c.Interval, minInterval)
	case c.MaxViewers < 0 || c.MaxViewers > maxViewers:
		return fmt.Errorf("sluicehttp: Config.MaxViewers is %d: must be from 1 to %d, or zero", c.MaxViewers, maxViewers)
	case c.Actor == nil && len(c.Gates) > 0:
		return errors.New("sluicehttp: Config.Gates is set without Actor: must be empty, nobody can change them")
	case c.Actor == nil && c.Sink != nil:
		return errors.New("sluicehttp: Config.Sink is set without Actor: must be nil, there is nothing to hear")
	}
	c.Interval, c.MaxViewers = cmp.Or(c.Interval, time.Second), cmp.Or(c.MaxViewers, 100)
	hosts := make([]string, len(c.Hosts))
	for i, h := range c.Hosts {
		hosts[i] = bare(h)
		if hosts[i] == "" || strings.ContainsAny(h, "/*@ ") {
			return fmt.Errorf("sluicehttp: Config.Hosts[%d] is %q: must be a name or an address, without scheme or path", i, h)
		}
	}
	c.Hosts = hosts
	return nil
}

// Page is an [http.Handler] that shows an executor. Make one with [New]. It is safe for concurrent use, and may be
// mounted at any path that ends in a slash: only what follows the last slash counts.
//
// A request waits for a snapshot, but for no call. What it answers is made first and written then, within ten seconds:
// a client that reads slowly holds its place among [Config].MaxViewers until then, and nothing else.
type Page struct {
	conf  Config
	gates []gate // that can be changed
	cross *http.CrossOriginProtection

	streams, requests chan struct{} // places taken
	done              chan struct{} // closed by Close
	close             sync.Once

	changing sync.Mutex // held while something is changed

	mu      sync.Mutex    // guards the rest
	now     *reading      // nil before anybody has looked
	making  chan struct{} // closed when another has been made; nil while none is
	seq     uint64        // of the last reading
	changed int           // how often something has been changed here
	history history
	changes ring // made here
}

// New returns a Page. It starts nothing.
func New(c Config) (*Page, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	gates, err := changeable(c.Gates)
	if err != nil {
		return nil, err
	}
	return &Page{conf: c, gates: gates, cross: http.NewCrossOriginProtection(), done: make(chan struct{}),
		streams: make(chan struct{}, c.MaxViewers), requests: make(chan struct{}, c.MaxViewers)}, nil
}

// Close ends the streams, and has later requests answered with 503. It does not wait, and may be called again: give it
// to [http.Server.RegisterOnShutdown], which would else wait for viewers to leave.
func (p *Page) Close() { p.close.Do(func() { close(p.done) }) }

// ServeHTTP answers for the view that r's path names behind its last slash.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w.Header(), p.conf.Actor != nil)
	if !p.isHost(r.Host) {
		refuse(w, http.StatusForbidden, fmt.Sprintf("This page is not served for the host %q. Config.Hosts names those that it is served for.", shown(r.Host)))
		return
	}
	if p.isClosed() {
		refuse(w, http.StatusServiceUnavailable, "This page has been closed.")
		return
	}
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	places := p.requests
	if name == "stream" {
		places = p.streams
	}
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	default:
		w.Header().Set("Retry-After", "10")
		refuse(w, http.StatusServiceUnavailable, "As many look already as may at once, "+count(cap(places), "viewer", "viewers")+". Try again later.")
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		p.get(w, r, name)
	case http.MethodPost:
		p.post(w, r, name)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		refuse(w, http.StatusMethodNotAllowed, "The page answers GET, HEAD and POST.")
	}
}

func (p *Page) isClosed() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// get answers for a view, its JSON, a stream or a file.
func (p *Page) get(w http.ResponseWriter, r *http.Request, name string) {
	if f, ok := assets[name]; ok {
		w.Header().Set("Content-Type", f.mime)
		w.Header().Set("Cache-Control", "max-age=3600")
		send(w, r, http.StatusOK, f.data)
		return
	}
	if name == "stream" {
		p.stream(w, r)
		return
	}
	name, asJSON := strings.CutSuffix(name, ".json")
	q, err := queryOf(cmp.Or(name, "overview"), r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	x, _ := p.latest(r.Context())
	if x == nil {
		refuse(w, http.StatusServiceUnavailable, "This page has been closed.")
		return
	}
	v := p.build(r.Context(), x, q)
	if v == nil {
		refuse(w, http.StatusNotFound, "The page has no such view.")
		return
	}
	p.answer(w, r, v, asJSON)
}

// answer sends v.
func (p *Page) answer(w http.ResponseWriter, r *http.Request, v *view, asJSON bool) {
	status := cmp.Or(v.status, http.StatusOK)
	if asJSON {
		b, err := json.MarshalIndent(v.JSON, "", "  ")
		if err != nil {
			refuse(w, http.StatusInternalServerError, "The view could not be written.")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		send(w, r, status, append(harmless(b), '\n'))
		return
	}
	var b bytes.Buffer
	if err := templates().ExecuteTemplate(&b, "page", v); err != nil {
		refuse(w, http.StatusInternalServerError, "The view could not be written.")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	send(w, r, status, b.Bytes())
}

// send writes a whole response, and no longer than writeTime.
func send(w http.ResponseWriter, r *http.Request, status int, b []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	c := http.NewResponseController(w)
	_ = c.SetWriteDeadline(time.Now().Add(writeTime)) // net/http takes it back; some other writers have none
	w.WriteHeader(status)
	if r == nil || r.Method != http.MethodHead {
		_, _ = w.Write(b)
	}
	_ = c.Flush()
}

// refuse answers with words.
func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	send(w, nil, status, []byte(text+"\n"))
}

// secure sets what keeps other sites, and names that look like markup, from doing anything here.
func secure(h http.Header, forms bool) {
	action := "'none'"
	if forms {
		action = "'self'"
	}
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
		"form-action "+action+"; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // no-referrer would take the Origin from forms
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// isHost reports whether the page may be asked for by that host, as it stands in a request.
func (p *Page) isHost(host string) bool {
	h := bare(host)
	if len(p.conf.Hosts) > 0 {
		return slices.Contains(p.conf.Hosts, h)
	}
	if h == "localhost" || strings.HasSuffix(h, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(h)
	return err == nil && a.Unmap().IsLoopback()
}

// bare is a host without its port, brackets and final dot, in lower case.
func bare(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

//go:embed assets
var files embed.FS

// asset is a file that the page consists of.
type asset struct {
	mime string
	data []byte
}

// assets are those that are served, by name; version changes with any of the files.
var assets, version = func() (map[string]asset, string) {
	list, sum := map[string]asset{}, fnv.New64a()
	_ = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(name)
		_, _ = sum.Write(data)
		switch path.Ext(name) {
		case ".css":
			list[path.Base(name)] = asset{"text/css; charset=utf-8", data}
		case ".js":
			list[path.Base(name)] = asset{"text/javascript; charset=utf-8", data}
		case ".svg":
			list[path.Base(name)] = asset{"image/svg+xml", data}
		}
		return err
	})
	return list, strconv.FormatUint(sum.Sum64(), 36)
}()
