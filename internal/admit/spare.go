package admit

// keep is how many spare objects of each kind a machine keeps for the next calls.
const keep = 512

// spare is objects that are not in use.
type spare[T any] struct{ list []*T }

func (s *spare[T]) get() *T {
	n := len(s.list)
	if n == 0 {
		return new(T)
	}
	v := s.list[n-1]
	s.list = s.list[:n-1]
	return v
}

func (s *spare[T]) put(v *T) {
	if len(s.list) < keep {
		s.list = append(s.list, v)
	}
}
