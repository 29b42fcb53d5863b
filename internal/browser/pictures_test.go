package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// Pictures of the demo's page, and of one where much is wrong, for people: PICTURES names the folder that gets them.
// page.png is docs/page.png.
func TestPictures(t *testing.T) {
	dir := os.Getenv("PICTURES")
	if dir == "" {
		t.Skip("no pictures are taken: PICTURES must name a folder for them")
	}
	address, _ := demo(t, nil)
	keep := func(b *tab, name string, take chromedp.Action[[]byte]) {
		picture, err := chromedp.Run(b.ctx, take)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
	}
	first := newTab(t, look{})
	first.open(address)
	until(t, "the charts have something to show", func() (bool, any) {
		done := first.count("completed")
		n, _ := strconv.Atoi(done)
		return n > 800 && eval[bool](first, `document.querySelector('.alerts .bad') != null`), done
	})
	keep(first, "page", chromedp.CaptureScreenshot())
	home := busy(t)
	for _, how := range []look{{}, {Dark: true}, {Width: 360}, {Width: 360, Dark: true}} {
		name := fmt.Sprintf("-%d", how.Width)
		if how.Dark {
			name = "-dark" + name
		}
		for from, start := range map[string]string{"demo": address, "busy": home.url("")} {
			b := newTab(t, how)
			b.views(start, func(address string) {
				view, _, _ := strings.Cut(strings.TrimPrefix(address, start), "?")
				keep(b, from+"-"+view+name, chromedp.FullScreenshot(100))
			})
		}
	}
}
