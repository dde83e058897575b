package main

import (
	"context"
	"fmt"
	"net"
	"os"
)

// notifySystemd tells the service manager of a state, if it asks to be told: sd_notify(3).
func notifySystemd(ctx context.Context, state string) error {
	socket := os.Getenv("NOTIFY_SOCKET") // a path, or @ and an abstract name, as net has it
	if socket == "" {
		return nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unixgram", socket)
	if err != nil {
		return fmt.Errorf("telling systemd: %w", err)
	}
	defer conn.Close() //nolint:errcheck // a datagram was sent or not
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling systemd: %w", err)
	}
	return nil
}
