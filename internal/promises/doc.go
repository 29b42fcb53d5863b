// Package promises holds the tests of what package sluice promises, and nothing else: there
// is no code here, and nothing imports it.
//
// The tests use the public API alone, as a program does that has the module in its go.mod.
// They are a package of their own so that none of them can reach behind the contract: what
// is rewritten inside must leave all of them as they are. A test that needs a name which the
// root does not export stands beside the file of the root that declares it.
//
// Each file holds one group of promises and is named after it: admission, order, nesting,
// limits, rates, breakers and so on. A test's name says the rule. Where it begins with
// TestPromise and a number, that is the number of the promise in the README; TestWORK008
// are the scenarios that the library was accepted by; TestHandOver_ race whoever gives
// something up against whoever takes it, and TestStorm_ do everything at once. Most run in
// bubbles of testing/synctest, on virtual time. What several files need is in
// helpers_test.go; what those of the state need, at the head of state_test.go.
package promises
