package sluiceredis_test

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Of the calls that bring one key to four real processes one executes, whoever is killed, stands still, or is away. If the
// process that executes is killed nobody takes over: when its lease is over all learn that the key is in doubt, and so does
// whoever asks later, until somebody decides. Then the key has the result that Resolve gave, or executes once more after
// Forget. A process that stood still for longer than its lease ends what it began, and all get its result.
func TestOnce_ExecutesOnceOverProcesses(t *testing.T) {
	x, share := newStateChaos(t, worker{Job: jobOnce, Lease: 1500 * time.Millisecond, Call: 200 * time.Millisecond, Budget: time.Second})
	for range x.processes {
		x.enter()
	}
	s := &sales{chaos: x}
	for n := range max(7, int(share)) {
		s.round(n)
	}
	x.finish()
	runs := map[string]int{}
	for _, e := range s.effects() {
		if !e.Ended && !strings.HasPrefix(e.Key, "again-") {
			runs[e.Key]++
		}
	}
	for key, n := range runs {
		may := 1
		if s.forgotten[key] {
			may = 2
		}
		require.LessOrEqual(t, n, may, key)
	}
	x.say("%d keys, %d executed; of %d the process was killed meanwhile, and they were told %v after that at most; %d of these were forgotten",
		s.keys, len(runs), s.orphans, s.latest.Round(time.Millisecond), len(s.forgotten))
	require.NotZero(t, s.orphans)
}

// sales is a run of that.
type sales struct {
	*chaos
	keys, orphans int
	forgotten     map[string]bool
	latest        time.Duration // after a process was killed, until somebody was told that its key is in doubt
	lines         int
}

const keysOfARound, callsOfAProcess = 6, 2

// effects are what executions have left.
func (s *sales) effects() []effect {
	return readLines[effect](s.t, filepath.Join(s.dir, effectsFile))
}

// began are the executions of a key.
func (s *sales) began(key string) (list []effect) {
	for _, e := range s.effects() {
		if e.Key == key && !e.Ended {
			list = append(list, e)
		}
	}
	return list
}

// ask has a worker do something, and returns the line by which its row is found.
func (s *sales) ask(m *member, what, key string) (line string) {
	s.lines++
	line = fmt.Sprintf("%s %s %d", what, key, s.lines)
	_, err := io.WriteString(m.in, line+"\n")
	require.NoError(s.t, err)
	return line
}

// rows waits until a worker has done all that is in lines, and says how.
func (s *sales) rows(m *member, lines []string) (list []asked) {
	var there map[string]asked
	require.Eventually(s.t, func() bool {
		there = map[string]asked{}
		for _, a := range readLines[asked](s.t, m.file(rowsFile)) {
			there[a.Line] = a
		}
		return !slices.ContainsFunc(lines, func(line string) bool { return there[line].How == "" })
	}, 30*time.Second, 20*time.Millisecond, "%s has not ended all it was asked for", m.Name)
	for _, line := range lines {
		list = append(list, there[line])
	}
	return list
}

// all has all workers that live call with a key, and says what they were told.
func (s *sales) all(key string) (list []asked) {
	lines := map[*member]string{}
	for _, m := range s.alive {
		lines[m] = s.ask(m, "call", key)
	}
	for m, line := range lines {
		list = append(list, s.rows(m, []string{line})...)
	}
	return list
}

func (s *sales) same(list []asked, how, by, why string) {
	for _, a := range list {
		require.Equal(s.t, asked{Line: a.Line, By: by, How: how, At: a.At}, a, why)
	}
}

// round has all processes call with some keys, each more than once, while something happens.
func (s *sales) round(n int) {
	t := s.t
	kind := []string{"leader", "leader", "leader", "any", "server", "still", "none"}[n%7]
	var keys []string
	lines := map[*member]map[string][]string{}
	for i := range keysOfARound {
		keys = append(keys, fmt.Sprintf("%d-%d", n, i))
	}
	s.keys += len(keys)
	for _, i := range s.rnd.Perm(len(s.alive)) {
		m := s.alive[i]
		lines[m] = map[string][]string{}
		for range callsOfAProcess {
			for _, key := range keys {
				lines[m][key] = append(lines[m][key], s.ask(m, "call", key))
			}
		}
	}
	victim := s.alive[s.rnd.IntN(len(s.alive))]
	if kind == "leader" || kind == "still" {
		require.Eventually(t, func() bool { return len(s.began(keys[0])) > 0 }, 10*time.Second, time.Millisecond)
		name := s.began(keys[0])[0].Name
		victim = s.alive[slices.IndexFunc(s.alive, func(m *member) bool { return m.Name == name })]
	}
	time.Sleep(s.between(0, s.conf.Call))
	var killed time.Time
	switch kind {
	case "leader", "any":
		s.slay(victim)
		killed = time.Now()
		delete(lines, victim)
	case "server":
		s.bounce(10*time.Millisecond, 2*time.Second)
	case "still":
		d := s.between(s.conf.Lease+200*time.Millisecond, 2*s.conf.Lease)
		s.say("%s stands still for %v", victim.Name, d)
		require.NoError(t, victim.cmd.Process.Signal(syscall.SIGSTOP))
		time.Sleep(d)
		require.NoError(t, victim.cmd.Process.Signal(syscall.SIGCONT))
	}

	told := map[string][]asked{}
	for m, of := range lines {
		for key, list := range of {
			told[key] = append(told[key], s.rows(m, list)...)
		}
	}
	ended := map[string]bool{}
	for _, e := range s.effects() {
		ended[e.By] = ended[e.By] || e.Ended
	}
	if kind == "server" { // the next round begins when all processes reach it again
		for i, m := range s.alive {
			require.Eventually(t, func() bool {
				key := fmt.Sprintf("again-%d-%d-%d", n, i, s.lines)
				return s.rows(m, []string{s.ask(m, "call", key)})[0].How == done
			}, 30*time.Second, 20*time.Millisecond, "%s does not reach the server", m.Name)
		}
	}
	decided := false
	for _, key := range keys {
		began, list := s.began(key), told[key]
		require.LessOrEqual(t, len(began), 1, "key %s has executed more than once", key)
		for _, a := range list {
			switch {
			case a.How == done:
				require.Len(t, began, 1, key)
				require.Equal(t, began[0].By, a.By, key)
			case a.How == inDoubt:
				require.NotEqual(t, "none", kind, "key %s is in doubt", key)
			case a.How == unkept: // the server was away when its result was to be kept
				require.Equal(t, "server", kind, "the result of key %s was not kept", key)
				require.Len(t, began, 1, key)
			case a.How == noState:
				require.Equal(t, "server", kind, "key %s could not be read", key)
			default:
				t.Fatalf("%s: %s", a.Line, a.How)
			}
		}
		switch {
		case kind == "none":
			require.Len(t, began, 1)
		case kind == "still": // it has gone on, and kept what it got
			s.same(s.all(key), done, began[0].By, "after its process has gone on")
		case len(began) == 1 && began[0].Name == victim.Name && !killed.IsZero() && !ended[began[0].By]:
			s.orphans++
			for _, a := range list {
				require.Equal(t, inDoubt, a.How, "%s, whose process was killed", key)
				s.latest = max(s.latest, time.Duration(a.At-killed.UnixNano()))
			}
			s.same(s.all(key), inDoubt, "", "nobody takes over")
			if !decided {
				decided = true
				s.decide(key)
			}
		}
	}
}

// decide says what has become of a key in doubt.
func (s *sales) decide(key string) {
	m := s.alive[s.rnd.IntN(len(s.alive))]
	if s.rnd.IntN(2) == 0 {
		s.same(s.rows(m, []string{s.ask(m, "resolve", key)}), done, "", "resolve")
		s.same(s.all(key), done, "resolved", "it was resolved")
		require.Len(s.t, s.began(key), 1)
		return
	}
	if s.forgotten == nil {
		s.forgotten = map[string]bool{}
	}
	s.forgotten[key] = true
	s.same(s.rows(m, []string{s.ask(m, "forget", key)}), done, "", "forget")
	list := s.all(key)
	began := s.began(key)
	require.Len(s.t, began, 2, "it was forgotten")
	s.same(list, done, began[1].By, "it was forgotten")
}
