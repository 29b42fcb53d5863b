package sluice_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

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
			names[d.Name.Name] = true
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
