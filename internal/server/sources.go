package server

import (
	"net"
	"net/netip"
	"sync"
)

// sources counts what is open by the peer's address, so that one peer can't take all there is. It holds an address only while
// something of it is open.
type sources struct {
	most, mostEach int

	mu    sync.Mutex
	total int
	open  map[netip.Addr]int
}

func newSources(most, mostEach int) *sources {
	return &sources{most: most, mostEach: mostEach, open: map[netip.Addr]int{}}
}

// take counts one more of a peer's, and says whether it may be. If so, drop takes it away again.
func (s *sources) take(peer netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.most || s.open[peer] >= s.mostEach {
		return false
	}
	s.total++
	s.open[peer]++
	return true
}

func (s *sources) drop(peer netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.open[peer]--; s.open[peer] == 0 {
		delete(s.open, peer)
	}
}

// hostOf is the IP address of a network address; the zero value for a Unix socket's. An IPv6 peer is its /64: that is what
// one host has of them.
func hostOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if ip.Is6() {
		if prefix, err := ip.WithZone("").Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return ip
}
