package sluice_test

import (
	"go/ast"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// markdown are the pages of the repository, without their blocks of code and their comments, by path.
func markdown(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() != "." && strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, ".md"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			pages[filepath.ToSlash(path)] = regexp.MustCompile("(?ms)^ *```.*?^ *```$|<!--.*?-->").ReplaceAllString(string(text), "")
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, len(pages), 30)
	return pages
}

// anchors are the places in a page that a link can name, as GitHub makes them of headings.
func anchors(page string) []string {
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		text := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(text))
		list = append(list, slug)
	}
	return list
}

// TestLinksResolve holds that each link of a page to another, to a place in one or to a file leads somewhere.
func TestLinksResolve(t *testing.T) {
	pages, links := markdown(t), 0
	for path, page := range pages {
		page = regexp.MustCompile("`[^`\n]*`").ReplaceAllString(page, "x") // what looks like a link there is none
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(page, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			links++
			file, anchor, placed := strings.Cut(m[1], "#")
			target := path
			if file != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(path), file))
			}
			if _, err := os.Stat(target); !assert.NoError(t, err, "%s links to %s", path, m[1]) || !placed {
				continue
			}
			assert.Contains(t, anchors(pages[target]), anchor, "%s links to %s", path, m[1])
		}
	}
	require.Greater(t, links, 100)
}

// source is what the Go files of the repository declare.
type source struct {
	packages map[string]map[string]bool // by name, what others can import: names, and members as Type.Member
	names    map[string]bool            // all of that, whatever package it is of, and members alone
	types    map[string]bool
	open     map[string]bool // types with something embedded, whose members may be elsewhere
	tests    map[string]bool
	texts    map[string]bool // what stands in quotes
	files    map[string]bool // names of files
}

func sourceOf(t *testing.T) *source {
	t.Helper()
	s := &source{packages: map[string]map[string]bool{}, names: map[string]bool{}, types: map[string]bool{}, open: map[string]bool{},
		tests: map[string]bool{}, texts: map[string]bool{}, files: map[string]bool{}}
	eachFile(t, ".", func(path string, _ *token.FileSet, f *ast.File) {
		s.files[filepath.Base(path)] = true
		test := strings.HasSuffix(path, "_test.go")
		public := !test && f.Name.Name != "main" && !strings.HasPrefix(path, "internal") && !strings.HasPrefix(path, "examples")
		pkg := s.packages[f.Name.Name]
		if pkg == nil && public {
			pkg = map[string]bool{}
			s.packages[f.Name.Name] = pkg
		}
		add := func(name string) {
			s.names[name] = true
			if _, member, ok := strings.Cut(name, "."); ok {
				s.names[member] = true
			}
			if public {
				pkg[name] = true
			}
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if test && d.Recv == nil {
					s.tests[d.Name.Name] = true
				}
				if d.Recv == nil {
					add(d.Name.Name)
				} else if of := receiver(d.Recv.List[0].Type); of != "" {
					add(of + "." + d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.ValueSpec:
						for _, n := range spec.Names {
							add(n.Name)
						}
					case *ast.TypeSpec:
						add(spec.Name.Name)
						s.types[spec.Name.Name] = true
						var fields *ast.FieldList
						switch x := spec.Type.(type) {
						case *ast.StructType:
							fields = x.Fields
						case *ast.InterfaceType:
							fields = x.Methods
						}
						if fields == nil {
							continue
						}
						for _, field := range fields.List {
							if len(field.Names) == 0 {
								s.open[spec.Name.Name] = true
							}
							for _, n := range field.Names {
								add(spec.Name.Name + "." + n.Name)
							}
						}
					}
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if x, ok := n.(*ast.BasicLit); ok && x.Kind == token.STRING && !test {
				s.texts[strings.Trim(x.Value, "\"`")] = true
			}
			return true
		})
	})
	return s
}

// receiver is the type that a method is of.
func receiver(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.StarExpr:
		return receiver(x.X)
	case *ast.IndexExpr:
		return receiver(x.X)
	case *ast.IndexListExpr:
		return receiver(x.X)
	case *ast.Ident:
		return x.Name
	}
	return ""
}

var (
	aFile   = regexp.MustCompile(`^[\w./*-]+\.(go|md)$`)
	aPath   = regexp.MustCompile(`^(internal|examples|docs|contrib|testdata|cmd)/[\w./-]*[\w-]/?$`)
	anEvent = regexp.MustCompile(`^(tool|breaker|limit|ratelimit|fleet|approval|cache|join|fallback|hedge|once|usage|loop)\.[a-z_]+$`)
	aTarget = regexp.MustCompile(`^make [a-z-]+$`)
	aName   = regexp.MustCompile(`^\*?([A-Za-z]\w*)(?:\.([A-Za-z]\w*))?(?:\.([A-Za-z]\w*))?(\(.*\)|\[.*\]|\{.*\})?$`)
	ofTests = regexp.MustCompile(`^(Test|Example|Benchmark|Fuzz)[A-Z_]\w*$`)
)

// elsewhere are names that pages speak of which are others': Go's, and those of what Sluice is compared with.
var elsewhere = map[string]bool{
	"AddTaskTools": true, "HandleMessage": true, // mcp-go
	"ClientConfig.HTTPClient": true, "Override[anthropic.ToolUnionParam]": true, "RawJSON()": true, "ToParam": true, // providers
	"IsExcluded": true, "IsSuccessful": true, "OnDone": true, "OnFailure": true, "OnStateChange": true, // gobreaker, failsafe-go
	"DuckDuckGo_Search_a89548ea": true, // as a model reads it
}

// wrong says what is wrong with a piece of code in a sentence; empty if nothing is, or if it names nothing.
func (s *source) wrong(page, span, makefile string) string {
	exists := func(path string) bool {
		for _, base := range []string{".", filepath.Dir(page)} {
			if found, _ := filepath.Glob(filepath.Join(base, path)); len(found) > 0 {
				return true
			}
		}
		return false
	}
	switch {
	case aFile.MatchString(span):
		if !s.files[span] && !exists(span) {
			return "there is no such file"
		}
		return ""
	case aPath.MatchString(span):
		if !exists(span) {
			return "there is no such folder"
		}
		return ""
	case anEvent.MatchString(span):
		if !s.texts[span] {
			return "there is no such event"
		}
		return ""
	case aTarget.MatchString(span):
		if !strings.Contains(makefile, "\n"+strings.TrimPrefix(span, "make ")+":") {
			return "there is no such target"
		}
		return ""
	case ofTests.MatchString(span):
		if !s.tests[span] && !s.names[span] {
			return "there is no such test"
		}
		return ""
	}
	m := aName.FindStringSubmatch(span)
	if m == nil || elsewhere[span] {
		return ""
	}
	first, second, third := m[1], m[2], m[3]
	if names, ok := s.packages[first]; ok && second != "" {
		switch member := second + "." + third; {
		case !names[second] && !s.open[second]:
			return "the package has no such name"
		case third != "" && !names[member] && !s.open[second]:
			return "the type has no such member"
		}
		return ""
	}
	upper := unicode.IsUpper(rune(first[0])) // else it may be a variable, but where the code itself is spoken of
	switch {
	case second != "" && s.types[first] && (upper || page == "ARCHITECTURE.md"):
		if !s.names[first+"."+second] && !s.open[first] {
			return "the type has no such member"
		}
	case second != "" && upper:
		return "there is no such type"
	case second == "" && upper && strings.ToUpper(first) != first && !s.names[first]:
		return "nothing has that name"
	}
	return ""
}

// TestPagesNameWhatIsThere holds that a page names no file, function, type, member, event, target or test that there
// is not. CHANGELOG.md may, of what is gone.
func TestPagesNameWhatIsThere(t *testing.T) {
	s, spans := sourceOf(t), 0
	makefile := readFile(t, "Makefile")
	pages := markdown(t)
	for _, path := range slices.Sorted(maps.Keys(pages)) {
		if path == "CHANGELOG.md" {
			continue
		}
		for _, m := range code.FindAllStringSubmatch(pages[path], -1) {
			spans++
			if why := s.wrong(path, m[1], makefile); why != "" {
				t.Errorf("%s: `%s`: %s", path, m[1], why)
			}
		}
	}
	require.Greater(t, spans, 500)
}
