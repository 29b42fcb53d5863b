# What make test counts its steps with. The last of them fails if there were not as many as said.
#   steps 2; step "first" COMMAND ARGUMENTS...; step "second" COMMAND; steps_done

steps() { step_count=$1 step_now=0 step_began=$(date +%s); }

# step_at says which step it is, of how many, and how long all have taken so far.
step_at() {
  step_took=$(($(date +%s) - step_began))
  printf '[%d/%d %dm%02ds]' "$step_now" "$step_count" $((step_took / 60)) $((step_took % 60))
}

# step says what begins, and runs it. What fails is named, and ends the shell.
step() {
  step_now=$((step_now + 1)) step_what=$1
  shift
  printf '\n%s %s\n' "$(step_at)" "$step_what"
  "$@" && return
  printf '\n%s failed: %s\n' "$(step_at)" "$step_what" >&2
  exit 1
}

steps_done() {
  if [ "$step_now" -ne "$step_count" ]; then
    printf '\n%s failed: there were %d steps, not %d\n' "$(step_at)" "$step_now" "$step_count" >&2
    exit 1
  fi
  printf '\n%s all passed\n' "$(step_at)"
}

# quietly runs a command whose output only matters if it fails.
quietly() {
  quietly_said=$("$@" 2>&1) || {
    printf '%s\n' "$quietly_said"
    return 1
  }
}

# raced runs go test with the race detector. The detector of Go 1.26 may die of timers of a synctest bubble that fire at one
# instant on two processors, as both use one context of it (golang/go#78156): SIGSEGV in its own code, outside all tests. What
# has not passed then runs again, once. A race, a failed test and a panic are none of that.
raced() {
  raced_log=$(mktemp)
  { ${GO:-go} test -race "$@" 2>&1 && echo 'go test passed' >>"$raced_log.rc"; } | tee "$raced_log"
  raced_passed=$(cat "$raced_log.rc" 2>/dev/null)
  raced_died=$(grep -E '^SIGSEGV: segmentation violation|ThreadSanitizer: CHECK failed' "$raced_log")
  raced_faults=$(grep -E '^ *--- FAIL|DATA RACE|^panic: |build failed' "$raced_log")
  rm -f "$raced_log" "$raced_log.rc"
  [ -n "$raced_passed" ] && return
  [ -n "$raced_died" ] && [ -z "$raced_faults" ] || return 1
  printf '\nthe race detector itself died, and no test failed: once more\n'
  ${GO:-go} test -race "$@"
}
