package sluice_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sections are the parts of a changelog: what stands under "## Unreleased" and "## v0.1.0 (date)".
func sections(text string) (names []string, of map[string]string) {
	of = map[string]string{}
	for i, part := range strings.Split("\n"+text, "\n## ") {
		head, body, _ := strings.Cut(part, "\n")
		if name, _, _ := strings.Cut(head, " "); i > 0 {
			names = append(names, name)
			of[name] = body
		}
	}
	return names, of
}

// gone is what an API does not have any more: the names, as a changelog speaks of them, of lines that
// differ, with the type that has them, and the package unless it is the root.
func gone(was, is string) (names []string) {
	there := map[string]bool{}
	pkg := ""
	for line := range strings.Lines(is) {
		pkg = packageOf(line, pkg)
		there[pkg+line] = true
	}
	name := regexp.MustCompile(`^(?:const|var|type|field|func(?: \((?:\w+ )?\*?(\w+)(?:\[[^)]*)?\))?) ([\w.]+)`)
	for line := range strings.Lines(was) {
		pkg = packageOf(line, pkg)
		if m := name.FindStringSubmatch(line); m != nil && !there[pkg+line] {
			n := m[2]
			if m[1] != "" {
				n = m[1] + "." + n
			}
			n = pkg + n
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	return names
}

// packageOf is the package that lines from this one on are of, as names of it begin: those of the root plainly.
func packageOf(line, before string) string {
	if name, ok := strings.CutPrefix(line, "package "); ok {
		return strings.TrimPrefix(strings.TrimSpace(name)+".", "sluice.")
	}
	return before
}

// Each released version has the API that it was released with, and the changelog says what is gone
// of the newest since. See .github/CONTRIBUTING.md.
func TestReleases(t *testing.T) {
	text, err := os.ReadFile("CHANGELOG.md")
	require.NoError(t, err)
	names, of := sections(string(text))
	require.NotEmpty(t, names)
	require.Equal(t, "Unreleased", names[0], "the first section of CHANGELOG.md")
	var released []string
	for _, n := range names[1:] {
		assert.Regexp(t, `^v\d+\.\d+\.\d+$`, n, "a section of CHANGELOG.md")
		released = append(released, filepath.Join("testdata", "api-"+n+".txt"))
	}
	kept, err := filepath.Glob(filepath.Join("testdata", "api-*.txt"))
	require.NoError(t, err)
	assert.ElementsMatch(t, released, kept, "make release-api VERSION=... keeps the API of a version in CHANGELOG.md")
	if len(released) == 0 {
		return // nobody relies on anything yet
	}
	was, err := os.ReadFile(released[0])
	require.NoError(t, err)
	is, err := os.ReadFile(filepath.Join("testdata", "api.txt"))
	require.NoError(t, err)
	for _, n := range gone(string(was), string(is)) {
		assert.Contains(t, of["Unreleased"], "`"+n+"`", "%s has changed or is gone since %s: CHANGELOG.md must say so under Unreleased", n, names[1])
	}
}

// What is gone of an API is known by its names, whatever kind it is of.
func TestWhatIsGoneOfAnAPI(t *testing.T) {
	const was = `package sluice
const A
field Config.Max int
func (e *Executor) Close(ctx context.Context) error
func (k Key[T]) Get(ctx context.Context) (T, error)
func (Scope) String() string
func New(c Config) *Executor
type T struct
var ErrX
`
	assert.Empty(t, gone(was, was))
	assert.Empty(t, gone(was, was+"func More()\n"))
	assert.Equal(t, []string{"A", "Config.Max", "Executor.Close", "Key.Get", "Scope.String", "New", "T", "ErrX"}, gone(was, "package sluice\n"))
	assert.Equal(t, []string{"Config.Max"}, gone(was, strings.Replace(was, "Max int", "Max int64", 1)))
	assert.Equal(t, []string{"agent.A"}, gone("package sluice\nconst A\npackage agent\nconst A\n", "package sluice\nconst A\npackage agent\n"))
	names, of := sections("# Changelog\n\nText.\n\n## Unreleased\n\n- a\n\n## v0.2.0 (2027-01-01)\n\n- b\n### c\n")
	assert.Equal(t, []string{"Unreleased", "v0.2.0"}, names)
	assert.Equal(t, map[string]string{"Unreleased": "\n- a\n", "v0.2.0": "\n- b\n### c\n"}, of)
}
