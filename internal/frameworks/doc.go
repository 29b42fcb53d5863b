// Package frameworks runs what others have written against Sluice's guards: a library's own tests with every server
// guarded, a protocol's conformance suite, and whole servers with their tools. It has tests alone; README.md says
// what they found.
package frameworks
