package agent_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The code that docs/conflicts.md shows is code that Examples run.
func TestConflictsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/conflicts.md")
	require.NoError(t, err)
	var code strings.Builder
	for _, f := range []string{"example_resources_test.go", "../diff/example_test.go"} {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		code.Write(text)
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, 6)
	for _, b := range blocks {
		require.Contains(t, code.String(), b[1])
	}
}
