// Package resilience has the layers that stand around admission, and say what becomes of calls that fail.
//
// Each is an interceptor to list before the gates in [sluice.Config], outermost first. What stands outside
// the gates holds nothing: while a call waits between two attempts, its slots and tokens are others'. The
// layers are written on the public API of package sluice alone, as yours can be.
//
//	fallback := sluice.Must(resilience.NewFallback(resilience.FallbackConfig{To: "almanac"}))
//	cache := sluice.Must(resilience.NewCache(resilience.CacheConfig{}))
//	join := sluice.Must(resilience.NewJoin(resilience.JoinConfig{}))
//	timeout := sluice.Must(resilience.NewTimeout(resilience.TimeoutConfig{Total: time.Minute}))
//	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{}))
//	hedge := sluice.Must(resilience.NewHedge(resilience.HedgeConfig{Quantile: 0.95}))
//	exec, err := sluice.NewExecutor(reg, sluice.Config{
//		Interceptors: []sluice.Interceptor{fallback, cache, join, timeout, retry, hedge, limits, breaker},
//	})
//
// For a tool that must have its effect once for a request, however often that comes, a [Once] stands outside
// cache and join, and its [Once.Inner] after the gates.
//
// # What is repeated
//
// A tool may have had an effect before it failed, so by default a [Retry] repeats what has not run, what an
// upstream says it has not done, and tools whose Spec hints that they are ReadOnly or Idempotent: see
// [Retryable]. Hints are promises. Those that come from elsewhere, as from a server of tools, are to be registered
// as Untrusted: no layer goes by them then, unless a Tools or an If of its config does.
//
// Retries are bounded by a [Budget]: when all calls fail, a fifth more attempts are made, and not three
// times as many. So is what a [Hedge] asks for twice because it takes long.
//
// # Changes
//
// [sluice.Reconfigure] changes layers while calls go on, by their Change methods; all but a name, and what a
// [Once] knows duplicates by.
// A predicate on tools is asked for each call, so it may change too, and must not wait.
//
// Beside the layers, [Available] says which tools are worth offering to a model now.
package resilience
