package frameworks

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	goSDK            = "github.com/modelcontextprotocol/go-sdk"
	everythingServer = "conformance/everything-server"
)

// TestConformance_GoSDK runs MCP's conformance suite against go-sdk's own server for it, as it is and guarded.
func TestConformance_GoSDK(t *testing.T) {
	n := withNode(t)
	version := versionOf(t, goSDK, "mcpgo")
	for _, c := range []struct {
		name   string
		server copied
	}{
		{"unguarded", copied{module: goSDK, version: version}},
		{"guarded", copied{
			module: goSDK, version: version, laid: "go-sdk", adapters: []string{"mcp"},
			edit: edit{everythingServer + "/main.go", "\t// Register server features.\n", "\tguard(server)\n\n\t// Register server features.\n"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := c.server.lay(t)
			program := filepath.Join(t.TempDir(), "server")
			run(t, command(t, dir, "go", "build", "-o", program, "./"+everythingServer))
			address, log := listening(t, nil, program, "-http="+addressHere, "-stateless=false")

			results := t.TempDir()
			suite := n.command(t.Context(), "@modelcontextprotocol/conformance/dist/index.js", "server", "--url", "http://"+address, "--output-dir", results)
			out, err := suite.CombinedOutput()
			require.NoError(t, err, string(out))
			scenarios, checks := passed(t, results)
			guarded := strings.Count(log.String(), "guarded ")
			t.Logf("%d scenarios and %d checks pass, %d calls were guarded", scenarios, checks, guarded)
			assert.Equal(t, 30, scenarios)
			assert.Equal(t, 40, checks)
			if c.name == "guarded" {
				assert.NotZero(t, guarded)
			}
		})
	}
}

// passed counts the scenarios of the suite and the checks in them, all of which have passed.
func passed(t *testing.T, results string) (scenarios, checks int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(results, "*", "checks.json"))
	require.NoError(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		var all []struct{ ID, Status, Description, ErrorMessage string }
		require.NoError(t, json.Unmarshal(text, &all))
		assert.NotEmpty(t, all, f)
		ok := true
		for _, c := range all {
			switch c.Status {
			case "SUCCESS":
				checks++
			case "INFO":
			default:
				ok = false
				t.Errorf("%s: %s is %s: %s: %s", filepath.Base(filepath.Dir(f)), c.ID, c.Status, c.Description, c.ErrorMessage)
			}
		}
		if ok {
			scenarios++
		}
	}
	return scenarios, checks
}
