// Package nameof says what a foreign value is called. It runs foreign code, the value's String,
// and trusts it with nothing: that may panic, call Goexit, answer too much or never return. It
// keeps nothing and locks nothing; who calls it holds no lock.
package nameof

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/jsonx"
)

const (
	maxWait = 100 * time.Millisecond // that a String may take
	maxName = 128                    // bytes of what it says
)

// Value is the name that x gives itself, if it is a fmt.Stringer and says it in time; else the
// bare name of its type. A String that never returns leaves its goroutine behind.
func Value(x any) string {
	t := bare(fmt.Sprintf("%T", x))
	s, ok := x.(fmt.Stringer)
	if !ok {
		return t
	}
	said := make(chan string, 1)
	go func() {
		name := t
		defer func() { // also if it calls Goexit
			_ = recover()
			said <- name
		}()
		name = s.String()
	}()
	late := time.NewTimer(maxWait)
	defer late.Stop()
	select {
	case name := <-said:
		return jsonx.Cut(name, maxName, "…")
	case <-late.C:
		return t
	}
}

// Func is the bare name of the function f.
func Func(f any) string { return bare(runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name()) }

// Chain is how a call goes through what has these names: outside of the gates, at those that limit it, inside
// of them, and to the tool.
func Chain(outer, gates, inner []string, tool string) string {
	parts := slices.Clone(outer)
	if len(gates) > 0 {
		parts = append(parts, "admit["+strings.Join(gates, " ")+"]")
	}
	return strings.Join(append(append(parts, inner...), tool), " → ")
}

// bare is a name without its package.
func bare(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }
