// Package docs_test holds the pages to the code. What stands on a page marked as go is code that tests run, and what is
// marked as text is what it prints: of an Example, or of one of the programs here, which wait and so run on a virtual clock.
package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// programs are those of the pages whose code waits. What they print stands there in blocks marked as text.
var programs = []struct {
	page string
	run  func()
}{
	{"limits", quotaOfAnAPI}, {"limits", bursts},
	{"priorities", peopleFirst}, {"priorities", starvation}, {"priorities", shares},
	{"nested", cycle}, {"nested", stranger}, {"nested", holding},
	{"throttled", throttled}, {"breaker", outage}, {"why-wait", whyWait}, {"production", shutdown},
	{"testing", faults}, {"concurrency", without}, {"concurrency", with},
}

// fence is a block of code: its language, and what stands in it.
var fence = regexp.MustCompile("(?ms)^[ \t]*```([a-z]*)\n(.*?)^[ \t]*```[ \t]*$")

// pages are the texts of the README and of the pages, by their path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	read := func(path string) {
		text, err := os.ReadFile(filepath.Join("..", path))
		require.NoError(t, err)
		out[filepath.ToSlash(path)] = string(text)
	}
	read("README.md")
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			read(filepath.Join("docs", path))
		}
		return err
	})
	require.NoError(t, err)
	return out
}

// tested are pages whose blocks marked as json are the business of tests beside the code: package agent's, and those of
// internal/recipes.
var tested = []string{"docs/anthropic.md", "docs/gemini.md", "docs/langchaingo.md", "docs/openai-chat.md", "docs/openai-responses.md"}

// TestBlocks holds that each block of a page is code that tests run, or what that prints, and that a page shows what its
// programs print.
func TestBlocks(t *testing.T) {
	got := map[string][]string{}
	for _, p := range programs {
		page := "docs/" + p.page + ".md"
		got[page] = append(got[page], printed(t, p.run))
	}
	s := readSources(t)
	n := 0
	for page, text := range pages(t) {
		var shown []string
		for _, b := range fence.FindAllStringSubmatch(text, -1) {
			where := fmt.Sprintf("%s has\n%s", page, b[0])
			switch n++; b[1] {
			case "go":
				if strings.HasPrefix(b[2], "package main\n") { // a whole program, which TestReadmeProgram of the root runs
					assert.Equal(t, "README.md", page, where)
					continue
				}
				assert.NoError(t, s.runs(lines(b[2])), where)
			case "text":
				shown = append(shown, b[2])
				assert.True(t, slices.Contains(got[page], b[2]) || s.prints(lines(b[2])), "%s\nwhich neither an Example nor a program of the page prints", where)
			case "json":
				assert.Contains(t, tested, page, where)
			case "": // a drawing, commands, or what others write
			default:
				assert.Fail(t, "a language that nobody checks", where)
			}
		}
		for _, want := range got[page] {
			assert.Contains(t, shown, want, "a program of %s prints what it does not show", page)
		}
	}
	require.Greater(t, n, 50, "blocks were read")
	for page := range got {
		assert.FileExists(t, filepath.Join("..", page))
	}
}

// printed is what f prints in a bubble.
func printed(t *testing.T, f func()) string {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer file.Close()
	stdout := os.Stdout
	os.Stdout = file
	defer func() { os.Stdout = stdout }()
	synctest.Test(t, func(*testing.T) { f() })
	text, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	return string(text)
}

// line is a line of code that has something in it, without its indentation.
type line struct {
	no   int
	text string
}

func lines(text string) (out []line) {
	for i, s := range strings.Split(text, "\n") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, line{i + 1, s})
		}
	}
	return out
}

// begins reports whether list begins with the block.
func begins(list, block []line) bool {
	return len(list) >= len(block) && slices.EqualFunc(list[:len(block)], block, func(a, b line) bool { return a.text == b.text })
}

// sources is the Go code of this repository, nested modules and tests included.
type sources struct {
	files   map[string][]line  // by path
	places  map[string][]place // of a line's text
	outputs [][]line           // of Examples
	reached map[string]map[string][]span
}

// place is a line of a file.
type place struct {
	path string
	at   int
}

// span is a declaration: the lines of it, and whether tests reach it.
type span struct {
	from, to int
	name     string
	runs     bool
}

var output = regexp.MustCompile(`(?mi)^\t// (?:Unordered )?output:(.*\n(?:\t//.*\n)*)\}`)

func readSources(t *testing.T) *sources {
	t.Helper()
	s := &sources{files: map[string][]line{}, places: map[string][]place{}, reached: map[string]map[string][]span{}}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != ".." && (d.Name()[0] == '.' || d.Name() == "testdata"):
			return filepath.SkipDir
		case filepath.Ext(path) != ".go":
			return nil
		}
		text, err := os.ReadFile(path)
		s.files[path] = lines(string(text))
		for i, l := range s.files[path] {
			s.places[l.text] = append(s.places[l.text], place{path, i})
		}
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range output.FindAllStringSubmatch(string(text), -1) {
				s.outputs = append(s.outputs, lines(regexp.MustCompile(`(?m)^\t// ?`).ReplaceAllString(m[1], "")))
			}
		}
		return err
	})
	require.NoError(t, err)
	require.Greater(t, len(s.outputs), 100, "Examples were read")
	return s
}

// prints reports whether an Example has the block as its output, or a part of it.
func (s *sources) prints(block []line) bool {
	return slices.ContainsFunc(s.outputs, func(o []line) bool {
		for i := range o {
			if begins(o[i:], block) {
				return true
			}
		}
		return false
	})
}

// runs says why no test runs the block, if so.
func (s *sources) runs(block []line) (err error) {
	if len(block) == 0 {
		return fmt.Errorf("an empty block")
	}
	err = fmt.Errorf("no file has it")
	for _, p := range s.places[block[0].text] {
		list := s.files[p.path][p.at:]
		if !begins(list, block) {
			continue
		}
		var out []string
		for _, d := range s.declarations(filepath.Dir(p.path))[p.path] {
			if d.from <= list[len(block)-1].no && list[0].no <= d.to && !d.runs {
				out = append(out, d.name)
			}
		}
		if len(out) == 0 {
			return nil
		}
		err = fmt.Errorf("%s has it, but no test reaches %v", p.path, out)
	}
	return err
}

// declarations are those of the files in dir. Tests reach what is an Example with output, a test or an example's
// main, and what these name, and so on. A method counts as named with its type.
func (s *sources) declarations(dir string) map[string][]span {
	if known, ok := s.reached[dir]; ok {
		return known
	}
	type decl struct {
		path  string
		span  span
		named []string
	}
	var all []*decl
	byName := map[string][]*decl{}
	fset := token.NewFileSet()
	var next []*decl
	for path := range s.files {
		if filepath.Dir(path) != dir {
			continue
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			continue // whoever compiles it will say so
		}
		for _, d := range f.Decls {
			x := &decl{path: path, span: span{from: fset.Position(d.Pos()).Line, to: fset.Position(d.End()).Line}}
			ast.Inspect(d, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					x.named = append(x.named, id.Name)
				}
				return true
			})
			var names []string
			switch d := d.(type) {
			case *ast.FuncDecl:
				x.span.name = d.Name.Name
				if names = []string{d.Name.Name}; d.Recv != nil {
					names = nil
					ast.Inspect(d.Recv.List[0].Type, func(n ast.Node) bool {
						if id, ok := n.(*ast.Ident); ok && names == nil {
							names = []string{id.Name}
						}
						return true
					})
				} else if isRoot(d, f) {
					next = append(next, x)
				}
			case *ast.GenDecl:
				if d.Tok == token.IMPORT {
					x.span.runs = true
					break
				}
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						names = append(names, spec.Name.Name)
					case *ast.ValueSpec:
						for _, id := range spec.Names {
							names = append(names, id.Name)
						}
					}
				}
				x.span.name = strings.Join(names, ", ")
			}
			for _, name := range names {
				byName[name] = append(byName[name], x)
			}
			all = append(all, x)
		}
	}
	for len(next) > 0 {
		x := next[0]
		if next = next[1:]; x.span.runs {
			continue
		}
		x.span.runs = true
		for _, name := range x.named {
			next = append(next, byName[name]...)
		}
	}
	out := map[string][]span{}
	for _, x := range all {
		out[x.path] = append(out[x.path], x.span)
	}
	s.reached[dir] = out
	return out
}

// isRoot reports whether d runs in tests without being named: see TestExamples for main.
func isRoot(d *ast.FuncDecl, f *ast.File) bool {
	for _, prefix := range []string{"Test", "Fuzz", "Benchmark"} {
		if strings.HasPrefix(d.Name.Name, prefix) {
			return true
		}
	}
	if strings.HasPrefix(d.Name.Name, "Example") {
		for _, c := range f.Comments {
			text := strings.ToLower(c.Text())
			if d.Body.Pos() < c.Pos() && c.End() < d.Body.End() && (strings.HasPrefix(text, "output:") || strings.HasPrefix(text, "unordered output:")) {
				return true
			}
		}
		return false
	}
	return d.Name.Name == "init" || d.Name.Name == "main" && f.Name.Name == "main"
}

// TestExamples runs the programs of examples that have no test of their own. They end by themselves.
func TestExamples(t *testing.T) {
	own := []string{"agent", "demo", "fleet", "load"} // beside them, or in package office
	dirs, err := os.ReadDir(filepath.Join("..", "examples"))
	require.NoError(t, err)
	ran := 0
	for _, d := range dirs {
		if !d.IsDir() || slices.Contains(own, d.Name()) {
			continue
		}
		cmd := exec.CommandContext(t.Context(), "go", "run", "./examples/"+d.Name())
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", d.Name(), out)
		require.NotEmpty(t, out, d.Name())
		ran++
	}
	require.GreaterOrEqual(t, ran, 6)
}
