package frameworks

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// node is what package.json names, installed once for all runs of the tests: later ones need no network.
type node struct{ dir string }

var install = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	want, err := os.ReadFile("package.json")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "sluice-frameworks")
	have, _ := os.ReadFile(filepath.Join(dir, "installed.json"))
	if string(have) == string(want) {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), want, 0o600); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--before=2026-11-30")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm install: %w: %s", err, out)
	}
	return dir, os.WriteFile(filepath.Join(dir, "installed.json"), want, 0o600) // last: it says that all is there
})

func withNode(t *testing.T) node {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		missing(t, "npm is not on this machine: %v", err)
	}
	dir, err := install()
	if err != nil {
		missing(t, "what package.json names cannot be installed: %v", err)
	}
	n := node{dir}
	out, err := n.command(t.Context(), "--version").CombinedOutput()
	require.NoError(t, err, string(out))
	t.Logf("node %s", out)
	return n
}

// command runs node; args[0] may be a file of an installed package, by its path from node_modules.
func (n node) command(ctx context.Context, args ...string) *exec.Cmd {
	modules := filepath.Join(n.dir, "node_modules")
	if _, err := os.Stat(filepath.Join(modules, args[0])); err == nil {
		args = append([]string{filepath.Join(modules, args[0])}, args[1:]...)
	}
	return exec.CommandContext(ctx, filepath.Join(modules, "node", "bin", "node"), args...)
}
