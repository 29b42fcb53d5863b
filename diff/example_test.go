package diff_test

import (
	"fmt"

	"github.com/sluice-go/sluice/diff"
)

// What a file tool answered, before and after.
func ExampleText() {
	fmt.Print(diff.Text("name: a\nsize: 1\nkind: file\n", "name: a\nsize: 2\nkind: file\n"))
	// Output:
	// --- a
	// +++ b
	// @@ -1,3 +1,3 @@
	//  name: a
	// -size: 1
	// +size: 2
	//  kind: file
}

// What a search answered, before and after. A / in a name is ~1 in the path.
func ExampleJSON() {
	patch, err := diff.JSON(
		[]byte(`{"query":"every file that names a limit","hits":["a.go","b.go"],"by":{"src/x":1},"folder":"/home/of/the/agent"}`),
		[]byte(`{"query":"every file that names a limit","hits":["b.go"],"by":{"src/x":2},"folder":"/home/of/the/agent"}`))
	fmt.Println(string(patch), err)
	// Output: [{"op":"replace","path":"/by/src~1x","value":2},{"op":"remove","path":"/hits/0"}] <nil>
}

// Results of Go values.
func ExampleValues() {
	type file struct {
		Path  string   `json:"path"`
		Lines []string `json:"lines"`
	}
	before := file{"a/quite/long/path/to/a/file.go", []string{"package a", "func A() {}", "func B() {}"}}
	after := file{"a/quite/long/path/to/a/file.go", []string{"package a", "func B() {}"}}
	patch, err := diff.Values(before, after)
	fmt.Println(string(patch), err)
	// Output: [{"op":"remove","path":"/lines/1"}] <nil>
}
