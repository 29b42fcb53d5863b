package sluice_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write golden files")

// TestAPI compares the exported API with testdata/api.txt, so that every change of it is
// seen in review. `make api` writes the file.
func TestAPI(t *testing.T) {
	got := exported(t, ".") + exported(t, "resilience") + exported(t, "agent") + exported(t, "upstream") +
		exported(t, "sluicehttp") + exported(t, "diff") + exported(t, "contrib/jsonschema")
	const golden = "testdata/api.txt"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	if got == string(want) {
		return
	}
	was := map[string]bool{}
	for _, l := range strings.Split(string(want), "\n") {
		was[l] = true
	}
	for _, l := range strings.Split(got, "\n") {
		if !was[l] {
			t.Errorf("new:  %s", l)
		}
		delete(was, l)
	}
	for l := range was {
		t.Errorf("gone: %s", l)
	}
	t.Error("the exported API changed: if that is meant, run make api and say so in CHANGELOG.md")
}

// TestEveryExportedNameIsDocumented: the comments are the contract.
func TestEveryExportedNameIsDocumented(t *testing.T) {
	for _, dir := range []string{".", "resilience", "agent", "upstream", "sluicehttp", "diff", "contrib/jsonschema"} {
		p := parse(t, dir)
		check := func(kind, name, doc string) {
			if ast.IsExported(name) && strings.TrimSpace(doc) == "" {
				t.Errorf("%s: %s %s has no comment", dir, kind, name)
			}
		}
		for _, f := range p.Funcs {
			check("func", f.Name, f.Doc)
		}
		for _, x := range p.Types {
			check("type", x.Name, x.Doc)
			for _, f := range x.Funcs {
				check("func", f.Name, f.Doc)
			}
			for _, m := range x.Methods {
				check("method", x.Name+"."+m.Name, m.Doc)
			}
		}
		assert.NotEmpty(t, p.Doc, "%s: the package has no comment", dir)
	}
}

func parse(t *testing.T, dir string) *doc.Package {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	fset := token.NewFileSet()
	var files []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, n, nil, parser.ParseComments)
		require.NoError(t, err)
		files = append(files, f)
	}
	p, err := doc.NewFromFiles(fset, files, module+"/"+dir)
	require.NoError(t, err)
	return p
}

// exported is the API of the package in dir, a declaration a line, sorted.
func exported(t *testing.T, dir string) string {
	p := parse(t, dir)
	var out []string
	line := func(n any) string {
		var b bytes.Buffer
		require.NoError(t, printer.Fprint(&b, token.NewFileSet(), n))
		return strings.Join(strings.Fields(b.String()), " ")
	}
	values := func(list []*doc.Value) {
		for _, v := range list {
			for _, s := range v.Decl.Specs {
				for _, n := range s.(*ast.ValueSpec).Names {
					if n.IsExported() {
						out = append(out, v.Decl.Tok.String()+" "+n.Name)
					}
				}
			}
		}
	}
	funcs := func(list []*doc.Func) {
		for _, f := range list {
			d := *f.Decl
			d.Body, d.Doc = nil, nil
			out = append(out, line(&d))
		}
	}
	values(p.Consts)
	values(p.Vars)
	funcs(p.Funcs)
	for _, x := range p.Types {
		values(x.Consts)
		values(x.Vars)
		funcs(x.Funcs)
		funcs(x.Methods)
		for _, s := range x.Decl.Specs {
			spec := s.(*ast.TypeSpec)
			st, ok := spec.Type.(*ast.StructType)
			if !ok {
				out = append(out, "type "+line(&ast.TypeSpec{Name: spec.Name, TypeParams: spec.TypeParams, Assign: spec.Assign, Type: spec.Type}))
				continue
			}
			out = append(out, "type "+line(&ast.TypeSpec{Name: spec.Name, TypeParams: spec.TypeParams, Type: &ast.Ident{Name: "struct"}}))
			for _, f := range st.Fields.List {
				for _, n := range f.Names {
					if n.IsExported() {
						out = append(out, "field "+spec.Name.Name+"."+n.Name+" "+line(f.Type))
					}
				}
			}
		}
	}
	sort.Strings(out)
	return "package " + p.Name + "\n" + strings.Join(out, "\n") + "\n"
}
