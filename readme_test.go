package sluice_test

import (
	"go/ast"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fences are the blocks of code on a page: their language, and what stands in them.
func fences(page string) [][2]string {
	var list [][2]string
	for _, m := range regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		list = append(list, [2]string{m[1], m[2]})
	}
	return list
}

// TestReadmeProgram runs the README's program as its reader does, in a module with nothing else in it and without
// a network, and holds what it prints.
func TestReadmeProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a module, which takes seconds")
	}
	blocks := fences(readFile(t, "README.md"))
	require.Equal(t, "go", blocks[0][0])
	require.Equal(t, "text", blocks[1][0], "what the program prints")
	root, err := filepath.Abs(".")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(blocks[0][1]), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), []byte(readFile(t, "go.sum")), 0o644))
	run := func(args ...string) string {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		require.NoError(t, err, "go %s: %s", strings.Join(args, " "), errs.String())
		return string(out)
	}
	run("mod", "init", "example.com/first")
	run("mod", "edit", "-require="+module+"@v0.0.0", "-replace="+module+"="+root)
	require.Equal(t, blocks[1][1], run("run", "."))
	require.Equal(t, []string{"golang.org/x/sync", "golang.org/x/time"}, slices.DeleteFunc(
		strings.Fields(run("list", "-m", "-f", "{{if not .Main}}{{.Path}}{{end}}", "all")),
		func(path string) bool { return !strings.HasPrefix(path, "golang.org/") }), "what it brings")
}

// TestReadmeCode holds that each piece of Go in the README is code that an Example or a test runs, the whole program
// with what it prints.
func TestReadmeCode(t *testing.T) {
	source := unindented(readFile(t, "example_readme_test.go"))
	programs := 0
	for _, b := range fences(readFile(t, "README.md")) {
		text := b[1]
		switch b[0] {
		case "go":
			if _, rest, whole := strings.Cut(text, "\n)\n"); whole && strings.HasPrefix(text, "package main\n") {
				programs++
				text = strings.TrimSuffix(strings.Replace(rest, "\nfunc main() {\n", "\nfunc Example() {\n", 1), "}\n")
			}
		case "text":
			text = "// Output:\n// " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n// ")
		default: // the two commands
			text = ""
		}
		require.True(t, strings.Contains(source, unindented(text)), "no Example has this:\n%s", text)
	}
	require.Equal(t, 1, programs)
}

// TestReadmeCommands holds that a newcomer needs two commands, which the Makefile has.
func TestReadmeCommands(t *testing.T) {
	var commands []string
	for _, b := range fences(readFile(t, "README.md")) {
		for line := range strings.Lines(b[1]) {
			if command, _, _ := strings.Cut(line, "#"); b[0] == "" {
				commands = append(commands, strings.TrimSpace(command))
			}
		}
	}
	require.Equal(t, []string{"make demo", "make test"}, commands)
	for _, c := range commands {
		require.Contains(t, readFile(t, "Makefile"), "\n"+strings.TrimPrefix(c, "make ")+":")
	}
}

// TestPromisesPage holds docs/promises.md to the tests that there are: each promise has some, the page names all of
// them, and none that there is not. With -update it writes the names.
func TestPromisesPage(t *testing.T) {
	const file = "docs/promises.md"
	name := regexp.MustCompile(`^TestPromise(\d\d)_`)
	tests := map[int]map[string][]string{} // of a promise, by folder
	eachFile(t, ".", func(path string, _ *token.FileSet, f *ast.File) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !name.MatchString(fn.Name.Name) {
				continue
			}
			require.True(t, strings.HasSuffix(path, "_test.go"), "%s is not run", fn.Name.Name)
			n, _ := strconv.Atoi(name.FindStringSubmatch(fn.Name.Name)[1])
			if tests[n] == nil {
				tests[n] = map[string][]string{}
			}
			dir := filepath.ToSlash(filepath.Dir(path))
			tests[n][dir] = append(tests[n][dir], fn.Name.Name)
		}
	})
	page := readFile(t, file)
	parts := strings.Split(page, "\n## ")
	want := parts[0]
	for i, part := range parts[1:] {
		heading, _, _ := strings.Cut(part, " ")
		require.Equal(t, strconv.Itoa(i+1)+".", heading, "promises stand in their order")
		require.NotEmpty(t, tests[i+1], "no test holds promise %d", i+1)
		said, _, _ := strings.Cut(part, "\n\nTests:")
		want += "\n## " + strings.TrimSpace(said) + "\n\nTests:\n" + namesOf(tests[i+1])
	}
	require.Len(t, parts[1:], 22)
	require.Len(t, tests, 22, "a test is of a promise that nobody makes")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(want), 0o644))
		page = want
	}
	require.Equal(t, want, page, "to write the names of the tests: go test -run TestPromisesPage -update .")
}

// namesOf is a list of tests, by folder.
func namesOf(tests map[string][]string) string {
	var b strings.Builder
	for _, dir := range slices.Sorted(maps.Keys(tests)) {
		slices.Sort(tests[dir])
		b.WriteString("- `" + dir + "`: `" + strings.Join(tests[dir], "`, `") + "`\n")
	}
	return b.String()
}
