package kv

// Ways through a scope, in no transaction.

func (s *Store) Get(sc *Scope, key string) (Value, uint64) {
	v, version, _ := s.outside(sc).Get(key)
	return v, version
}

func (s *Store) Put(sc *Scope, key string, cond Cond, v Value, life Life) (uint64, Code) {
	version, err := s.outside(sc).Put(key, cond, v, life)
	return version, codeOf(err)
}

func (s *Store) Add(sc *Scope, key string, box *Box, delta uint64, life Life) (sum, version uint64, c Code) {
	sum, version, err := s.outside(sc).Add(key, Value{box, delta}, life)
	return sum, version, codeOf(err)
}

func codeOf(err error) Code {
	c, _ := err.(Code)
	return c
}
