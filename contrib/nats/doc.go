// Package sluicenats shares state and events among the processes of a fleet through NATS JetStream: it is an engine, as
// github.com/sluice-go/sluice/engine describes one.
package sluicenats
