// Package browser looks at the page of package sluicehttp with a real browser, which the module itself shall
// not depend on: headless Chromium, driven by chromedp. Without one its tests are skipped, unless SLUICE_BROWSER=1
// demands it.
package browser
