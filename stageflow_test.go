package sluice_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testsIn is the tests and examples of a folder.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	list := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files, dir)
	for _, f := range files {
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Example)\w*)\(`).FindAllStringSubmatch(readFile(t, f), -1) {
			list[m[1]] = true
		}
	}
	return list
}

// TestStageflowPage holds that each test which docs/stageflow.md names is there, and that each row names some.
func TestStageflowPage(t *testing.T) {
	_, table, ok := strings.Cut(readFile(t, "docs/stageflow.md"), "|---|---|---|---|\n")
	require.True(t, ok, "docs/stageflow.md has no table")
	rows := 0
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| ") {
			break
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		require.Len(t, cells, 4, line)
		named := 0
		for part := range strings.SplitSeq(cells[3], ";") {
			names := code.FindAllStringSubmatch(part, -1)
			require.Greater(t, len(names), 1, "%q: a folder, and tests in it", part)
			tests := testsIn(t, names[0][1])
			for _, n := range names[1:] {
				assert.True(t, tests[n[1]], "%s: there is no %s", names[0][1], n[1])
				named++
			}
		}
		assert.Positive(t, named, line)
		rows++
	}
	assert.Equal(t, 19, rows)
}
