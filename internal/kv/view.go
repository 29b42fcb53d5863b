package kv

// View is a way into a store: through a scope, and inside a transaction or not. The zero
// View leads nowhere. Copies of a View are the same way; any number of goroutines may use
// it at once. What concerns more than one key stands outside transactions, and is asked of
// the store itself.
type View struct {
	Store *Store
	Scope *Scope
	via   via // nil leads straight to the table
}

// via is what operations on one key go through in place of the table: a transaction, or the way to a [Far].
type via interface {
	get(sc *Scope, key string) (Value, uint64, error)
	put(sc *Scope, key string, cond Cond, v Value, life Life) (version uint64, err error)
	add(sc *Scope, key string, delta Value, life Life) (sum, version uint64, err error)
	delete(sc *Scope, key string, cond Cond) error
}

// inside is the transaction that v is inside of.
func (v *View) inside() *txn {
	t, _ := v.via.(*txn)
	return t
}

// outside is the way through sc that is in no transaction.
func (s *Store) outside(sc *Scope) *View { return &View{s, sc, s.way()} }

// Outside is v as it is in no transaction.
func (v *View) Outside() View { return *v.Store.outside(v.Scope) }

// Open reports whether v leads to a store, and neither that nor its scope was closed.
func (v *View) Open() bool { return v.Store != nil && !v.Scope.Closed() }

// Nest is a view of the part of v under prefix, with bounds of its own.
func (v *View) Nest(prefix string, maxKeys, maxBytes int) View {
	return View{v.Store, v.Store.Nest(v.Scope, prefix, maxKeys, maxBytes), v.via}
}

// Close closes the scope of v, or the store if that is its root. Inside a transaction, or
// of a view that leads nowhere, it does nothing.
func (v *View) Close() {
	switch {
	case v.Store == nil || v.inside() != nil:
	case v.Scope == v.Store.root:
		v.Store.Close()
		if v.Store.far != nil {
			v.Store.far.Close()
		}
	default:
		v.Store.CloseScope(v.Scope)
	}
}

// Get returns the value and the version of a key, version zero if it is absent.
func (v *View) Get(key string) (Value, uint64, error) {
	if v.via != nil {
		return v.via.get(v.Scope, key)
	}
	if e, _ := v.Store.find(v.Scope, key); e != nil {
		if value, version, ok := e.read(v.Store); ok {
			return value, version, nil
		}
	}
	return Value{}, 0, nil
}

// Put writes a value and returns its version.
func (v *View) Put(key string, cond Cond, value Value, life Life) (version uint64, err error) {
	if v.via != nil {
		return v.via.put(v.Scope, key, cond, value, life)
	}
	s := v.Store
	e, h := s.find(v.Scope, key)
	if e != nil && life <= 0 {
		if version, c, done := s.putFast(e, cond, value, life); done {
			return version, c.Err()
		}
	}
	version, c := s.putSlow(v.Scope, h, key, cond, value, life)
	if c == Full { // perhaps of what has expired
		s.reclaim()
		version, c = s.putSlow(v.Scope, h, key, cond, value, life)
	}
	return version, c.Err()
}

// Add adds delta to a number, which has the store's box for its type, and returns the bits of the sum
// and its version. An absent key counts as zero.
func (v *View) Add(key string, delta Value, life Life) (sum, version uint64, err error) {
	if v.via != nil {
		return v.via.add(v.Scope, key, delta, life)
	}
	s := v.Store
	e, h := s.find(v.Scope, key)
	if e != nil && life == Keep {
		if sum, version, c, done := s.addFast(e, delta.Box, delta.Bits); done {
			return sum, version, c.Err()
		}
	}
	sum, version, c := s.addSlow(v.Scope, h, key, delta.Box, delta.Bits, life)
	if c == Full { // perhaps of what has expired
		s.reclaim()
		sum, version, c = s.addSlow(v.Scope, h, key, delta.Box, delta.Bits, life)
	}
	return sum, version, c.Err()
}

// Delete removes a key. Without a condition an absent key is fine.
func (v *View) Delete(key string, cond Cond) error {
	if v.via != nil {
		return v.via.delete(v.Scope, key, cond)
	}
	return v.Store.Delete(v.Scope, key, cond).Err()
}
