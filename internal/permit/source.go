package permit

// Source is where a result comes from: of how many bytes its JSON may be (31 bits, none is the default),
// which attempt of the last few it is of (8, from 1, none is zero), and the end of its call's key.
type Source uint64

const (
	oneAttempt = 1 << 31
	oneKey     = 1 << 39
	toldApart  = 255 // attempts
)

// SourceOf is that of what the attempt of that number gave, from 1, of the call of that key; of what no
// attempt gave it is zero.
func SourceOf(key uint64, attempt int32) Source {
	if attempt == 0 {
		return 0
	}
	return Source((attempt-1)%toldApart+1)*oneAttempt | Source(key)*oneKey
}

// MaxBytes is of how many bytes the JSON may be; zero if that is not said.
func (s Source) MaxBytes() int { return int(s % oneAttempt) }

// Attempt is the number of the attempt that s is of, if that is one of the call of that key, which has
// begun so many; else zero.
func (s Source) Attempt(key uint64, begun int32) int32 {
	n := int32(s % oneKey / oneAttempt)
	if n == 0 || s/oneKey != Source(key)*oneKey/oneKey {
		return 0
	}
	return begun - ((begun-n)%toldApart+toldApart)%toldApart
}
