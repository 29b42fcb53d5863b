package kv

import (
	"math"
	"slices"
	"unicode/utf8"
)

// Op is one key of a commit.
type Op struct {
	Scope *Scope
	Key   string   // in Scope
	By    []*Scope // of a write: whose bounds hold for it, and who must be open; Scope if there are none
	Cond  Cond
	Kind  Kind
	Value Value
	Life  Life
	Least uint64 // of a write: its version is at least this

	Stored Value // what the key holds if Cond holds, if that is known

	hash  uint64
	full  string
	entry *entry // while the commit runs: the locked live entry, or the new one
	word  uint64 // and the word that it will get
	was   uint64 // the version of the key before, zero if it was absent
}

// Kind says what an op does once all conditions hold.
type Kind uint8

// The kinds of op.
const (
	Check Kind = iota
	Write
	Remove
)

// Commit does all ops at one instant, or none. Each key may occur once.
func (s *Store) Commit(ops []Op) Code {
	c := s.commit(ops)
	if c == Full { // perhaps of what has expired
		s.reclaim()
		c = s.commit(ops)
	}
	return c
}

func (s *Store) commit(ops []Op) Code {
	for i := range ops {
		o := &ops[i]
		o.full = o.Scope.Prefix + o.Key
		o.hash = s.hash(o.full)
		o.entry, o.was = nil, 0
	}
	slices.SortFunc(ops, func(a, b Op) int { return int(a.hash>>(64-shardBits)) - int(b.hash>>(64-shardBits)) })
	var held *shard
	for i := range ops {
		if sh := s.shard(ops[i].hash); sh != held {
			sh.mu.Lock()
			defer sh.mu.Unlock()
			held = sh
		}
	}
	return s.commitLocked(ops)
}

// commitLocked needs the mutexes of all shards of ops. The lock bits of all live
// entries are set before the first change, and freed after the last, so that nobody
// sees a part of the commit.
func (s *Store) commitLocked(ops []Op) (c Code) {
	for i := range ops {
		if ops[i].Scope.Closed() || slices.ContainsFunc(ops[i].By, (*Scope).Closed) {
			return Closed
		}
	}
	for i := range ops {
		o := &ops[i]
		if o.entry = s.shard(o.hash).table.Load().find(uint32(o.hash), o.full); o.entry != nil {
			o.word = o.entry.lock()
			o.was = o.entry.version(o.word)
		}
	}
	defer func() {
		for i := range ops {
			if o := &ops[i]; o.entry != nil {
				o.entry.word.Store(o.word)
			}
		}
	}()
	now := s.now()
	for i := range ops {
		if o := &ops[i]; o.entry != nil && o.entry.dueAt(now) {
			s.dropLocked(s.shard(o.hash), o.entry, o.word)
			o.entry, o.was = nil, 0
		}
	}
	for i := range ops {
		if o := &ops[i]; o.Cond.Must && o.Cond.Was != o.was {
			return Conflict
		}
	}
	for i := range ops {
		if o := &ops[i]; o.Kind == Write && o.entry == nil && !utf8.ValidString(o.full) {
			return NotText
		}
	}
	if !s.chargeAllLocked(ops) {
		return Full
	}
	for i := range ops {
		switch o := &ops[i]; o.Kind {
		case Write:
			s.applyWriteLocked(o)
		case Remove:
			if o.entry != nil {
				s.unlinkLocked(s.shard(o.hash), o.entry, o.word)
				o.word |= dead
			}
		}
	}
	return OK
}

func (s *Store) applyWriteLocked(o *Op) {
	sh, e := s.shard(o.hash), o.entry
	version := max(o.was+1, o.Least)
	if e == nil {
		version = max(sh.floor+1, o.Least)
		e = &entry{key: o.full, hash: uint32(o.hash)}
		e.word.Store(locked)
	}
	s.writeLocked(sh, e, o.Value, o.Life)
	o.word = e.stampLocked(o.word, version) | s.publishLocked(sh, o.full, o.Value, version)
	if o.entry == nil {
		sh.insertLocked(e)
		o.entry = e
	}
}

// charge is what a commit adds to an account, and the tightest bounds that its writers
// set there.
type charge struct{ keys, bytes, maxKeys, maxBytes int64 }

// chargeAllLocked counts the net change of all ops, or nothing: what a commit removes
// makes room for what it writes.
func (s *Store) chargeAllLocked(ops []Op) bool {
	net := make(map[*account]charge)
	for i := range ops {
		o := &ops[i]
		var keys, bytes int64
		switch {
		case o.Kind == Write && o.entry == nil:
			keys, bytes = 1, o.Value.Box.cost(o.full)
		case o.Kind == Write:
			bytes = o.Value.Box.Size - o.entry.box.Load().Size
		case o.Kind == Remove && o.entry != nil:
			keys, bytes = -1, -o.entry.box.Load().cost(o.full)
		default:
			continue
		}
		sum := func(a *account) {
			n, ok := net[a]
			if !ok {
				n.maxKeys, n.maxBytes = noLimit, noLimit
			}
			n.keys, n.bytes = n.keys+keys, n.bytes+bytes
			net[a] = n
		}
		// These count the key; the accounts of open scopes are among them.
		sum(s.root.account)
		for a := range s.prefixes.of(o.full) {
			sum(a)
		}
		bound := func(sc *Scope) {
			maxKeys, maxBytes := sc.limits(keys, bytes)
			n := net[sc.account]
			n.maxKeys, n.maxBytes = min(n.maxKeys, maxKeys), min(n.maxBytes, maxBytes)
			net[sc.account] = n
		}
		if len(o.By) == 0 {
			for l := o.Scope; l != nil; l = l.parent {
				bound(l)
			}
		}
		for _, l := range o.By {
			for ; l != nil; l = l.parent {
				bound(l)
			}
		}
	}
	var taken []*account
	for a, n := range net {
		if !a.tryAdd(n.keys, n.bytes, n.maxKeys, n.maxBytes) {
			for _, a := range taken {
				a.add(-net[a].keys, -net[a].bytes)
			}
			return false
		}
		taken = append(taken, a)
	}
	return true
}

// Replace makes list the whole content of sc, at one instant, or changes nothing. Each
// value keeps its version if that is above all earlier ones of its key, and a key that
// is created later starts above highest.
func (s *Store) Replace(sc *Scope, list []Entry, highest uint64) Code {
	s.lockAll()
	defer s.unlockAll()
	if sc.Closed() {
		return Closed
	}
	for i := range s.shards {
		s.sweepLocked(&s.shards[i], math.MaxInt)
	}
	ops := make([]Op, 0, len(list))
	kept := make(map[string]bool, len(list))
	for _, n := range list {
		o := Op{Scope: sc, Key: n.Key, Kind: Write, Value: n.Value, Life: Endless, Least: n.Version}
		if n.Left > 0 {
			o.Life = Life(n.Left)
		}
		o.full = sc.Prefix + n.Key
		o.hash = s.hash(o.full)
		ops = append(ops, o)
		kept[o.full] = true
	}
	for i := range s.shards {
		for _, e := range s.shards[i].matchLocked(sc.Prefix) {
			if !kept[e.key] {
				ops = append(ops, Op{Scope: sc, Key: e.key[len(sc.Prefix):], Kind: Remove, full: e.key, hash: s.hash(e.key)})
			}
		}
	}
	c := s.commitLocked(ops)
	if c == OK {
		for i := range s.shards {
			s.shards[i].floor = max(s.shards[i].floor, highest)
		}
	}
	return c
}
