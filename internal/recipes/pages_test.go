package recipes

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var fence = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// blocks are the pieces of Go code on a page, and those of what a model reads.
func blocks(t *testing.T, page string) (code, texts []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page + ".md")
	require.NoError(t, err)
	for _, block := range fence.FindAllStringSubmatch(string(text), -1) {
		switch block[1] {
		case "go":
			code = append(code, lines(block[2]))
		case "json":
			texts = append(texts, block[2])
		default:
			require.Fail(t, "a block of "+block[1])
		}
	}
	return code, texts
}

// unindented is a source file, whose lines begin with what they say.
func unindented(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return lines(string(text))
}

func lines(s string) string {
	all := strings.Split(s, "\n")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return strings.Join(all, "\n")
}
