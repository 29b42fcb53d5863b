// Package sluicehttp is a page for whoever operates an executor: which calls wait, for what and how long, limits and
// their use, rates and when they refill, breakers, pauses, debts and stalls, what was refused lately, a tool's plan, and
// what would become of a call. It is an [net/http.Handler] of the standard library alone, beside net/http/pprof in spirit:
//
//	recent := new(sluicehttp.Recent)
//	exec, err := sluice.NewExecutor(reg, sluice.Config{Interceptors: gates, Sink: recent})
//	page, err := sluicehttp.New(sluicehttp.Config{Executor: exec, Recent: recent})
//	mux.Handle("/debug/sluice/", page)
//
// The page is whole without JavaScript, which only keeps it up to date. Beside every view stands its JSON: the address of
// the view with ".json".
//
// # Who can see it, and what
//
// It answers requests for the hosts of [Config].Hosts alone, by default those of the loopback interface, so that no other
// site can read it by a name that it points at this machine (DNS rebinding). It knows no users: put your own
// authentication around it where others can reach it. It shows names of tools, tenants, keys, limits and codes of
// errors; no arguments, no results, and no text of a tool's error. Keys that are secret should not be keys.
//
// # Who can change something
//
// Nobody, unless [Config].Actor is set: then limits and rates change, breakers trip and close, pauses and debts are
// lifted, by forms. A request of another site is refused ([net/http.CrossOriginProtection]). Who did it is told
// to [Config].Sink, and by events of the executor.
//
// # What it costs
//
// Calls nothing, while nobody looks. While somebody does, there is one [sluice.Executor.Snapshot] for each
// [Config].Interval, however many look, and less often, but once a minute, if it and what is made of it for streams take
// over a fortieth of that. [Recent] is a sink: it costs each call what a sink does that wants refusals only.
package sluicehttp
