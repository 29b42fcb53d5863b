package sluice_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// adapterRow is a row of docs/frameworks.md: what a user writes, and what the adapter takes for that.
type adapterRow struct {
	module    string // its folder
	framework string // path and version
	yours     int    // lines
	lines     int    // of the adapter's code, without comments and tests
	modules   int    // that it brings, without the root
	refusal   string // as the model reads it, but for how long it is to wait
	tests     []string
}

var code = regexp.MustCompile("`([^`]+)`")

// adapterRows reads the table of the page.
func adapterRows(t *testing.T, page string) (list []adapterRow) {
	t.Helper()
	_, table, ok := strings.Cut(page, "|---|---|--:|--:|--:|---|---|---|\n")
	require.True(t, ok, "docs/frameworks.md has no table of adapters")
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| ") {
			break
		}
		c := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		require.Len(t, c, 8, line)
		r := adapterRow{refusal: code.FindStringSubmatch(c[6])[1]}
		r.module = regexp.MustCompile(`\(\.\./([a-z/]+)\)`).FindStringSubmatch(c[0])[1]
		r.framework = strings.Trim(c[1], "` ")
		for i, n := range []*int{&r.yours, &r.lines, &r.modules} {
			_, err := fmt.Sscan(c[2+i], n)
			require.NoError(t, err, line)
		}
		for _, m := range code.FindAllStringSubmatch(c[7], -1) {
			r.tests = append(r.tests, m[1])
		}
		list = append(list, r)
	}
	return list
}

// codeLines is how many lines of code a folder has that are no tests.
func codeLines(t *testing.T, dir string) (n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			n += linesOf(readFile(t, f))
		}
	}
	return n
}

// linesOf is how many lines a text has that are neither empty nor comments.
func linesOf(text string) (n int) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			n++
		}
	}
	return n
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

// TestFrameworksPage holds docs/frameworks.md to the adapters. A row's line stands in an Example of its module, and so
// does what the model reads of a refusal, in the Example's output: that module's tests run them, and the tests that
// the row names.
func TestFrameworksPage(t *testing.T) {
	page, readme := readFile(t, "docs/frameworks.md"), readFile(t, "README.md")
	rows := adapterRows(t, page)
	require.Len(t, rows, 7)
	for _, r := range rows {
		t.Run(r.module, func(t *testing.T) {
			mod := readFile(t, filepath.Join(r.module, "go.mod"))
			assert.Contains(t, mod, "\t"+strings.Replace(r.framework, "@", " ", 1), "the framework's version")
			required := regexp.MustCompile(`(?m)^(?:require )?\s*([a-z0-9.-]+\.[a-z]+/\S+) v\S+(?: // indirect)?$`).FindAllStringSubmatch(mod, -1)
			assert.Equal(t, len(required)-1, r.modules, "modules")
			assert.LessOrEqual(t, r.yours, 3)
			all, tested := "", testsIn(t, r.module)
			tests, err := filepath.Glob(filepath.Join(r.module, "*_test.go"))
			require.NoError(t, err)
			for _, f := range tests {
				all += readFile(t, f)
			}
			_, section, ok := strings.Cut(page, "\n## "+filepath.Base(r.module)+"\n")
			require.True(t, ok, "no section")
			_, block, _ := strings.Cut(section, "```go\n")
			block, _, _ = strings.Cut(block, "```")
			lines := strings.Split(strings.TrimSpace(block), "\n")
			assert.Len(t, lines, r.yours, "your lines")
			for _, line := range lines {
				assert.Contains(t, unindented(all), strings.TrimSpace(line), "a line that no Example has")
			}
			assert.Contains(t, readme, "`"+strings.TrimSuffix(strings.TrimSpace(lines[0]), ",")+"`", "the README's table has it")
			assert.Contains(t, all, r.refusal, "a refusal that no Example shows")
			for _, name := range r.tests {
				assert.True(t, tested[name], "there is no %s", name)
			}
			if r.module == "internal/recipes" { // whose lines stand on a page of their own
				_, recipe, _ := strings.Cut(readFile(t, "docs/langchaingo.md"), "## The recipe\n\n```go\n")
				recipe, _, _ = strings.Cut(recipe, "```")
				assert.Equal(t, linesOf(recipe), r.lines, "lines of the recipe")
			} else {
				assert.Equal(t, codeLines(t, r.module), r.lines, "lines of the adapter")
			}
		})
	}
}
