package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker"
)

// clientFlags say which broker to ask, and as who.
type clientFlags struct {
	endpoint  string
	proof     proofFlags
	role      string
	caFile    string
	plaintext bool
}

// issued is what is printed, in the names of POST /v1/credentials. It holds secrets in the clear: it is made to be printed.
type issued struct {
	AccessKeyID     string    `json:"access_key_id"`
	SecretAccessKey string    `json:"secret_access_key"`
	SessionToken    string    `json:"session_token"`
	ExpiresAt       time.Time `json:"expires_at"`
	Role            string    `json:"role"`
	RequestID       string    `json:"request_id"`
}

func (f *clientFlags) register(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.endpoint, "endpoint", os.Getenv("CREDBROKER_ENDPOINT"), "URL of the broker: https:// for its HTTP listener, grpcs:// for gRPC [$CREDBROKER_ENDPOINT]")
	f.proof.register(c)
	flags.StringVar(&f.role, "role", os.Getenv("CREDBROKER_ROLE"), "role to use [$CREDBROKER_ROLE]")
	flags.StringVar(&f.caFile, "ca-file", os.Getenv("CREDBROKER_CA_FILE"), "PEM file of the CA that the broker's certificate comes from; the system's if not given [$CREDBROKER_CA_FILE]")
	flags.BoolVar(&f.plaintext, "insecure-plaintext", false, "allow http:// and grpc:// beyond this machine: whoever is on the way can read the token and the credentials")
}

// issue asks the broker for credentials.
func (f *clientFlags) issue(c *cobra.Command, opts ...credbroker.RoleOption) (issued, error) {
	client, err := f.client(c)
	if err != nil {
		return issued{}, err
	}
	defer client.Close() //nolint:errcheck // it always returns nil
	got, err := client.Credentials(c.Context(), f.role, opts...)
	if err != nil {
		return issued{}, err
	}
	answer := issued{
		AccessKeyID: got.AccessKeyID, SecretAccessKey: got.SecretAccessKey.Reveal(), SessionToken: got.SessionToken.Reveal(),
		ExpiresAt: got.Expires.UTC(), Role: got.Role, RequestID: got.RequestID,
	}
	if !answer.pasteable() {
		return issued{}, errors.New("the broker's answer holds characters that mean something to a shell")
	}
	return answer, nil
}

// client is a client of the broker, to be closed.
func (f *clientFlags) client(c *cobra.Command) (*credbroker.Client, error) {
	if err := f.check(); err != nil {
		return nil, &usageError{err, c.CommandPath()}
	}
	prover, err := f.proof.prover(c)
	if err != nil {
		return nil, err
	}
	options := []credbroker.Option{credbroker.WithUserAgent("credbroker/" + versionText())}
	if f.caFile != "" {
		options = append(options, credbroker.WithCAFile(f.caFile))
	}
	if f.proof.kind == proofX509 {
		options = append(options, credbroker.WithClientCertificateFiles(f.proof.certFile, f.proof.keyFile))
	}
	if f.plaintext {
		options = append(options, credbroker.WithInsecurePlaintext())
	}
	client, err := credbroker.New(f.endpoint, prover, options...)
	switch {
	case errors.Is(err, credbroker.ErrEndpoint):
		return nil, &usageError{errors.New("--endpoint must be a URL such as https://broker.internal:8443 or grpcs://broker.internal:9443"), c.CommandPath()}
	case errors.Is(err, credbroker.ErrPlaintext):
		scheme, _, _ := strings.Cut(f.endpoint, "://")
		return nil, &usageError{fmt.Errorf("--endpoint is %s:// beyond this machine: use %[1]ss://, or say --insecure-plaintext", scheme), c.CommandPath()}
	}
	return client, err
}

func (f *clientFlags) check() error {
	missing, err := f.proof.check()
	if err != nil {
		return err
	}
	if f.endpoint == "" {
		missing = append([]string{"--endpoint"}, missing...)
	}
	if f.role == "" {
		missing = append(missing, "--role")
	}
	if len(missing) > 0 {
		return fmt.Errorf("needed and not given: %s", strings.Join(missing, ", "))
	}
	return nil
}

var harmless = regexp.MustCompile(`^[A-Za-z0-9+/=._-]+$`)

// pasteable says whether an answer may be pasted into a shell or a file.
func (i issued) pasteable() bool {
	return harmless.MatchString(i.AccessKeyID) && harmless.MatchString(i.SecretAccessKey) &&
		(i.SessionToken == "" || harmless.MatchString(i.SessionToken))
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
