package sluice_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestReadmeProgramCompiles holds that the README's first program is the compiled Example.
func TestReadmeProgramCompiles(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("example_readme_test.go")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(readme), "```go\n")
	program, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("README.md has no Go program")
	}
	for n, line := range strings.Split(program, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(string(source), line) {
			t.Errorf("line %d of the README's program is not in the Example: %s", n+1, line)
		}
	}
}

// TestReadmePromisesAreTested holds that each promise has a row in the README and tests
// that name it.
func TestReadmePromisesAreTested(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	tests := map[string]int{}
	name := regexp.MustCompile(`(?m)^func (TestPromise\d\d_)\w+\(`)
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			tests[m[1]]++
		}
		return err
	})
	require.NoError(t, err)
	for n := 1; n <= 22; n++ {
		prefix := fmt.Sprintf("TestPromise%02d_", n)
		if !strings.Contains(string(readme), fmt.Sprintf("| %d | ", n)) || !strings.Contains(string(readme), "`"+prefix+"`") {
			t.Errorf("README.md has no row for promise %d", n)
		}
		assert.NotZero(t, tests[prefix], "no test named %s…", prefix)
	}
}
