package sluice_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestReadmeProgramCompiles holds that the README's first program stands, as it is, in the
// compiled and run Example.
func TestReadmeProgramCompiles(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("example_readme_test.go")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(readme), "```go\n")
	program, _, ok2 := strings.Cut(rest, "```")
	require.True(t, ok && ok2, "README.md has no Go program")
	_, example, ok := strings.Cut(string(source), "\nfunc Example() {\n")
	require.True(t, ok, "there is no Example")
	assert.Contains(t, unindented(example), unindented(program))
}

// unindented is a text without its indentation and its empty lines.
func unindented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// TestReadmePromisesAreTested holds the README's table of promises to the tests that there
// are: each promise has a row and tests by the name which the row says, and no test is of a
// promise that the table does not make.
func TestReadmePromisesAreTested(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	made := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (\\d+) \\| .* \\| `(TestPromise\\d\\d_)` \\|$").FindAllStringSubmatch(string(readme), -1) {
		n, _ := strconv.Atoi(row[1])
		assert.Equal(t, fmt.Sprintf("TestPromise%02d_", n), row[2], "the tests of promise %d", n)
		made[row[2]] = true
	}
	assert.Len(t, made, 22, "promises in the README")
	tested := map[string]bool{}
	name := regexp.MustCompile(`^TestPromise\d+_`)
	eachFile(t, ".", func(path string, _ *token.FileSet, f *ast.File) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && name.MatchString(fn.Name.Name) {
				tested[name.FindString(fn.Name.Name)] = true
				assert.True(t, strings.HasSuffix(path, "_test.go"), "%s is not run", fn.Name.Name)
			}
		}
	})
	assert.Equal(t, slices.Sorted(maps.Keys(made)), slices.Sorted(maps.Keys(tested)))
}
