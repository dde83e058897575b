//go:build !linux

package main

// forbidCoreDumps does nothing here: the broker is run on Linux, and only tried out elsewhere.
func forbidCoreDumps() error { return nil }
