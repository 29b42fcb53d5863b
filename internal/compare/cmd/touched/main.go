// Command touched tells which files and functions of the root package one call runs:
//
//	go run ./cmd/touched            # this checkout
//	go run ./cmd/touched -v main    # a revision or a directory, with all names
//
// A program makes three calls, and once more four, with a coverage counter in every block;
// what one call runs is where the counters differ. The call meets a limiter, a rate, a
// breaker, a scheduler and a JSON sink, and comes with JSON arguments; then the same with a
// time limit. A function literal counts as part of the function that it stands in.
package main

import (
	"embed"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-go/sluice/internal/compare/cmd/internal/state"
)

//go:embed calls/*.go
var calls embed.FS

func main() {
	verbose := flag.Bool("v", false, "name all functions")
	flag.Parse()
	name := "../.."
	if flag.NArg() > 0 {
		name = flag.Arg(0)
	}
	if err := run(name, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "touched:", err)
		os.Exit(1)
	}
}

func run(name string, verbose bool) error {
	temp, err := os.MkdirTemp("", "touched")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	dir, err := state.Dir(name, temp)
	if err != nil {
		return err
	}
	program, err := state.Build(dir, temp, calls, "-cover", "-covermode=atomic", "-coverpkg=program,"+state.Module)
	if err != nil {
		return err
	}
	for _, c := range []struct{ what, arg string }{{"one call", ""}, {"one call with a time limit", "timeout"}} {
		three, err := counters(temp, program, "3", c.arg)
		if err != nil {
			return err
		}
		four, err := counters(temp, program, "4", c.arg)
		if err != nil {
			return err
		}
		found, err := touched(dir, three, four)
		if err != nil {
			return err
		}
		report(c.what, found, verbose)
	}
	return nil
}

// A place is where a block of code begins.
type place struct {
	file string
	line int
}

// counters runs the program and answers how often it came to each place.
func counters(temp, program, n, arg string) (map[place]int, error) {
	dir := filepath.Join(temp, "counters"+n+arg)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	args := []string{n}
	if arg != "" {
		args = append(args, arg)
	}
	if _, err := state.Command("", []string{"GOCOVERDIR=" + dir}, program, args...); err != nil {
		return nil, err
	}
	if _, err := state.Command("", nil, "go", "tool", "covdata", "textfmt", "-i="+dir, "-o="+dir+".txt"); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(dir + ".txt")
	if err != nil {
		return nil, err
	}
	places := map[place]int{}
	for _, line := range strings.Split(string(text), "\n")[1:] { // after the mode
		// module/file.go:12.34,56.7 statements count
		file, rest, ok := strings.Cut(line, ":")
		if !ok || path.Dir(file) != state.Module {
			continue
		}
		begin, _, _ := strings.Cut(rest, ".")
		l, err1 := strconv.Atoi(begin)
		count, err2 := strconv.Atoi(rest[strings.LastIndexByte(rest, ' ')+1:])
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		places[place{path.Base(file), l}] += count
	}
	return places, nil
}

type function struct {
	file, name string
	lines      int
}

// touched is the functions with a counter that differs.
func touched(dir string, three, four map[place]int) ([]function, error) {
	different := map[string][]int{}
	for p, n := range four {
		if n != three[p] {
			different[p.file] = append(different[p.file], p.line)
		}
	}
	var found []function
	for _, file := range slices.Sorted(maps.Keys(different)) {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, filepath.Join(dir, file), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			begin, end := set.Position(d.Pos()).Line, set.Position(d.End()).Line
			if slices.ContainsFunc(different[file], func(line int) bool { return begin <= line && line <= end }) {
				found = append(found, function{file, nameOf(d), end - begin + 1})
			}
		}
	}
	return found, nil
}

// nameOf is what a declaration is called: Invoke, Executor.Invoke, or a variable's value.
func nameOf(d ast.Decl) string {
	f, ok := d.(*ast.FuncDecl)
	switch {
	case !ok:
		return "(variable)"
	case f.Recv == nil:
		return f.Name.Name
	}
	t := f.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		default:
			return fmt.Sprintf("%v.%s", x, f.Name.Name)
		}
	}
}

func report(what string, found []function, verbose bool) {
	files := map[string][]string{}
	for _, f := range found {
		files[f.file] = append(files[f.file], f.name)
	}
	fmt.Printf("%s runs %d functions in %d files of the root\n", what, len(found), len(files))
	for _, f := range slices.Sorted(maps.Keys(files)) {
		fmt.Printf("  %-16s %3d", f, len(files[f]))
		if verbose {
			fmt.Printf("  %s", strings.Join(files[f], " "))
		}
		fmt.Println()
	}
	slices.SortFunc(found, func(a, b function) int { return b.lines - a.lines })
	fmt.Print("longest, in lines:")
	for _, f := range found[:min(5, len(found))] {
		fmt.Printf(" %s %d", f.name, f.lines)
	}
	fmt.Println()
}
