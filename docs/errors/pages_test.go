package errors_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// codes are the words that sluice.CodeOf may answer with by itself, as its comment lists them.
func codes(t *testing.T) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../../errors.go", nil, parser.ParseComments)
	require.NoError(t, err)
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "CodeOf" {
			_, list, _ := strings.Cut(strings.ReplaceAll(fn.Doc.Text(), "\n", " "), "label: ")
			list, _, _ = strings.Cut(list, " for all else")
			return regexp.MustCompile(`[a-z]+(_[a-z]+)*`).FindAllString(strings.ReplaceAll(list, ", or ", ", "), -1)
		}
	}
	require.Fail(t, "there is no CodeOf")
	return nil
}

// sources are the examples by the code that they are named after, as "rateLimited": what they do, and what they print.
func sources(t *testing.T) map[string][2]string {
	t.Helper()
	list := map[string][2]string{}
	paths, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	for _, path := range paths {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		require.NoError(t, err)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, e := range doc.Examples(f) {
			body := e.Code.(*ast.BlockStmt)
			code := string(text[fset.Position(body.Lbrace).Offset+1 : fset.Position(body.Rbrace).Offset])
			code, _, _ = strings.Cut(code, "// Output:")
			list[strings.TrimPrefix(e.Name, "_")] = [2]string{strings.ReplaceAll(code, "\n\t", "\n"), e.Output}
		}
	}
	return list
}

// Each code has a page with its causes and its fix, whose program is an Example that ends with that code; and there is
// no page of a code that there is not.
func TestEveryCodeHasAPage(t *testing.T) {
	all, run := codes(t), sources(t)
	require.Len(t, all, 15)
	index, err := os.ReadFile("README.md")
	require.NoError(t, err)
	want := []string{"README.md"}
	for _, code := range all {
		page, err := os.ReadFile(code + ".md")
		require.NoError(t, err)
		want = append(want, code+".md")
		words := strings.Split(code, "_")
		for i := range words[1:] {
			words[i+1] = strings.ToUpper(words[i+1][:1]) + words[i+1][1:]
		}
		example, ok := run[strings.Join(words, "")]
		require.True(t, ok, "there is no Example of %s", code)
		require.True(t, strings.HasPrefix(example[1], code+"\n"), "the Example of %s ends with %q", code, example[1])
		require.Contains(t, string(index), "["+code+"]("+code+".md)")
		require.True(t, strings.HasPrefix(string(page), "# "+code+"\n"), code)
		require.Regexp(t, `(?s)\n## Cause\n.*\n## Fix\n.*\n## For example\n`, string(page))
		_, shown, _ := strings.Cut(string(page), "\n```go\n")
		require.Equal(t, strings.TrimSpace(example[0])+"\n```\n\n```text\n"+example[1]+"```\n", strings.TrimSuffix(shown, "\n[All codes](README.md)\n"), code)
	}
	pages, err := filepath.Glob("*.md")
	require.NoError(t, err)
	slices.Sort(want)
	require.Equal(t, want, pages)
}
