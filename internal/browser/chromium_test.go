package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// What Chromium is called: by Debian, by others, and with a window.
var programs = []string{"chromium-headless-shell", "headless_shell", "chromium", "chromium-browser", "google-chrome"}

// patience is how long a test waits for something to be so. It only ever takes that long to fail.
const patience = time.Minute

// demanded says that a machine without a browser fails.
const demanded = "SLUICE_BROWSER"

// chromium is the one browser of all tests; each gets a tab that knows nothing of the others'.
var chromium = sync.OnceValues(func() (browser running, err error) {
	for _, name := range programs {
		if path, err := exec.LookPath(name); err == nil {
			browser.program = path
			break
		}
	}
	if browser.program == "" {
		return browser, fmt.Errorf("none of %s is in PATH", strings.Join(programs, ", "))
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser.program), chromedp.Flag("no-proxy-server", true))
	allocated, stop := chromedp.NewExecAllocator(context.Background(), options...)
	browser.ctx, _ = chromedp.NewContext(allocated)
	end = func() {
		_ = chromedp.Cancel(browser.ctx)
		stop()
	}
	return browser, chromedp.Do(browser.ctx)
})

// end ends the browser, if there is one.
var end = func() {}

type running struct {
	program string
	ctx     context.Context
}

func TestMain(m *testing.M) {
	code := m.Run()
	end()
	os.Exit(code)
}

// tab is one tab of the browser. It fails its test if the page has an error or breaks its Content-Security-Policy.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	told   []string // by the console
	opened []string // dialogs, which only a script opens
}

// look says how a tab looks at pages.
type look struct {
	Dark      bool
	Width     int64 // 1280 if zero
	NoScript  bool
	MayFail   bool // requests that fail are no error: the test stops servers, or asks for what is not there
	Forgiving bool // nothing that the console says is an error
}

func newTab(t *testing.T, how look) *tab {
	t.Helper()
	b, err := chromium()
	if b.program == "" && os.Getenv(demanded) == "" {
		t.Skipf("no browser: %v; Debian's package chromium-headless-shell has one", err)
	}
	require.NoError(t, err, "the browser is demanded by %s, or it is there and does not start", demanded)
	timed, cancel := context.WithTimeout(b.ctx, 3*patience)
	t.Cleanup(cancel)
	ctx, leave := chromedp.NewContext(timed, chromedp.WithNewBrowserContext())
	t.Cleanup(leave)
	b1 := &tab{t: t, ctx: ctx}
	messages := chromedp.Console(ctx)
	dialogs := chromedp.Events(ctx, page.JavascriptDialogOpening)
	var reading sync.WaitGroup
	reading.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			b1.mu.Lock()
			b1.told = append(b1.told, m.String())
			b1.mu.Unlock()
		}
	})
	reading.Go(func() {
		for d, err := range dialogs {
			if err != nil {
				return
			}
			b1.mu.Lock()
			b1.opened = append(b1.opened, d.Message)
			b1.mu.Unlock()
			_, _ = chromedp.Call(ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})
		}
	})
	scheme := "light"
	if how.Dark {
		scheme = "dark"
	}
	if how.Width == 0 {
		how.Width = 1280
	}
	_, err = chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	require.NoError(t, err)
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(how.Width, 900)))
	if how.NoScript {
		_, err = chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		leave()
		reading.Wait()
		require.Empty(t, b1.opened, "dialogs that a script opened")
		if how.Forgiving {
			return
		}
		for _, m := range b1.told {
			if how.MayFail && (strings.Contains(m, "net::ERR_") || strings.Contains(m, "Failed to load resource")) {
				continue
			}
			require.False(t, strings.HasPrefix(m, "error") || strings.HasPrefix(m, "exception") || strings.Contains(m, "Content Security Policy"),
				"the console says %s", m)
		}
	})
	return b1
}

func (b *tab) open(url string) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, chromedp.Navigate(url)))
}

// html is the page as it stands.
func (b *tab) html() string {
	b.t.Helper()
	out, err := chromedp.Run(b.ctx, chromedp.OuterHTML(chromedp.CSS("html")))
	require.NoError(b.t, err)
	return out
}

func (b *tab) press(keys string, options ...chromedp.KeyOption) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, chromedp.KeyEvent(keys, options...)))
}

// link selects the first link whose text has that in it.
func (b *tab) link(text string) string {
	b.t.Helper()
	quoted := strconv.Quote(text)
	href := eval[string](b, `[...document.links].find(a => a.textContent.includes(`+quoted+`))?.getAttribute('href') ?? ''`)
	require.NotEmpty(b.t, href, "no link has %s", quoted)
	return fmt.Sprintf("a[href=%q]", href)
}

// click clicks, waits for the page that comes of it, and returns its status.
func (b *tab) click(css string) int64 {
	b.t.Helper()
	r, err := chromedp.RunResponse(b.ctx, chromedp.Click(chromedp.CSS(css)))
	require.NoError(b.t, err, css)
	return int64(r.Status)
}

// fill types over what an input has.
func (b *tab) fill(value, css string) {
	b.t.Helper()
	require.True(b.t, eval[bool](b, `(e => { e.focus(); e.select(); return document.activeElement === e })(document.querySelector(`+strconv.Quote(css)+`))`), css)
	b.press(value)
}

// eval is what a JavaScript expression gives on the page.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	out, err := chromedp.Run(b.ctx, chromedp.EvaluateAsDevTools[T](expression))
	require.NoError(b.t, err, expression)
	return out
}

// until polls so, which says what it saw, until it is true.
func until(t *testing.T, what string, so func() (bool, any)) {
	t.Helper()
	last := time.Now().Add(patience)
	for {
		ok, saw := so()
		if ok {
			return
		}
		require.True(t, time.Now().Before(last), "not within %v: %s; it is %v", patience, what, saw)
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}
