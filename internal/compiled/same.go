package compiled

import "unsafe"

// Same reports whether a and b are one function, the same code over the same variables, so that calling the one is
// calling the other: what an interceptor has made of a chain may be that chain. Package reflect tells the code of a
// function alone, which closures share.
func Same[A, B, X, Y any](a, b func(A, B) (X, Y)) bool {
	// A function is a pointer to its code and its variables.
	return *(*unsafe.Pointer)(unsafe.Pointer(&a)) == *(*unsafe.Pointer)(unsafe.Pointer(&b))
}
