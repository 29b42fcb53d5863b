package docs_test

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// without is how a framework without limits runs the tools of a turn: all at once, on a state that all read and write.
func without() {
	var mu sync.Mutex
	inFlight, most, total := 0, 0, 0
	add := func() {
		mu.Lock()
		inFlight++
		most = max(most, inFlight)
		was := total // read,
		mu.Unlock()
		time.Sleep(10 * time.Millisecond) // work with it,
		mu.Lock()
		total = was + 1 // and write
		inFlight--
		mu.Unlock()
	}
	var wg sync.WaitGroup
	for range 5_000 {
		wg.Go(add)
	}
	wg.Wait()
	fmt.Printf("without: %d in flight, total %d of 5000\n", most, total)
}

const total sluice.Key[int] = "total"

// with is the same by an executor.
func with() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 100}}}))
	order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 4_000}))
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{order, limits}, State: state,
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "add"}, func(ctx context.Context, n int) (int, error) {
		time.Sleep(10 * time.Millisecond)
		return sluice.Increment(ctx, total, n)
	}))
	var calls []*sluice.Future
	for range 5_000 {
		calls = append(calls, exec.Submit(context.Background(), sluice.Request{Tool: "add", Input: 1}))
	}
	time.Sleep(5 * time.Millisecond)
	s := exec.Snapshot()
	for _, c := range calls {
		c.Wait(context.Background())
	}
	n, _, _ := total.Get(sluice.WithState(context.Background(), state))
	fmt.Printf("with:    %d in flight, total %d, refused %d\n", s.InFlight, n, s.Failed)
	exec.Close(context.Background())
}

// The page says of each exported type of the root, of resilience and of agent who may use it at once, and of no other.
func TestConcurrency_EveryType(t *testing.T) {
	text, err := os.ReadFile("concurrency.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(text), "| type | | |\n|---|---|---|\n")
	require.True(t, ok)
	var told []string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 {
			break
		}
		require.Contains(t, []string{"safe", "value", "yours", "one goroutine"}, cells[1], line)
		for _, m := range regexp.MustCompile("`([\\w.]+)`").FindAllStringSubmatch(cells[0], -1) {
			told = append(told, m[1])
		}
	}
	var types []string
	for _, dir := range []string{".", "resilience", "agent"} {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		require.NoError(t, err)
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			for _, d := range f.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.TYPE {
					continue
				}
				for _, spec := range g.Specs {
					if name := spec.(*ast.TypeSpec).Name; name.IsExported() {
						types = append(types, strings.TrimPrefix(dir+"."+name.Name, ".."))
					}
				}
			}
		}
	}
	require.ElementsMatch(t, types, told)
}
