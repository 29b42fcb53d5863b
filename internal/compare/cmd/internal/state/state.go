// Package state builds programs against some state of the library: a git revision, or a
// directory with a checkout.
package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Module is the library's.
const Module = "github.com/sluice-go/sluice"

// Dir is where the state called name is: itself, if it is a directory, or else the files of
// that revision, put into temp.
func Dir(name, temp string) (string, error) {
	if s, err := os.Stat(name); err == nil && s.IsDir() {
		return filepath.Abs(name)
	}
	top, err := Command("", nil, "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(temp, "state")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if _, err := Command(strings.TrimSpace(top), nil, "git", "archive", "-o", dir+".tar", name, "--"); err != nil {
		return "", err
	}
	_, err = Command(dir, nil, "tar", "-xf", dir+".tar")
	return dir, err
}

// Build builds the main package in files with the library in dir, with more flags if there are
// any. It uses temp and writes nothing to dir.
func Build(dir, temp string, files fs.FS, flags ...string) (program string, err error) {
	source := filepath.Join(temp, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		return "", err
	}
	err = fs.WalkDir(files, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(source, e.Name()), text, 0o644)
	})
	if err != nil {
		return "", err
	}
	// What the library requires is what the program requires.
	mod, err1 := os.ReadFile(filepath.Join(dir, "go.mod"))
	sum, err2 := os.ReadFile(filepath.Join(dir, "go.sum"))
	mod = bytes.Replace(mod, []byte("module "+Module), []byte("module program"), 1)
	mod = fmt.Appendf(mod, "\nrequire %s v0.0.0\n\nreplace %s => %s\n", Module, Module, dir)
	err = errors.Join(err1, err2,
		os.WriteFile(filepath.Join(source, "go.mod"), mod, 0o644),
		os.WriteFile(filepath.Join(source, "go.sum"), sum, 0o644))
	if err != nil {
		return "", err
	}
	program = filepath.Join(temp, "program.exe")
	_, err = Command(source, nil, "go", append([]string{"build", "-mod=mod", "-trimpath", "-o", program}, flags...)...)
	return program, err
}

// Command runs a command and answers what it printed, or an error with its complaints.
func Command(dir string, env []string, name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	out, err := c.Output()
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		err = fmt.Errorf("%s: %w\n%s", name, err, e.Stderr)
	}
	return string(out), err
}
