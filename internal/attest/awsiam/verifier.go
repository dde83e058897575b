// Package awsiam verifies that a caller can sign as an AWS principal: it has signed a GetCallerIdentity request of STS, which
// the broker sends in its place and to nobody but STS.
//
// What the caller signed is never sent on. It is parsed into parts of closed forms (request.go), and a new request is built from
// constants and those parts (sts.go): then the signature holds if it was made for just that. STS says who signed (arn.go).
package awsiam

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

const (
	// maxAge is how old a signature may be, maxSkew how far ahead its maker's clock at most.
	maxAge  = 5 * time.Minute
	maxSkew = time.Minute
	// markLife is how long a proof that was used is remembered: STS takes a signature for 15 minutes.
	markLife = 16 * time.Minute
)

// Config is what a Verifier accepts.
type Config struct {
	// ServerID is what callers sign as the value of X-Credbroker-Server-ID, X-Vault-AWS-IAM-Server-ID or X-K8s-Aws-Id, so that
	// a proof for one broker is good for no other. 1 to 255 bytes of printable ASCII without spaces at the ends. Required.
	ServerID string
	// Accounts are the AWS accounts whose principals are accepted, of 12 digits each. Required.
	Accounts []string
	// Skew is how far ahead a caller's clock may be: 1 s to 60 s. For so long after the memory of used proofs began none are
	// accepted. Required.
	Skew time.Duration
	// Endpoints are further hosts of STS, such as VPC endpoints.
	Endpoints []Endpoint
	// Roots are trusted for STS; the system's if nil.
	Roots *x509.CertPool
	// Replay remembers used proofs. Required.
	Replay attest.Replay
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Endpoint is a host of STS that isn't one of AWS's own names, or that is to be reached elsewhere than its name says.
type Endpoint struct {
	// Host is what callers sign: a DNS name in lower case, without a port.
	Host string
	// Partition is aws, aws-cn or aws-us-gov; Region is the scope of the signatures.
	Partition, Region string
	// Address is where to connect, "host:port"; Host and port 443 if empty. It may be private.
	Address string
}

// Verifier accepts signed GetCallerIdentity requests. It is safe for concurrent use.
type Verifier struct {
	config     Config
	configured map[string]*endpoint
	client     *http.Client
}

var _ attest.Verifier = (*Verifier)(nil)

// New returns a verifier. The error holds every fault of the configuration.
func New(c Config) (*Verifier, error) {
	var faults []error
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.ServerID == "" || len(c.ServerID) > 255 || !printable(c.ServerID) {
		faults = append(faults, errors.New("server_id: is not 1 to 255 printable characters"))
	}
	if len(c.Accounts) == 0 {
		faults = append(faults, errors.New("accounts: at least one is needed"))
	}
	for _, a := range c.Accounts {
		if !isAccount(a) {
			faults = append(faults, fmt.Errorf("accounts: %q is not 12 digits", a))
		}
	}
	if c.Skew < time.Second || c.Skew > maxSkew {
		faults = append(faults, fmt.Errorf("skew: is %s, expected 1s to %s", c.Skew, maxSkew))
	}
	if c.Replay == nil {
		faults = append(faults, errors.New("there is no memory of used proofs"))
	}
	v := &Verifier{config: c, configured: map[string]*endpoint{}}
	for _, e := range c.Endpoints {
		if _, ok := regions[e.Partition]; !ok || e.Region == "" || e.Host == "" || strings.Trim(e.Host, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" || v.configured[e.Host] != nil {
			faults = append(faults, fmt.Errorf("endpoints: %q: host, partition or region is not one, or the host is there twice", e.Host))
		}
		address := e.Address
		if address == "" {
			address = net.JoinHostPort(e.Host, "443")
		}
		v.configured[e.Host] = &endpoint{host: e.Host, partition: e.Partition, region: e.Region, address: address}
	}
	v.client = &http.Client{
		Transport:     newTransport(c.Roots, v.configured),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return v, errors.Join(faults...)
}

// Close closes the connections to STS that are idle.
func (v *Verifier) Close() { v.client.CloseIdleConnections() }

// Verify implements attest.Verifier for attest.KindAWS: Issuer is the partition, Tenant the account, Subject the unique ID of the
// user or role. attest.ErrUsed means that another caller, who may be the same one, signed the same in the same second. A proof that
// was used is used up, whatever becomes of it.
func (v *Verifier) Verify(ctx context.Context, p attest.Proof) (attest.Identity, error) {
	if p.Kind != attest.KindAWS {
		return attest.Identity{}, fmt.Errorf("%w: kind %q, expected %q", attest.ErrMalformed, p.Kind, attest.KindAWS)
	}
	r, err := parse(p.Data.Reveal(), v.configured)
	if err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrMalformed, err)
	}
	if err := v.check(r); err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrRejected, err)
	}
	// Before STS is asked, so that of two at one time only one is.
	if err := v.config.Replay.Use(ctx, r.name(), r.date.Add(-v.config.Skew), markLife); err != nil {
		switch {
		case errors.Is(err, attest.ErrUsed) && r.nonce != "":
			return attest.Identity{}, fmt.Errorf("%w: proof with a nonce was used before", attest.ErrRejected)
		case errors.Is(err, attest.ErrRejected) && !errors.Is(err, attest.ErrUsed):
			// It may be honest, and made just after a start: then another will do in a moment.
			return attest.Identity{}, fmt.Errorf("%w: %s", attest.ErrUnavailable, err.Error()) // not both: the table asks for the first that matches
		}
		return attest.Identity{}, err
	}
	who, err := v.ask(ctx, r)
	if err != nil {
		return attest.Identity{}, err
	}
	if !slices.Contains(v.config.Accounts, who.account) {
		return attest.Identity{}, fmt.Errorf("%w: account %s is not accepted", attest.ErrRejected, who.account)
	}
	return who.identity(r), nil
}

// check holds the request against the clock and this broker's ID.
func (v *Verifier) check(r *request) error {
	now := v.config.Now()
	switch {
	case r.date.After(now.Add(v.config.Skew)):
		return fmt.Errorf("it was signed at %s, which is to come", r.date.Format(time.RFC3339))
	case r.date.Before(now.Add(-maxAge)), r.presigned && r.date.Add(r.expires).Before(now):
		return fmt.Errorf("it was signed at %s and is too old", r.date.Format(time.RFC3339))
	case !r.presigned && subtle.ConstantTimeCompare([]byte(r.serverID), []byte(v.config.ServerID)) != 1:
		return errors.New("it is signed for another server ID")
	}
	return nil
}

// name is what a proof is remembered by. Whoever changes anything else of it breaks the signature.
func (r *request) name() [sha256.Size]byte {
	data := make([]byte, 0, 256)
	for _, part := range []string{"aws", r.accessKeyID, r.signature} {
		data = binary.BigEndian.AppendUint64(data, uint64(len(part)))
		data = append(data, part...)
	}
	return sha256.Sum256(data)
}

var pathAttrs = map[string]bool{"path": true}

func (p *principal) identity(r *request) attest.Identity {
	id := attest.Identity{
		Kind: attest.KindAWS, Issuer: p.partition, Tenant: p.account, Subject: p.uniqueID, Session: p.session, Expires: r.date.Add(maxAge),
		Attrs: map[string][]string{"account": {p.account}, "partition": {p.partition}, "arn": {p.arn()}, "type": {p.kind}, p.kind: {p.name}},
	}
	if p.kind == "user" { // a role's isn't known
		id.Attrs["path"], id.PathAttrs = []string{p.path}, pathAttrs
	}
	return id
}
