package kv

// View is a way into a store: through a scope, and inside a transaction or not. The zero
// View leads nowhere. Copies of a View are the same way; any number of goroutines may use
// it at once. What concerns more than one key stands outside transactions, and is asked of
// the store itself.
type View struct {
	Store *Store
	Scope *Scope
	txn   *txn // nil outside
}

// Open reports whether v leads to a store, and neither that nor its scope was closed.
func (v *View) Open() bool { return v.Store != nil && !v.Scope.Closed() }

// Nest is a view of the part of v under prefix, with bounds of its own.
func (v *View) Nest(prefix string, maxKeys, maxBytes int) View {
	return View{v.Store, v.Store.Nest(v.Scope, prefix, maxKeys, maxBytes), v.txn}
}

// Close closes the scope of v, or the store if that is its root. Inside a transaction, or
// of a view that leads nowhere, it does nothing.
func (v *View) Close() {
	switch {
	case v.Store == nil || v.txn != nil:
	case v.Scope == v.Store.root:
		v.Store.Close()
	default:
		v.Store.CloseScope(v.Scope)
	}
}

// Get returns the value and the version of a key, version zero if it is absent.
func (v *View) Get(key string) (Value, uint64, Code) {
	if v.txn != nil {
		return v.txn.get(v.Scope, key)
	}
	value, version := v.Store.Get(v.Scope, key)
	return value, version, OK
}

// Put writes a value and returns its version.
func (v *View) Put(key string, cond Cond, value Value, life Life) (uint64, Code) {
	if v.txn != nil {
		return v.txn.put(v.Scope, key, cond, value, life)
	}
	return v.Store.Put(v.Scope, key, cond, value, life)
}

// Add adds delta to a number and returns the bits of the sum; an absent key counts as zero.
func (v *View) Add(key string, delta Value, life Life) (sum uint64, c Code) {
	if v.txn != nil {
		return v.txn.add(v.Scope, key, delta, life)
	}
	sum, _, c = v.Store.Add(v.Scope, key, delta.Box, delta.Bits, life)
	return sum, c
}

// Delete removes a key. Without a condition an absent key is fine.
func (v *View) Delete(key string, cond Cond) Code {
	if v.txn != nil {
		return v.txn.delete(v.Scope, key, cond)
	}
	return v.Store.Delete(v.Scope, key, cond)
}
