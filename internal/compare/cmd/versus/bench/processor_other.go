//go:build !unix

package main

import "time"

// processor is unknown here.
func processor() time.Duration { return 0 }
