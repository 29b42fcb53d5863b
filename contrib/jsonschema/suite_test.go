package jsonschema

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOfficialSuite holds verdicts to the JSON Schema Test Suite, which comes with jsonschema-go. Schemas that
// refer to what is elsewhere, have an $id below the top, or a $dynamicRef, are refused at registration.
func TestOfficialSuite(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/jsonschema-go").Output()
	require.NoError(t, err)
	groups, tests, refused := 0, 0, 0
	for draft, version := range map[string]string{"draft2020-12": "", "draft7": "http://json-schema.org/draft-07/schema#"} {
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "jsonschema", "testdata", draft, "*.json"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			var list []struct {
				Description string
				Schema      json.RawMessage
				Tests       []struct {
					Description string
					Data        json.RawMessage
					Valid       bool
				}
			}
			require.NoError(t, json.Unmarshal(text, &list))
			for _, g := range list {
				if s := string(g.Schema); version != "" && s[0] == '{' && !strings.Contains(s, `"$schema"`) {
					g.Schema = json.RawMessage(strings.TrimSuffix(`{"$schema":"`+version+`",`+s[1:], ",}"))
				}
				name := draft + "/" + filepath.Base(file) + ": " + g.Description
				p, err := compile("schema", g.Schema)
				if err != nil {
					refused++
					assert.Regexp(t, `/\$id is not supported here|\$dynamicRef is not supported|leads elsewhere`, err.Error(), name)
					continue
				}
				p.lenient = false
				groups++
				for _, c := range g.Tests {
					tests++
					err := p.check(c.Data)
					assert.Equal(t, c.Valid, err == nil, "%s: %s: %v", name, c.Description, err)
				}
			}
		}
	}
	t.Logf("%d tests of %d groups; %d schemas refused", tests, groups, refused)
	assert.GreaterOrEqual(t, tests, 1800)
	assert.LessOrEqual(t, refused, 80)
}
