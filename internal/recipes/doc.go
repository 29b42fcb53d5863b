// Package recipes compiles and runs the code of pages in docs that needs modules which nothing else here needs: one
// file of tests for each page.
package recipes
