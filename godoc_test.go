package sluice_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// publicDirs are the packages that others import.
func publicDirs(t *testing.T) []string {
	t.Helper()
	dirs := []string{"."}
	for dir := range imports(t) {
		dir = strings.TrimSuffix(dir, " (tests)")
		top, _, _ := strings.Cut(dir, "/")
		if dir != "." && top != "internal" && top != "examples" && top != "docs" && !strings.HasPrefix(dir, "cmd") && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	contrib, err := filepath.Glob("contrib/*/go.mod")
	require.NoError(t, err)
	for _, mod := range contrib {
		dirs = append(dirs, filepath.ToSlash(filepath.Dir(mod)))
	}
	slices.Sort(dirs)
	require.Greater(t, len(dirs), 20)
	return dirs
}

// documented is a package with its comments and its Examples.
func documented(t *testing.T, dir string) *doc.Package {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		if e.Type()&fs.ModeType == 0 && strings.HasSuffix(e.Name(), ".go") {
			f, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, parser.ParseComments)
			require.NoError(t, err)
			files = append(files, f)
		}
	}
	p, err := doc.NewFromFiles(fset, files, module+"/"+dir)
	require.NoError(t, err)
	return p
}

// TestEveryTypeSaysWhatItIs holds that the first sentence of each exported type's comment begins with its name, and
// says in at most 25 words what one gets.
func TestEveryTypeSaysWhatItIs(t *testing.T) {
	const most = 25
	for _, dir := range publicDirs(t) {
		p := documented(t, dir)
		for _, x := range p.Types {
			first := p.Synopsis(x.Doc)
			assert.True(t, strings.HasPrefix(first, x.Name+" "), "%s: %s must begin with its name: %q", dir, x.Name, first)
			assert.LessOrEqual(t, len(strings.Fields(first)), most, "%s: words of %q", dir, first)
		}
	}
}

// TestEveryConstructorHasAnExample holds that each function which makes a value of an exported type, as each interceptor
// is made, has an Example whose output is compared, or is used in one of that type. Modules of contrib need servers and
// frameworks for theirs; docs/frameworks.md is held to them.
func TestEveryConstructorHasAnExample(t *testing.T) {
	compared := func(e *doc.Example) bool { return e.Output != "" || e.EmptyOutput }
	for _, dir := range publicDirs(t) {
		if strings.HasPrefix(dir, "contrib/") {
			continue
		}
		p := documented(t, dir)
		for _, x := range p.Types {
			shown := slices.Clone(x.Examples)
			for _, m := range x.Methods {
				shown = append(shown, m.Examples...)
			}
			for _, f := range x.Funcs {
				assert.True(t, slices.ContainsFunc(f.Examples, compared) || slices.ContainsFunc(shown, func(e *doc.Example) bool {
					return compared(e) && calls(e.Code, p.Name, f.Name)
				}), "%s: no Example of %s, nor one of %s that uses it, has an output", dir, f.Name, x.Name)
			}
		}
		for _, f := range p.Funcs {
			if strings.HasPrefix(f.Name, "New") {
				assert.True(t, slices.ContainsFunc(f.Examples, compared), "%s: no Example of %s has an output", dir, f.Name)
			}
		}
	}
}

// calls reports whether code names something of a package.
func calls(code ast.Node, pkg, name string) (found bool) {
	ast.Inspect(code, func(n ast.Node) bool {
		if got, ok := uses(n, pkg); ok && got == name {
			found = true
		}
		return !found
	})
	return found
}
