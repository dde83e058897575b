package agent

import (
	"errors"
	"net"
	"net/netip"
	"strings"
)

// The addresses of the EKS Pod Identity Agent, which SDKs ask over plain HTTP as they do loopback.
var linkLocal = []netip.Addr{netip.MustParseAddr("169.254.170.23"), netip.MustParseAddr("fd00:ec2::23")}

// ErrAddress is ParseAddress's.
var ErrAddress = errors.New("expected unix:/PATH, or a port of 127.0.0.0/8, [::1], 169.254.170.23 or [fd00:ec2::23], as in 127.0.0.1:8450")

// Address is where an agent listens: on a TCP address that only this machine reaches, or a Unix socket.
type Address struct {
	// Network is "tcp" or "unix"; Name is host:port or a path.
	Network, Name string
}

// ParseAddress refuses addresses that other machines reach.
func ParseAddress(text string) (Address, error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return Address{}, ErrAddress
		}
		return Address{Network: "unix", Name: path}, nil
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil || at.Addr().Zone() != "" || at.Addr().Is4In6() {
		return Address{}, ErrAddress
	}
	if !at.Addr().IsLoopback() && at.Addr() != linkLocal[0] && at.Addr() != linkLocal[1] {
		return Address{}, ErrAddress
	}
	return Address{Network: "tcp", Name: at.String()}, nil
}

// Hosts are the values of a request's Host header that mean a listener at the TCP address bound; nil for a Unix socket's.
func Hosts(bound net.Addr) []string {
	tcp, ok := bound.(*net.TCPAddr)
	if !ok {
		return nil
	}
	at := netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), uint16(tcp.Port))
	hosts := []string{at.String()}
	if at.Addr().IsLoopback() {
		hosts = append(hosts, strings.Replace(at.String(), hostText(at.Addr()), "localhost", 1))
	}
	if at.Port() == 80 { // clients leave it out
		for _, h := range hosts {
			hosts = append(hosts, strings.TrimSuffix(h, ":80"))
		}
	}
	return hosts
}

// hostText is an address as it stands before a port.
func hostText(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}
