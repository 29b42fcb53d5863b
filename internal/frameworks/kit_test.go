package frameworks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// root is this checkout.
const root = "../.."

// copied is a module of somebody else's, with the guard laid over a copy of it.
type copied struct {
	module, version string
	laid            string   // what is laid over it, under testdata; if empty, it is only copied
	adapters        []string // that the laid files import, under contrib
	edit            edit
}

// edit is the one place of the copy that is changed.
type edit struct{ file, old, new string }

// lay copies c from the module cache to a new folder, which it answers, and has it use the adapters of this checkout.
func (c copied) lay(t *testing.T) string {
	t.Helper()
	var module struct{ Dir, Version string }
	out := run(t, command(t, ".", "go", "mod", "download", "-json", c.module+"@"+c.version))
	require.NoError(t, json.Unmarshal(out, &module))
	t.Logf("%s %s", c.module, module.Version)

	dir := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.CopyFS(dir, os.DirFS(module.Dir)))
	if c.laid == "" {
		return dir
	}
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", c.laid))))
	if c.edit.file != "" {
		file := filepath.Join(dir, c.edit.file)
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, 1, bytes.Count(text, []byte(c.edit.old)), "places to edit in %s", c.edit.file)
		require.NoError(t, os.WriteFile(file, bytes.Replace(text, []byte(c.edit.old), []byte(c.edit.new), 1), 0o600))
	}

	here, err := filepath.Abs(root)
	require.NoError(t, err)
	args := []string{"mod", "edit", "-require=github.com/sluice-go/sluice@v0.0.0", "-replace=github.com/sluice-go/sluice=" + here}
	for _, a := range c.adapters {
		name := "github.com/sluice-go/sluice/contrib/" + a
		args = append(args, "-require="+name+"@v0.0.0", "-replace="+name+"="+filepath.Join(here, "contrib", a))
	}
	run(t, command(t, dir, "go", args...))
	return dir
}

// command is one that builds in dir as its own go.mod says, one package at a time.
func command(t *testing.T, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod -p=1 -buildvcs=false")
	return cmd
}

// run is what cmd writes to standard output. It cannot be had without what is not in the module cache.
func run(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil && bytes.Contains(append(said.Bytes(), out...), []byte("dial tcp")) {
		missing(t, "the network is missing: %s: %s%s", strings.Join(cmd.Args, " "), &said, out)
	}
	require.NoError(t, err, "%s: %s%s", strings.Join(cmd.Args, " "), &said, out)
	return out
}

// missing skips a test that lacks something of this machine's; with FRAMEWORKS=all, as make test-frameworks sets
// it, that is a failure.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("FRAMEWORKS") == "all" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// versionOf is the version of a module that an adapter is built with.
func versionOf(t *testing.T, module, adapter string) string {
	t.Helper()
	out := run(t, command(t, filepath.Join(root, "contrib", adapter), "go", "list", "-m", "-f", "{{.Version}}", module))
	return strings.TrimSpace(string(out))
}

// addressHere stands for the address in the arguments of listening.
const addressHere = "ADDRESS"

// listening starts a server on a free port of loopback, until the test's end. It answers the server's address and
// what the server writes.
func listening(t *testing.T, env []string, program string, args ...string) (address string, log *lockedBuffer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address = fmt.Sprintf("localhost:%d", l.Addr().(*net.TCPAddr).Port)
	require.NoError(t, l.Close())
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], addressHere, address)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	log = new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		assert.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		return err == nil && c.Close() == nil
	}, 30*time.Second, 50*time.Millisecond, "%s listens: %s", program, log)
	return address, log
}

// lockedBuffer is read while a process writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// call answers a result as JSON, or what its error says.
func call(t *testing.T, s *mcp.ClientSession, tool, args string) (result, failed string) {
	t.Helper()
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(args)})
	if err != nil {
		return "", err.Error()
	}
	text, err := json.Marshal(res)
	assert.NoError(t, err)
	return string(text), ""
}

// inFlight counts what runs at once.
type inFlight struct {
	mu        sync.Mutex
	now, most int
}

func (f *inFlight) enter(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now += n
	f.most = max(f.most, f.now)
}

// restart answers the most at once since the last time.
func (f *inFlight) restart() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	most := f.most
	f.most = f.now
	return most
}
