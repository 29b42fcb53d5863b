// Package upstream reads what HTTP APIs say about their rate limits, and tells the tool
// call that asked, so that a [sluice.RateLimiter] with Upstream set holds back every call
// that waits for the same key instead of letting each find out for itself.
//
// The usual way is one line where the program makes its HTTP client:
//
//	transport, err := upstream.NewTransport(upstream.TransportConfig{})
//	client := &http.Client{Transport: transport}
//
// A tool that makes its requests with the context it was given needs nothing else. A tool
// that turns bad answers into errors does so with [Check], whose error tells the library
// the same; both together do no harm: the later end of two pauses counts, and a time that
// Check finds in the body ends the row of pauses that the Transport makes up. [Parse]
// and [ParseBody] are what the two are made of, for other clients than net/http's.
//
// The Transport says all that the answer tells apart: its "host", and below that a "resource",
// or a "policy" and "partition"; the error of Check says the narrowest of them. A limiter that counts [sluice.ByKey] of such a name has that key
// paused, and nothing else is; without one the key of the call pauses, or its tool, for a
// minute at most. So a tool that talks to many hosts wants a limiter with Upstream set, by
// the key "host" as [net/url.URL] has it.
//
// # What is read
//
//	form                                        what it gives
//	Retry-After-Ms, X-Ms-Retry-After-Ms         milliseconds; so any name that ends like that
//	Retry-After (RFC 9110, 10.2.3)              seconds, a date or a duration; also X-Retry-After,
//	                                            X-RateLimit-Retry-After-Seconds and their like
//	RateLimit: "p";r=0;t=30                     IETF draft: remaining, seconds to the reset, pk
//	RateLimit-Policy: "p";q=100;w=60            IETF draft: limit, window, qu, pk
//	RateLimit: limit=9, remaining=0, reset=5    an earlier draft
//	RateLimit-Limit, -Remaining, -Reset         earlier drafts: seconds
//	X-RateLimit-Limit, -Remaining, -Reset       see below; also X-Rate-Limit-..., -Reset-After
//	X-RateLimit-Reset-Ms, ...-Reset-Seconds     the unit as the name says
//	X-RateLimit-Remaining-Requests, ...-Tokens  OpenAI and those like it: durations such as 6m0s
//	Anthropic-RateLimit-Requests-Remaining, ... Anthropic: RFC 3339 dates
//	Anthropic-RateLimit-Unified-5h-Status, ...  "rejected" and its like: used up
//	X-RateLimit-Resource, 403 as well as 429    GitHub: epoch seconds
//	X-Should-Retry: false                       OpenAI, Anthropic: do not send this request again
//	google.rpc.RetryInfo in the body            Gemini and other Google APIs: [ParseBody] and [Check]
//	rateLimitExceeded, ... in the body, 403     Google: a refusal because of a rate, by [Check]
//	retry_after in the body                     Telegram, Discord and others: [ParseBody] and [Check]
//	"secondary rate limit", "abuse detection"   GitHub, in the body: [ParseBody] and [Check]
//	insufficient_quota in the body              OpenAI: do not send this request again, by [Check]
//
// The IETF draft is draft-ietf-httpapi-ratelimit-headers; its fields are Structured Fields
// (RFC 9651), and one that is malformed is ignored whole, as the draft demands.
//
// Resets and Retry-After have one grammar: a number, a duration as Go, ISO 8601 or words
// have it (6m0s, PT6M, 6 minutes), or a date in any form that HTTP, RFC 3339 and ISO 8601
// allow or that C, Go, Ruby and JavaScript print, in UTC if it names no zone. A number within
// a year of the response's own time counts as seconds, or milliseconds, of the Unix epoch; of
// a reset one above 1e12 counts as such milliseconds and one above 1e9 as such seconds in any
// case; any other is a wait from now. Points in time are compared with the response's own
// Date, so a wrong clock on either side does no harm, and a response out of a cache (Age)
// has the less to wait. Fields that are lists, on one line or on several, describe one quota
// after the other, by position; of several Retry-After fields the longest counts.
//
// # Which pause counts
//
// The first of these that names one counts, the longest if it names several:
//
//  1. Retry-After-Ms, of a refusal
//  2. Retry-After, of a refusal
//  3. the IETF fields, of a quota with nothing left
//  4. the provider's own fields, of a quota with nothing left, or of status 429 the reset of
//     the only window there is, if nothing says what is left
//  5. the body, for [Check]
//  6. a minute, of a refusal by GitHub that names no time
//  7. of a [Transport], its own backoff, of a refusal that names no time
//
// OpenAI and Anthropic count with buckets, whose reset is when they are full again. When
// the answer to a request says that no request is left in such a bucket, the pause is only
// until there is room for the next.
//
// A Retry-After of zero, or in the past, names no time: servers that round down send it,
// and a client that obeys is refused again. A refusal is status 429 or 529, 503 with a
// Retry-After, and 403 with a Retry-After, with X-RateLimit-Remaining at 0 or, for [Check],
// with a body that says so. Retry-After
// in any other answer is no matter of rates (with 202 it says when to ask for the result)
// and is left to the caller.
//
// Headers alone do not tell a 403 of GitHub's secondary limit without Retry-After from one
// that forbids, nor a pause of Gemini's; for those, give the body to [Check].
//
// No pause is longer than [MaxPause] unless the caller sets another bound.
package upstream
