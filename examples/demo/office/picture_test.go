package office

import (
	"encoding/xml"
	"flag"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/demo.svg")

// The README's picture is what the demo shows: a run on virtual time draws it, and what it says of each run is what
// another run comes to, within a few calls. With -update it writes the file.
func TestPicture(t *testing.T) {
	const file = "../../../docs/demo.svg"
	synctest.Test(t, func(t *testing.T) {
		without, with, err := demo(t.Context(), terminal{w: io.Discard}, pipes())
		require.NoError(t, err)
		drawn := picture(without, with)
		if *update {
			require.NoError(t, os.WriteFile(file, []byte(drawn), 0o644))
		}
		kept, err := os.ReadFile(file)
		require.NoError(t, err)
		texts, want := textsOf(t, string(kept)), textsOf(t, drawn)
		require.Len(t, texts, len(want))
		number := regexp.MustCompile(`\d+`)
		for i, text := range texts {
			require.Equal(t, number.ReplaceAllString(want[i], "N"), number.ReplaceAllString(text, "N"))
			a, b := number.FindAllString(want[i], -1), number.FindAllString(text, -1)
			for j := range a {
				x, _ := strconv.Atoi(a[j])
				y, _ := strconv.Atoi(b[j])
				require.InDelta(t, x, y, 10, text)
			}
		}
		require.Contains(t, strings.Join(texts, "\n"), "429: 0   503: 0   ", "guarded")
		readme, err := os.ReadFile("../../../README.md")
		require.NoError(t, err)
		require.Contains(t, string(readme), "!["+texts[0]+"](docs/demo.svg)", "the picture's title")
	})
}

// textsOf is what a picture says.
func textsOf(t *testing.T, svg string) (list []string) {
	t.Helper()
	in := xml.NewDecoder(strings.NewReader(svg))
	for {
		tok, err := in.Token()
		if err == io.EOF {
			return list
		}
		require.NoError(t, err)
		if text, ok := tok.(xml.CharData); ok && strings.TrimSpace(string(text)) != "" {
			list = append(list, string(text))
		}
	}
}
