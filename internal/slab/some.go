package slab

// Some is where one goroutine takes values from that are allocated some at a time. The zero value is
// ready.
type Some[T any] struct {
	list []T
	left uint8 // of those
}

// Take is a new value. If none is left, so many are made, but one the first time: who has taken one
// often takes no other. n is less than 256.
func (s *Some[T]) Take(n int) *T {
	if s.left == 0 {
		if s.list == nil {
			n = 1
		}
		s.list, s.left = make([]T, n), uint8(n)
	}
	s.left--
	return s.Last()
}

// Last is the value that Take has answered last.
func (s *Some[T]) Last() *T { return &s.list[s.left] }
