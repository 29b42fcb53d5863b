// Package sluiceredis is an engine on Redis or Valkey.
package sluiceredis
