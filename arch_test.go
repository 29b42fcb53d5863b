package sluice_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/sluice-go/sluice"

// imports lists what the files under dir that are not in a nested module import, by
// directory, with and without tests.
func imports(t *testing.T) map[string]map[string]bool {
	t.Helper()
	out := map[string]map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != "." {
				if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil || strings.HasPrefix(d.Name(), ".") {
					return filepath.SkipDir
				}
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if strings.HasSuffix(path, "_test.go") {
			dir += " (tests)"
		}
		if out[dir] == nil {
			out[dir] = map[string]bool{}
		}
		for _, i := range f.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			out[dir][p] = true
		}
		return nil
	})
	require.NoError(t, err)
	return out
}

// TestDependencyDirections holds that dependencies point one way: examples and packages
// beside the root, then the root, then mechanism, then the standard library.
func TestDependencyDirections(t *testing.T) {
	inside := func(p string) (string, bool) {
		if p == module {
			return ".", true
		}
		return strings.CutPrefix(p, module+"/")
	}
	std := func(p string) bool { return !strings.Contains(strings.SplitN(p, "/", 2)[0], ".") }
	for dir, list := range imports(t) {
		code, tests := strings.CutSuffix(dir, " (tests)")
		for p := range list {
			in, ours := inside(p)
			switch {
			case std(p):
			case in == "internal/promises":
				t.Errorf("%s imports %s: it holds tests, and nothing to use", dir, p)
			case code == "internal/promises" && strings.HasPrefix(in, "internal/"):
				t.Errorf("%s imports %s: promises are tested by what a user can do", dir, p)
			case code == "internal/promises" && tests:
			case p == "golang.org/x/time/rate", strings.HasPrefix(p, "golang.org/x/sync/"):
				assert.False(t, strings.HasPrefix(code, "internal/") && !tests,
					"%s imports %s: machines are pure, a foreign limiter is adapted in the root", dir, p)
			case strings.HasPrefix(p, "github.com/stretchr/testify/"):
				assert.True(t, tests, "%s imports %s: testify never reaches a build that is not a test", dir, p)
			case !ours:
				t.Errorf("%s imports %s: whatever is heavier than x/sync and x/time is a nested module", dir, p)
			case tests:
			case (code == "." || code == "internal/fleet" || code == "internal/remote") && in == "engine": // a leaf, which knows nothing of either
			case strings.HasPrefix(code, "internal/") && !strings.HasPrefix(in, "internal/"):
				t.Errorf("%s imports %s: a machine must not know the contract built on it", dir, p)
			case code == "agent" && (in == "internal/jsonx" || in == "internal/rawjson"): // text, of which anybody may have the like
			case (code == "resilience" || code == "agent" || code == "sluicehttp") && in != ".":
				t.Errorf("%s imports %s: what goes around calls, and makes them, is written as a user's own can be", dir, p)
			case code == "." && !strings.HasPrefix(in, "internal/"):
				t.Errorf("%s imports %s: what stands beside the root builds on it, not the other way", dir, p)
			case strings.HasPrefix(in, code+"/"): // what package main of an example starts
			case strings.HasPrefix(in, "examples"):
				t.Errorf("%s imports %s: examples are read, not used", dir, p)
			case strings.HasPrefix(code, "examples/") && strings.HasPrefix(in, "internal/"):
				t.Errorf("%s imports %s: an example shows what a user can do", dir, p)
			}
		}
	}
}

// TestFilesAreShort holds that whoever opens a file can read it: at most 650 lines.
func TestFilesAreShort(t *testing.T) {
	const most = 650
	n := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		assert.LessOrEqual(t, strings.Count(string(text), "\n"), most, "lines of %s", path)
		return nil
	})
	require.NoError(t, err)
	assert.Greater(t, n, 100, "files were read")
}

// The root is contract and policy: few files, and few lines.
func TestRootIsSmall(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	lines, n := 0, 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		lines += strings.Count(string(text), "\n")
		n++
	}
	assert.LessOrEqual(t, n, 17, "files")
	assert.LessOrEqual(t, lines, 7500, "lines")
}

// The module requires what its users can bear, and nothing else.
func TestModuleRequires(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	var direct []string
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:require )?(\S+\.\S+/\S+) v\S+( // indirect)?$`).FindAllStringSubmatch(string(text), -1) {
		if m[2] == "" {
			direct = append(direct, m[1])
		}
	}
	assert.Equal(t, []string{"github.com/stretchr/testify", "golang.org/x/sync", "golang.org/x/time"}, direct)
}

// TestContribUsesThePublicAPI holds that nested modules which others can require build on what the root
// exports: their versions are not the root's.
func TestContribUsesThePublicAPI(t *testing.T) {
	eachFile(t, "contrib", func(path string, _ *token.FileSet, f *ast.File) {
		for _, i := range f.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			assert.False(t, strings.HasPrefix(p, module+"/internal/"), "%s imports %s", path, p)
		}
	})
}

// eachFile parses the Go files under dir, those of nested modules and of tests as well.
func eachFile(t *testing.T, dir string, do func(path string, fset *token.FileSet, f *ast.File)) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		n++
		do(path, fset, f)
		return nil
	})
	require.NoError(t, err)
	require.NotZero(t, n, "files under %s", dir)
}

// importedAs is the name by which f speaks of a package, or "" if it does not import it.
func importedAs(f *ast.File, pkg string) string {
	for _, i := range f.Imports {
		if p, _ := strconv.Unquote(i.Path.Value); p == pkg {
			if i.Name != nil {
				return i.Name.Name
			}
			return pkg[strings.LastIndex(pkg, "/")+1:]
		}
	}
	return ""
}

// uses reports what of a package a node is, if it is something of it.
func uses(n ast.Node, pkg string) (name string, ok bool) {
	s, ok := n.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	x, ok := s.X.(*ast.Ident)
	return s.Sel.Name, ok && pkg != "" && x.Name == pkg
}

// TestMachinesReadNoClock holds that the pure machines are told the time, and that one
// goroutine runs each.
func TestMachinesReadNoClock(t *testing.T) {
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
	for _, dir := range []string{"internal/admit", "internal/bucket", "internal/breaker"} {
		eachFile(t, dir, func(path string, fset *token.FileSet, f *ast.File) {
			if strings.HasSuffix(path, "_test.go") {
				return
			}
			for _, pkg := range []string{"sync", "sync/atomic"} {
				assert.Empty(t, importedAs(f, pkg), "%s imports %s: a machine is single-threaded", path, pkg)
			}
			timePkg := importedAs(f, "time")
			ast.Inspect(f, func(n ast.Node) bool {
				if name, ok := uses(n, timePkg); ok && slices.Contains(clock, name) {
					t.Errorf("%s uses time.%s: a machine is told the time", fset.Position(n.Pos()), name)
				}
				switch n.(type) {
				case *ast.GoStmt, *ast.SendStmt, *ast.SelectStmt, *ast.ChanType:
					t.Errorf("%s: a machine is single-threaded", fset.Position(n.Pos()))
				}
				return true
			})
		})
	}
}

// TestAtomic64BitsAreAligned holds that 64-bit words which are changed atomically have the
// types of sync/atomic: a plain field may be misaligned where a pointer has 32 bits, and then
// the process ends.
func TestAtomic64BitsAreAligned(t *testing.T) {
	plain := regexp.MustCompile(`^(Add|Load|Store|Swap|CompareAndSwap|And|Or)(Int|Uint)64$`)
	eachFile(t, ".", func(_ string, fset *token.FileSet, f *ast.File) {
		atomicPkg := importedAs(f, "sync/atomic")
		ast.Inspect(f, func(n ast.Node) bool {
			if name, ok := uses(n, atomicPkg); ok && plain.MatchString(name) {
				t.Errorf("%s: atomic.%s: use atomic.Int64 or atomic.Uint64", fset.Position(n.Pos()), name)
			}
			return true
		})
	})
}

// TestNoTimerIsDrained holds that nobody receives from a timer that has been stopped: since
// Go 1.23 that blocks for ever.
func TestNoTimerIsDrained(t *testing.T) {
	eachFile(t, ".", func(_ string, fset *token.FileSet, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.IfStmt); ok && stops(s.Cond) && receivesFromC(s.Body) {
				t.Errorf("%s drains a timer", fset.Position(n.Pos()))
			}
			return true
		})
	})
}

// stops reports whether an expression is !x.Stop().
func stops(e ast.Expr) bool {
	not, ok := e.(*ast.UnaryExpr)
	if !ok || not.Op != token.NOT {
		return false
	}
	call, ok := not.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	s, ok := call.Fun.(*ast.SelectorExpr)
	return ok && s.Sel.Name == "Stop"
}

// receivesFromC reports whether <-x.C stands in a node.
func receivesFromC(n ast.Node) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		if from, ok := n.(*ast.UnaryExpr); ok && from.Op == token.ARROW {
			s, ok := from.X.(*ast.SelectorExpr)
			found = found || ok && s.Sel.Name == "C"
		}
		return true
	})
	return found
}

// section is what stands between a heading of ARCHITECTURE.md and the next.
func section(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("ARCHITECTURE.md has no section %q", heading)
	}
	out, _, _ := strings.Cut(after, "\n## ")
	return out
}

// rows are the cells of a table, without its head.
func rows(t *testing.T, text string) (out [][]string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "|") {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
			}
			out = append(out, cells)
		}
	}
	if len(out) < 3 {
		t.Fatal("the table is not there")
	}
	return out[2:]
}

// TestArchitecture_Arrows holds the drawing of the packages to what they import.
func TestArchitecture_Arrows(t *testing.T) {
	_, drawing, _ := strings.Cut(section(t, "Rooms"), "```imports\n")
	drawing, _, ok := strings.Cut(drawing, "```")
	if !ok {
		t.Fatal("there is no drawing")
	}
	drawn := map[string][]string{}
	for line := range strings.Lines(drawing) {
		from, to, _ := strings.Cut(strings.TrimSpace(line), " -> ")
		drawn[from] = strings.Fields(to)
	}
	short := func(p string) string { return strings.TrimPrefix(p, "internal/") }
	for dir, list := range imports(t) {
		if strings.HasSuffix(dir, " (tests)") || strings.HasPrefix(dir, "examples") {
			continue
		}
		var ours []string
		for p := range list {
			if p == module {
				ours = append(ours, ".")
			} else if in, ok := strings.CutPrefix(p, module+"/"); ok {
				ours = append(ours, short(in))
			}
		}
		slices.Sort(ours)
		if !slices.Equal(ours, drawn[short(dir)]) {
			t.Errorf("%s imports %q, the drawing says %q", dir, ours, drawn[short(dir)])
		}
		delete(drawn, short(dir))
	}
	for _, left := range slices.Sorted(maps.Keys(drawn)) {
		t.Errorf("the drawing has %s, which there is not", left)
	}
}

// TestArchitecture_EveryPackageHasARoom holds the table of rooms to the packages that there are.
func TestArchitecture_EveryPackageHasARoom(t *testing.T) {
	var listed []string
	for _, row := range rows(t, section(t, "Rooms")) {
		listed = append(listed, regexp.MustCompile("[a-z]+").FindAllString(row[1], -1)...)
	}
	slices.Sort(listed)
	entries, err := os.ReadDir("internal")
	if err != nil {
		t.Fatal(err)
	}
	var there []string
	for _, e := range entries {
		if _, err := os.Stat("internal/" + e.Name() + "/go.mod"); err != nil { // else it is a module of its own
			there = append(there, e.Name())
		}
	}
	if !slices.Equal(listed, there) {
		t.Errorf("rooms are listed for %q, there are %q", listed, there)
	}
}

// declared are the names that a file declares: of functions, methods, types, fields as Type.field,
// variables and constants.
func declared(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				of := d.Recv.List[0].Type
				if p, ok := of.(*ast.StarExpr); ok {
					of = p.X
				}
				if x, ok := of.(*ast.IndexListExpr); ok {
					of = x.X
				} else if x, ok := of.(*ast.IndexExpr); ok {
					of = x.X
				}
				name = of.(*ast.Ident).Name + "." + name
			}
			names[name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.ValueSpec:
					for _, n := range s.Names {
						names[n.Name] = true
					}
				case *ast.TypeSpec:
					names[s.Name.Name] = true
					if x, ok := s.Type.(*ast.StructType); ok {
						for _, field := range x.Fields.List {
							for _, n := range field.Names {
								names[s.Name.Name+"."+n.Name] = true
							}
						}
					}
				}
			}
		}
	}
	return names
}

// TestArchitecture_Places holds that what the tables of rules and locks speak of stands where
// they say.
func TestArchitecture_Places(t *testing.T) {
	for _, row := range rows(t, section(t, "Where a rule stands")) {
		if !declared(t, row[1])[row[2]] {
			t.Errorf("%s: %s does not declare %s", row[0], row[1], row[2])
		}
	}
	for _, row := range rows(t, section(t, "Locks")) {
		if !declared(t, row[1])[row[0]] {
			t.Errorf("%s does not declare %s", row[1], row[0])
		}
	}
}

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
