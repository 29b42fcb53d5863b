// Package sluiceprom shows tool calls, queues, limits and breakers to Prometheus: counters and histograms of calls, and
// the state of an executor at each scrape, in a number of series that neither models nor tenants can multiply.
//
//	col, err := sluiceprom.NewCollector(sluiceprom.Config{})
//	exec, err := sluice.NewExecutor(registry, sluice.Config{Interceptors: gates, Sink: col})
//	err = col.Watch(exec)     // the state of limits and breakers
//	err = registerer.Register(col)
//
// The file dashboard.json is a dashboard for Grafana.
//
// # Metrics
//
// From events:
//
//	sluice_calls_total                tool, outcome, reason  outcome is completed, failed or denied; reason is sluice.CodeOf
//	sluice_call_duration_seconds      tool, outcome          histogram, waits and retries included
//	sluice_queue_wait_seconds         limiter, priority      histogram, of calls that waited: for what they waited last
//	sluice_rejections_total           limiter, reason        the tool's code did not run
//	sluice_retries_total              tool, reason
//	sluice_panics_total               tool
//	sluice_abandoned_total            tool
//	sluice_breaker_transitions_total  breaker, from, to
//	sluice_rate_limit_pauses_total    limiter
//	sluice_limit_stalls_total         limiter
//
// By [Collector.Watch], of one instant at each scrape:
//
//	sluice_executor_running, _queued, _abandoned      calls
//	sluice_events_dropped_total
//	sluice_in_flight, sluice_limit                    limiter, key: what is taken, and what there is
//	sluice_limit_stalled, sluice_paused               limiter, key
//	sluice_rate_limit_tokens                          limiter, key: below zero it is in debt
//	sluice_breaker_state                              breaker, key, state: 1 for the state that it is in, else 0
//	sluice_queue_length, sluice_queue_oldest_seconds  limiter, priority
//	sluice_fleet_away                                 fleet: 1 while its engine does not answer, else 0
//	sluice_fleet_trips_total, _failed_trips_total     fleet
//	sluice_layer_used, sluice_layer_limit             layer: what interceptors say of themselves
//
// # Labels
//
// A tool's name is a label once it is known to be registered; all others, which a model may have made up, are _other.
// A key, as a tenant or a host, is a label of the state alone, and of each limiter the first Config.MaxKeys are; all
// others are added up under _other. So are tools beyond Config.MaxTools, limiters, layers and fleets beyond 1,000, and reasons
// beyond 100. A series that is there stays the same. Texts are cut to 200 bytes, and bytes that are no UTF-8 replaced.
//
// # What to know
//
//   - Each executor has a collector of its own. Two in one registry are told apart by
//     prometheus.WrapRegistererWith(prometheus.Labels{"executor": "agents"}, registerer).Register(col). Executors that
//     share a registry, a gate or a scheduler show the same state: watch one of them.
//   - Before Watch a tool is _other until its first call has been admitted, or waits.
//   - A key that is idle goes, and its series with it; a queue goes on with zero.
//   - It does not wait: there is no use for a sluice.AsyncSink around it, which may drop events, and then counts less.
package sluiceprom
