package sluice_test

import (
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
)

// What make test prints says which step of how many it is at and for how long it has run, and what
// fails is named and ends it.
func TestStepsOfMakeTest(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no shell here to run .ci/steps.sh with")
	}
	again := "\nthe race detector itself died, and no test failed: once more\n"
	stubs := `tell() { echo "$@"; }
		dir=$(mktemp -d); trap 'rm -r "$dir"' EXIT
		die() { [ -e "$dir/died" ] && echo died before && return; touch "$dir/died"; echo "SIGSEGV: segmentation violation"; echo "PC=0x41c729"; return 1; }
		die_always() { echo "ThreadSanitizer: CHECK failed: x"; return 1; }
		die_failing() { echo "--- FAIL: TestX"; echo "SIGSEGV: segmentation violation"; return 1; }
		panics() { echo "panic: nil"; echo "[signal SIGSEGV: segmentation violation]"; return 1; }
		`
	for _, tt := range []struct {
		name, script, want string
		ok                 bool
	}{
		{"all", `steps 2; step "first one" echo a; step second true; steps_done`,
			"\n[1/2 0m00s] first one\na\n\n[2/2 0m00s] second\n\n[2/2 0m00s] all passed\n", true},
		{"a failure", `steps 2; step first false; step second echo b; steps_done`,
			"\n[1/2 0m00s] first\n\n[1/2 0m00s] failed: first\n", false},
		{"a failure among others", `steps 2; for i in 1 2; do step "part $i" test $i = 1; done; echo after`,
			"\n[1/2 0m00s] part 1\n\n[2/2 0m00s] part 2\n\n[2/2 0m00s] failed: part 2\n", false},
		{"fewer than said", `steps 3; step first true; steps_done`,
			"\n[1/3 0m00s] first\n\n[1/3 0m00s] failed: there were 1 steps, not 3\n", false},
		{"time", `steps 1; step_began=$((step_began - 3661)); step late true; steps_done`,
			"\n[1/1 61m00s] late\n\n[1/1 61m00s] all passed\n", true},
		{"quietly", `steps 1; step one quietly echo much; steps_done`, "\n[1/1 0m00s] one\n\n[1/1 0m00s] all passed\n", true},
		{"quietly, a failure", `steps 1; step one quietly sh -c "echo much; exit 3"`,
			"\n[1/1 0m00s] one\nmuch\n\n[1/1 0m00s] failed: one\n", false},
		{"the race detector", `GO=tell raced ./...`, "test -race ./...\n", true},
		{"the race detector dies once", `GO=die raced ./...`, "SIGSEGV: segmentation violation\nPC=0x41c729\n" + again + "died before\n", true},
		{"the race detector dies twice", `GO=die_always raced ./...`, "ThreadSanitizer: CHECK failed: x\n" + again + "ThreadSanitizer: CHECK failed: x\n", false},
		{"a test fails as well", `GO=die_failing raced ./...`, "--- FAIL: TestX\nSIGSEGV: segmentation violation\n", false},
		{"a test of nil", `GO=panics raced ./...`, "panic: nil\n[signal SIGSEGV: segmentation violation]\n", false},
		{"a test fails", `GO=false raced ./...`, "", false},
	} {
		out, err := exec.CommandContext(t.Context(), sh, "-c", ". .ci/steps.sh; "+stubs+tt.script).CombinedOutput()
		assert.Equal(t, tt.ok, err == nil, tt.name)
		// A second may pass meanwhile.
		assert.Equal(t, tt.want, regexp.MustCompile(`m0[0-9]s\]`).ReplaceAllString(string(out), "m00s]"), tt.name)
	}
}
