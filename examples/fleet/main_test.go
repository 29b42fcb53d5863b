package main

import (
	"bytes"
	"context"
	"log"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain makes this program a process of the fleet where it is run as one.
func TestMain(m *testing.M) {
	if addr := os.Getenv(addrEnv); addr != "" {
		if err := work(context.Background(), addr, os.Stdin, os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	}
	os.Exit(m.Run())
}

// The whole program: it ends well only if the quota held and who was left went on.
func TestRun(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil && os.Getenv("SLUICE_ENGINES") == "" {
		t.Skip("there is no redis-server: apt-get install redis-server")
	}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out), &out)
	text := out.String()
	t.Log(text)
	for _, line := range []string{"process 4 is killed", "the server is killed", "the server is back, without its data", "the quota held"} {
		require.Contains(t, text, line)
	}
	rows := regexp.MustCompile(`(?m)^ +\d+( +\d+){5}`).FindAllString(text, -1)
	require.Len(t, rows, end)
	for _, row := range rows[serverEnd+1 : serverAt-1] { // but for what was at hand
		require.Equal(t, "0", strings.Fields(row)[5], "while the server is away nobody calls: %s", row)
	}
}
