package sluice_test

import (
	"bufio"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/sluice-go/sluice"

// imports lists what the files under dir that are not in a nested module import, by
// directory, with and without tests.
func imports(t *testing.T) map[string]map[string]bool {
	t.Helper()
	out := map[string]map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != "." {
				if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil || strings.HasPrefix(d.Name(), ".") {
					return filepath.SkipDir
				}
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if strings.HasSuffix(path, "_test.go") {
			dir += " (tests)"
		}
		if out[dir] == nil {
			out[dir] = map[string]bool{}
		}
		for _, i := range f.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			out[dir][p] = true
		}
		return nil
	})
	require.NoError(t, err)
	return out
}

// TestDependencyDirections holds that dependencies point one way: examples and packages
// beside the root, then the root, then mechanism, then the standard library.
func TestDependencyDirections(t *testing.T) {
	inside := func(p string) (string, bool) {
		if p == module {
			return ".", true
		}
		return strings.CutPrefix(p, module+"/")
	}
	std := func(p string) bool { return !strings.Contains(strings.SplitN(p, "/", 2)[0], ".") }
	for dir, list := range imports(t) {
		code, tests := strings.CutSuffix(dir, " (tests)")
		for p := range list {
			in, ours := inside(p)
			switch {
			case std(p):
			case p == "golang.org/x/time/rate", strings.HasPrefix(p, "golang.org/x/sync/"):
				assert.False(t, strings.HasPrefix(code, "internal/") && !tests,
					"%s imports %s: machines are pure, a foreign limiter is adapted in the root", dir, p)
			case strings.HasPrefix(p, "github.com/stretchr/testify/"):
				assert.True(t, tests, "%s imports %s: testify never reaches a build that is not a test", dir, p)
			case !ours:
				t.Errorf("%s imports %s: whatever is heavier than x/sync and x/time is a nested module", dir, p)
			case tests:
			case strings.HasPrefix(code, "internal/") && !strings.HasPrefix(in, "internal/"):
				t.Errorf("%s imports %s: a machine must not know the contract built on it", dir, p)
			case code == "." && !strings.HasPrefix(in, "internal/"):
				t.Errorf("%s imports %s: what stands beside the root builds on it, not the other way", dir, p)
			case strings.HasPrefix(in, "examples"):
				t.Errorf("%s imports %s: examples are read, not used", dir, p)
			case strings.HasPrefix(code, "examples/") && strings.HasPrefix(in, "internal/"):
				t.Errorf("%s imports %s: an example shows what a user can do", dir, p)
			}
		}
	}
}

// TestFilesAreShort holds that whoever opens a file can read it: at most 650 lines.
func TestFilesAreShort(t *testing.T) {
	const most = 650
	n := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		assert.LessOrEqual(t, strings.Count(string(text), "\n"), most, "lines of %s", path)
		return nil
	})
	require.NoError(t, err)
	assert.Greater(t, n, 100, "files were read")
}

// TestMachinesReadNoClock holds that the pure machines are told the time.
func TestMachinesReadNoClock(t *testing.T) {
	for _, dir := range []string{"internal/admit", "internal/bucket", "internal/breaker"} {
		files, err := filepath.Glob(dir + "/*.go")
		require.NoError(t, err, "no files in %s", dir)
		require.NotEmpty(t, files, "no files in %s", dir)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := os.Open(name)
			require.NoError(t, err)
			for s, n := bufio.NewScanner(f), 1; s.Scan(); n++ {
				for _, call := range []string{"time.Now(", "time.Since(", "time.Sleep(", "time.After", "sync.", "go func"} {
					if strings.Contains(s.Text(), call) {
						t.Errorf("%s:%d uses %s: a machine is single-threaded and told the time", name, n, call)
					}
				}
			}
			f.Close()
		}
	}
}

// TestAtomic64BitsAreAligned holds that 64-bit words which are changed atomically have the
// types of sync/atomic: a plain field may be misaligned where a pointer has 32 bits, and then
// the process ends.
func TestAtomic64BitsAreAligned(t *testing.T) {
	plain := regexp.MustCompile(`\batomic\.(Add|Load|Store|Swap|CompareAndSwap|And|Or)(Int|Uint)64\(`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for n, line := range strings.Split(string(text), "\n") {
			if plain.MatchString(line) {
				t.Errorf("%s:%d: %s: use atomic.Int64 or atomic.Uint64", path, n+1, strings.TrimSpace(line))
			}
		}
		return nil
	})
	require.NoError(t, err)
}
