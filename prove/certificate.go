package prove

import "context"

// PeerCertificate is the client certificate of the connection to the broker. It holds nothing itself.
const PeerCertificate Kind = "x509"

// ClientCertificate proves with the client certificate of the connection, which a client has by credbroker.WithClientCertificate: an
// X.509-SVID of SPIFFE, or one of an authority that the broker is configured for. The broker must be reached by TLS that ends at it.
func ClientCertificate() Prover {
	return proverFunc(func(context.Context) (Proof, error) { return NewProof(PeerCertificate, ""), nil })
}
