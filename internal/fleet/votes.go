package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// Breaker is one circuit breaker, which judges together with those of other processes.
type Breaker struct {
	fleet *Fleet
	ref   *stage.Ref
	class *admit.Class
	name  string
}

var _ admit.Voter = (*Breaker)(nil)

// turn is how long a process may probe, or recover, without saying that it is still there: much longer than it takes to
// find out that the engine is away.
const turn = 5 * time.Second

// Kinds of records about breakers, as holds.
const (
	openings = "rule"
	votes    = "vote"
)

// ballot is a record about a breaker.
type ballot struct {
	By      string `json:"by"`     // the nonce of the Fleet that wrote it
	Origin  string `json:"origin"` // its name
	Breaker string `json:"breaker"`
	Key     string `json:"key,omitempty"`

	Vote     bool   `json:"vote,omitempty"`     // that By is open, or
	Failures uint32 `json:"failures,omitempty"` // has met so many in a row; else a rule:

	Phase  phase         `json:"phase,omitempty"`
	Round  uint8         `json:"round,omitempty"`
	Turn   string        `json:"turn,omitempty"` // whose it is
	Lasts  time.Duration `json:"lasts_ns,omitempty"`
	Wanted bool          `json:"wanted,omitempty"`
	Passed uint8         `json:"passed,omitempty"`
	Hand   bool          `json:"by_hand,omitempty"`
}

// phase is a breaker.Phase in a record.
type phase breaker.Phase

var phases = []string{"closed", "cooling", "probing", "ramping", "tripped"}

func (p phase) MarshalText() ([]byte, error) { return []byte(phases[p]), nil }

func (p *phase) UnmarshalText(text []byte) error {
	i := slices.Index(phases, string(text))
	if i < 0 {
		return fmt.Errorf("phase is %q: must be one of %v", text, phases)
	}
	*p = phase(i)
	return nil
}

// rule is what x says.
func (x *ballot) rule() breaker.Rule {
	r := breaker.Rule{Phase: breaker.Phase(x.Phase), Round: x.Round, By: x.Turn, Lasts: int64(max(0, x.Lasts)), Wanted: x.Wanted, Passed: x.Passed}
	if x.Hand {
		r.Actor = x.Origin
	}
	return r
}

// told is a record that is there.
type told struct {
	ballot
	rev engine.Revision
	end time.Time // of the vote, or of what the rule lasts; zero if it does not end
}

func (t *told) left() int64 { return int64(max(0, time.Until(t.end))) }

// AddBreaker has the limit of a breaker of that name, which counts by ref, judge together with others. It answers an
// error that begins with the field that is wrong: if f is nil or closed, or has that name with another scope, or its engine keeps no records.
func (f *Fleet) AddBreaker(ref *stage.Ref, limit rules.Limit, name string, quorum int) error {
	switch {
	case f == nil:
		return errors.New(".Fleet is a zero value: must be made by NewFleet")
	case f.store == nil:
		return errors.New(".Fleet has an engine without a Store: must have one")
	}
	b := &Breaker{fleet: f, ref: ref, class: limit.Class, name: name}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ending {
		return errors.New(".Fleet is closed: must be open")
	}
	if err := f.claim("CircuitBreaker", name, limit.Scope); err != nil {
		return err
	}
	limit.Class.Votes = &admit.Votes{Voter: b, Terms: breaker.Terms{
		Self: f.nonce, Actor: *f.conf.Origin, Quorum: quorum, Turn: int64(max(turn, 10*f.conf.Budget)), Repeat: int64(f.repeat),
		Wall: func() int64 { return time.Now().Round(0).UnixNano() },
	}}
	f.circuits = append(slices.Clip(f.circuits), b) // who has the old one reads it without the lock
	var there []*told
	for _, t := range f.ruled {
		if t.Breaker == name {
			there = append(there, t)
		}
	}
	f.group.Add(1)
	go func() {
		defer f.group.Done()
		for _, t := range there {
			b.hear(t, true)
		}
	}()
	return nil
}

// Run has what c has to tell be told.
func (b *Breaker) Run(c *admit.Cell) { b.fleet.startBy(&b.fleet.ballots, func() { b.tell(c) }) }

func (b *Breaker) tell(c *admit.Cell) {
	for {
		s := b.ref.Lock()
		e, more := s.M.Ballot(s.Now(), c, admit.Op(engine.NewOpID()))
		key := c.Key()
		unlock(s)
		if !more {
			return
		}
		rev, what := b.commit(key, &e)
		s = b.ref.Lock()
		s.M.Balloted(s.Now(), c, &e, uint64(rev), what)
		unlock(s)
		if what == breaker.Refused && b.look(c, key) {
			continue
		}
		if what != breaker.Done && !b.fleet.sleep(pause(e.Fails)) {
			return
		}
	}
}

// commit has e done at the engine.
func (b *Breaker) commit(key string, e *breaker.Errand) (rev engine.Revision, what breaker.Result) {
	f := b.fleet
	var list []engine.Change
	put := func(k string, was engine.Revision, x ballot, ttl time.Duration) {
		x.By, x.Origin, x.Breaker, x.Key = f.nonce, *f.conf.Origin, b.name, key
		text, _ := json.Marshal(x) // which has nothing that cannot be
		if ttl > 0 {
			ttl = min(max(ttl, f.conf.Engine.Limits().MinTTL), engine.MaxWait)
		}
		list = append(list, engine.Change{Key: k, Was: was, Value: text, TTL: ttl})
	}
	if r := e.Rule; r != nil {
		was := engine.Revision(e.Was)
		if e.Any {
			was = engine.AnyRevision
		}
		ttl := time.Duration(r.KeptFor())
		if ttl > 0 {
			ttl += time.Duration(r.Lasts)
		}
		put(b.rule(key), was, ballot{Phase: phase(r.Phase), Round: r.Round, Turn: r.By, Lasts: time.Duration(r.Lasts), Wanted: r.Wanted, Passed: r.Passed,
			Hand: r.Actor != ""}, ttl)
	}
	switch own := b.vote(key); {
	case e.Vote > 0:
		put(own, engine.AnyRevision, ballot{Vote: true, Failures: e.Row}, time.Duration(e.Vote))
	case e.Vote < 0:
		list = append(list, engine.Change{Key: own, Was: engine.AnyRevision, Erase: true})
	}
	revs, err := ask(f, f.ctx, f.conf.Budget, func(ctx context.Context) ([]engine.Revision, error) {
		return f.store.Commit(ctx, engine.OpID(e.Op), list...)
	})
	if err == nil && len(revs) != len(list) {
		err = fmt.Errorf("%w: the engine answered %d revisions for %d changes", engine.ErrUnsure, len(revs), len(list))
	}
	f.heardOf(f.ctx, err)
	switch {
	case err == nil:
		return revs[0], breaker.Done
	case errors.Is(err, engine.ErrConflict):
		return 0, breaker.Refused
	case errors.Is(err, engine.ErrRefused):
		return 0, breaker.Failed
	}
	return 0, breaker.Unsure
}

// look reads the rule of c, which is another than was thought, and reports whether it could.
func (b *Breaker) look(c *admit.Cell, key string) bool {
	f, name := b.fleet, b.rule(key)
	list, err := ask(f, f.ctx, f.conf.Budget, func(ctx context.Context) ([]engine.Record, error) { return f.store.Fetch(ctx, name) })
	if err == nil && (len(list) != 1 || list[0].Key != name) {
		err = fmt.Errorf("%w: the engine answered other records than it was asked for", engine.ErrUnsure)
	}
	if f.heardOf(f.ctx, err); err != nil {
		return false
	}
	if list[0].Rev == 0 {
		s := b.ref.Lock()
		s.M.RuleGone(s.Now(), c)
		unlock(s)
		return true
	}
	t := readBallot(list[0])
	if t == nil {
		return false
	}
	b.hear(t, true)
	return true
}

func (b *Breaker) rule(key string) string { return b.fleet.key(openings, url.PathEscape(b.name), key) }
func (b *Breaker) vote(key string) string {
	return b.fleet.key(votes, url.PathEscape(b.name), key+"/"+b.fleet.nonce)
}

// readBallot is what rec says, nil if that is nothing.
func readBallot(rec engine.Record) *told {
	t := &told{rev: rec.Rev}
	if json.Unmarshal(rec.Value, &t.ballot) != nil {
		return nil
	}
	now := time.Now()
	if t.Vote {
		t.end = now.Add(rec.Left)
		return t
	}
	r := t.rule()
	left := r.Lasts
	if k := r.KeptFor(); k > 0 && rec.Left > 0 {
		left = min(left, int64(rec.Left)-k)
	}
	t.end = now.Add(time.Duration(max(0, left)))
	return t
}

// isBallot reports whether a record of that key is about a breaker.
func (f *Fleet) isBallot(key string) bool {
	rest, _ := strings.CutPrefix(key, f.prefix)
	return strings.HasPrefix(rest, openings+"/") || strings.HasPrefix(rest, votes+"/")
}

// hearBallot does as a process tells about breakers.
func (f *Fleet) hearBallot(rec engine.Record, anew bool) {
	f.heardOf(f.ctx, nil)
	var t *told
	if !rec.Gone {
		if t = readBallot(rec); t == nil {
			return
		}
	}
	f.mu.Lock()
	was := f.ruled[rec.Key]
	if t == nil {
		delete(f.ruled, rec.Key)
	} else if was != nil || len(f.ruled) < maxHeard {
		f.ruled[rec.Key] = t
	}
	list := f.circuits
	f.mu.Unlock()
	for _, b := range list {
		switch {
		case t != nil:
			b.hear(t, anew)
		case was != nil:
			b.missed(was)
		}
	}
}

// miss does what follows from there being no other records any more than those.
func (f *Fleet) miss(there map[string]bool) {
	f.mu.Lock()
	list := f.circuits
	var lost []*told
	for key, t := range f.ruled {
		if !there[key] {
			lost = append(lost, t)
			delete(f.ruled, key)
		}
	}
	f.mu.Unlock()
	for _, t := range lost {
		for _, b := range list {
			b.missed(t)
		}
	}
}

// hear does as t says, if it is about b.
func (b *Breaker) hear(t *told, anew bool) {
	if t.Breaker != b.name {
		return
	}
	s := b.ref.Lock()
	defer unlock(s)
	var c *admit.Cell
	if t.Vote || t.rule().Phase != breaker.Whole {
		c = s.M.Cell(s.Now(), b.class, t.Key)
	} else {
		c = b.class.Lookup(t.Key)
	}
	switch {
	case c == nil:
	case t.Vote:
		if left := t.left(); left > 0 {
			s.M.HearVote(s.Now(), c, t.By, t.Failures, left)
		}
	default:
		s.M.HearRule(s.Now(), c, t.Origin, t.rule(), uint64(t.rev), t.left(), anew)
	}
}

// missed does what follows from t not being there any more.
func (b *Breaker) missed(t *told) {
	if t.Breaker != b.name {
		return
	}
	s := b.ref.Lock()
	defer unlock(s)
	switch c := b.class.Lookup(t.Key); {
	case c == nil:
	case t.Vote:
		s.M.HearVote(s.Now(), c, t.By, 0, 0)
	default:
		s.M.RuleGone(s.Now(), c)
	}
}
