package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Listeners are where the broker can be reached.
type Listeners struct {
	// GRPC is the public gRPC listener. Default address 127.0.0.1:9443.
	GRPC Listener `yaml:"grpc"`
	// HTTP is the public HTTP/JSON listener, which also serves the discovery document and keys of `issuer`. Default
	// address 127.0.0.1:8443.
	HTTP Listener `yaml:"http"`
	// Metrics serves /metrics, /healthz and /readyz. Default address 127.0.0.1:9464.
	Metrics Listener `yaml:"metrics"`
	// Gateway is for gateways that speak for consumers (docs/gateway.md), and for nobody else. Default none.
	Gateway Listener `yaml:"gateway"`
	// STS speaks the STS query API alone, at "/", for clients whose endpoint can't have a path. Default none.
	STS Listener `yaml:"sts"`
	// Admin serves the admin API.
	Admin AdminListener `yaml:"admin"`
}

// Listener is a TCP listener.
type Listener struct {
	// Address is "host:port"; without a host, every address of the machine; port 0 lets the system choose.
	Address string `yaml:"address"`
	// TLS turns TLS on. Client certificates are checked if they are given.
	TLS TLS `yaml:"tls"`
	// InsecurePlaintext allows plaintext beyond loopback. Default false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
}

// AdminListener is a Unix socket, or TCP with mutual TLS.
type AdminListener struct {
	// Socket is the path of a Unix socket that only the broker's own user may use (mode 0600); absolute, at most 100
	// bytes. Default /run/credbroker/admin.sock, if there is no Address. Empty if there is one.
	Socket string `yaml:"socket"`
	// Address is "host:port", instead of Socket. TLS must then be complete, and every client shows a certificate.
	Address string `yaml:"address"`
	// TLS is for Address alone.
	TLS TLS `yaml:"tls"`
}

// TLS names the PEM files of a listener. They are read again when they change. The zero value is plaintext.
type TLS struct {
	// CertFile holds the server's certificate and its intermediates. It goes together with KeyFile. Default none.
	CertFile string `yaml:"cert_file"`
	// KeyFile holds the private key of CertFile. Default none.
	KeyFile string `yaml:"key_file"`
	// ClientCAFile holds the roots of client certificates; without it none is asked for. Default none.
	ClientCAFile string `yaml:"client_ca_file"`
}

// Enabled reports whether the listener speaks TLS.
func (t TLS) Enabled() bool { return t.CertFile != "" }

const defaultSocket = "/run/credbroker/admin.sock"

func defaultListeners() Listeners {
	return Listeners{
		GRPC:    Listener{Address: "127.0.0.1:9443"},
		HTTP:    Listener{Address: "127.0.0.1:8443"},
		Metrics: Listener{Address: "127.0.0.1:9464"},
		Admin:   AdminListener{Socket: defaultSocket},
	}
}

// public are the listeners but the admin one, by path.
func (l *Listeners) public() []namedListener {
	list := []namedListener{{"listeners.grpc", &l.GRPC}, {"listeners.http", &l.HTTP}, {"listeners.metrics", &l.Metrics}}
	if l.Gateway != (Listener{}) {
		list = append(list, namedListener{"listeners.gateway", &l.Gateway})
	}
	if l.STS != (Listener{}) {
		list = append(list, namedListener{"listeners.sts", &l.STS})
	}
	return list
}

type namedListener struct {
	path string
	*Listener
}

// exposed reports whether the listener speaks plaintext beyond loopback.
func (l *Listener) exposed() bool {
	host, _, err := net.SplitHostPort(l.Address)
	return err == nil && !l.TLS.Enabled() && !isLoopback(host)
}

func (v *validator) listeners() {
	addresses := map[string]string{}
	for _, l := range v.Listeners.public() {
		v.tls(l.path+".tls", l.TLS)
		if v.address(l.path+".address", l.Address, addresses) && l.exposed() && !l.InsecurePlaintext {
			v.fault(l.path+".address", "%q is plaintext beyond loopback; expected tls.cert_file and tls.key_file, or insecure_plaintext: true", l.Address)
		}
	}
	v.admin(addresses)
	if host, _, err := net.SplitHostPort(v.Listeners.Metrics.Address); v.Debug.Pprof && err == nil && !isLoopback(host) {
		v.fault("debug.pprof", "it shows the memory of the process; expected listeners.metrics.address on loopback")
	}
}

func (v *validator) admin(addresses map[string]string) {
	const path = "listeners.admin"
	admin := v.Listeners.Admin
	v.tls(path+".tls", admin.TLS)
	if admin.Address == "" {
		if !strings.HasPrefix(admin.Socket, "/") || len(admin.Socket) > 100 {
			v.fault(path+".socket", "%.128q; expected an absolute path of at most 100 bytes", admin.Socket)
		}
		if admin.TLS != (TLS{}) {
			v.fault(path+".tls", "a Unix socket has no TLS; expected address as well, or no tls")
		}
		return
	}
	v.address(path+".address", admin.Address, addresses)
	if admin.Socket != "" {
		v.fault(path+".socket", "there is an address as well; expected one of the two")
	}
	if admin.TLS.CertFile == "" || admin.TLS.KeyFile == "" || admin.TLS.ClientCAFile == "" {
		v.fault(path+".address", "the admin API over TCP needs mutual TLS; expected tls.cert_file, tls.key_file and tls.client_ca_file")
	}
}

func (v *validator) tls(path string, t TLS) {
	switch {
	case t.CertFile != "" && t.KeyFile == "":
		v.fault(path+".cert_file", "there is no key_file; expected both or neither")
	case t.KeyFile != "" && t.CertFile == "":
		v.fault(path+".key_file", "there is no cert_file; expected both or neither")
	case t.ClientCAFile != "" && t.CertFile == "":
		v.fault(path+".client_ca_file", "client certificates need TLS; expected cert_file and key_file")
	}
}

// address checks a listener's address, and that none of those seen before takes the same port.
func (v *validator) address(path, address string, seen map[string]string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !validHost(host) && host != "" || !validPort(port) {
		v.fault(path, `%.128q; expected "host:port", as in 127.0.0.1:8443`, address)
		return false
	}
	if port == "0" {
		return true
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if host = ip.String(); ip.IsUnspecified() {
			host = ""
		}
	}
	for other, where := range seen {
		otherHost, otherPort, _ := net.SplitHostPort(other)
		if otherPort == port && (otherHost == host || otherHost == "" || host == "") {
			v.fault(path, "%q collides with %s; expected another port", address, where)
			return true
		}
	}
	seen[net.JoinHostPort(host, port)] = path
	return true
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == port
}

// validHost reports whether host is an IP address or a DNS name.
func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return hostName.MatchString(host) && len(host) <= 253
}

// isLoopback reports whether host can only be this machine.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
