package frameworks

import (
	"bufio"
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const mcpGo = "github.com/mark3labs/mcp-go"

// exceptions are mcp-go's tests that fail if its servers are guarded, and why that is right.
var exceptions = map[string]string{
	"server.TestMCPServer_MiddlewarePanicRecovery/tool_handler_panic_with_recovery_middleware": caughtFirst,
	"server.TestMCPServer_WithRecover":                                                             caughtFirst,
	"server.TestSSEServer_DeliversResponseDespiteFullQueue/panic":                                  caughtFirst,
	"server.TestSSEServer_MessageHandlerPanicRecovery":                                             caughtFirst,
	"server.TestStdioServer_SynchronousToolCallPanicRecovery":                                      caughtFirst,
	"server.TestStdioServer_ToolCallWorkerPanicRecovery":                                           caughtFirst,
	"server.TestWithLogger_RegistersToolMiddleware":                                                unknownTool,
	"server.TestScheduleTaskCleanup_CancelsRunningTaskOnTTL/running_regular_tool":                  unknownTool,
	"server.TestScheduleTaskCleanup_CancelsRunningTaskOnTTL/regular_tool_expired_before_execution": unknownTool,
}

const (
	caughtFirst = "it looks for the server's words for a panic, with the value. The guard catches the panic before the server does: the client gets a result that says that the tool failed"
	unknownTool = "it has the middleware run a tool that was never added to the server. The guard runs none that the server does not have, so that made-up names are never registered"
)

// TestMCPGo_OwnSuite runs mcp-go's own tests with each of their servers guarded. Those of exceptions fail, and no
// others do. A test that fails and is no exception is run again alone, since some of them measure time.
func TestMCPGo_OwnSuite(t *testing.T) {
	dir := copied{
		module: mcpGo, version: versionOf(t, mcpGo, "mcpgo"), laid: "mcp-go", adapters: []string{"mcpgo"},
		edit: edit{"server/server.go", "\t\topt(s)\n\t}\n\n\treturn s\n", "\t\topt(s)\n\t}\n\ts.guard()\n\n\treturn s\n"},
	}.lay(t)
	packages := guardTests(t, dir)
	calls := filepath.Join(t.TempDir(), "calls")
	test := func(args ...string) map[string]string {
		cmd := command(t, dir, "go", append([]string{"test", "-json", "-timeout=20m"}, args...)...)
		cmd.Env = append(cmd.Env, "SLUICE_CALLS="+calls)
		out, _ := cmd.Output() // tests that fail are in it
		return failures(t, out)
	}

	failed := map[string]string{}
	for _, p := range packages {
		before := guardedCalls(t, calls)
		inPackage := test("./" + p)
		for name, output := range inPackage {
			_, excepted := exceptions[name]
			if alone := pattern(name); !excepted && alone != "" && len(test("-run", alone, "./"+p)) == 0 {
				t.Logf("%s failed once, and passed alone", name)
				continue
			}
			failed[name] = output
		}
		n := guardedCalls(t, calls) - before
		t.Logf("%-18s %5d calls guarded, %d tests fail", p, n, len(inPackage))
		assert.NotZero(t, n, "guarded calls in %s", p)
	}
	for name, output := range failed {
		if _, ok := exceptions[name]; !ok {
			t.Errorf("%s fails, and is no exception:\n%s", name, output)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exceptions)) {
		if _, ok := failed[name]; !ok {
			t.Errorf("%s passes: it is no exception any more", name)
		}
	}
}

// guardTests has the tests of each package import the guard, if they start a server; it names those packages. An
// external test may import what imports the package.
func guardTests(t *testing.T, dir string) (packages []string) {
	t.Helper()
	tests, err := filepath.Glob(filepath.Join(dir, "*", "*_test.go"))
	require.NoError(t, err)
	for _, file := range tests {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		p, err := filepath.Rel(dir, filepath.Dir(file))
		require.NoError(t, err)
		if !bytes.Contains(text, []byte("NewMCPServer(")) || slices.Contains(packages, p) {
			continue
		}
		packages = append(packages, p)
		name := packageName(t, text) + "_test"
		guard := "package " + name + "\n\nimport _ \"" + mcpGo + "/sluiceguard\"\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, p, "sluice_guard_test.go"), []byte(guard), 0o600))
	}
	require.Subset(t, packages, []string{"client", "mcptest", "server"})
	return packages
}

func packageName(t *testing.T, text []byte) string {
	t.Helper()
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "package "); ok {
			return strings.TrimSuffix(strings.TrimSpace(name), "_test")
		}
	}
	t.Fatal("a file without a package")
	return ""
}

// failures are the tests that failed of their own, not for a test in them, and what they wrote; and packages, by
// their path alone, of which no test can be blamed.
func failures(t *testing.T, out []byte) map[string]string {
	t.Helper()
	failed, output := map[string]bool{}, map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct{ Action, Package, ImportPath, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		name := strings.TrimPrefix(strings.TrimPrefix(e.Package+e.ImportPath, mcpGo), "/")
		if e.Test != "" {
			name += "." + e.Test
		}
		output[name] += e.Output
		if e.Action == "fail" || e.Action == "build-fail" {
			failed[name] = true
		}
	}
	require.NoError(t, lines.Err())
	require.NotEmpty(t, output, "what the tests wrote")
	own := map[string]string{}
	for name := range failed {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(failed)), func(other string) bool {
			return strings.HasPrefix(other, name+"/") || strings.HasPrefix(other, name+".")
		}) {
			own[name] = output[name]
		}
	}
	return own
}

// pattern matches the test of that name, package.Test/sub, alone; it is empty for a package.
func pattern(name string) string {
	_, test, ok := strings.Cut(name, ".")
	if !ok {
		return ""
	}
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

func guardedCalls(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return bytes.Count(text, []byte("\n"))
}
