// Package rules says what the parts of a configuration may be and what they mean to the machine of
// internal/admit: bounds and defaults, what a limit counts by, what its constraints are called, in
// which order they are asked, how large their tables are, and how calls are ordered without a
// scheduler. The root package and the simulator take all of that from here, so that what is
// simulated is what runs.
//
// A [Scope] is a value: it is compared and copied. What is called Complete checks a configuration
// and fills in the defaults; its errors begin with the field, as internal/check says. The functions
// for limits make an [admit.Class] each, of what is complete; whoever asked for it gives it to one
// machine and guards it from then on. Nothing here locks, keeps anything or calls foreign code: the
// function of a [ByKey] scope is only carried.
package rules
