package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker/internal/secret"
)

// clientFlags say which broker to ask, and as who.
type clientFlags struct {
	endpoint  string
	tokenFile string
	role      string
	caFile    string
	plaintext bool
}

// issued is the answer of POST /v1/credentials. It holds secrets in the clear: it is made to be printed.
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
	flags.StringVar(&f.endpoint, "endpoint", os.Getenv("CREDBROKER_ENDPOINT"), "URL of the broker's HTTP listener [$CREDBROKER_ENDPOINT]")
	flags.StringVar(&f.tokenFile, "token-file", os.Getenv("CREDBROKER_TOKEN_FILE"), "file that holds the token; - reads it from standard input [$CREDBROKER_TOKEN_FILE]")
	flags.StringVar(&f.role, "role", os.Getenv("CREDBROKER_ROLE"), "role to use [$CREDBROKER_ROLE]")
	flags.StringVar(&f.caFile, "ca-file", os.Getenv("CREDBROKER_CA_FILE"), "PEM file of the CA that the broker's certificate comes from; the system's if not given [$CREDBROKER_CA_FILE]")
	flags.BoolVar(&f.plaintext, "insecure-plaintext", false, "allow http:// beyond this machine: whoever is on the way can read the token and the credentials")
}

// issue asks the broker for credentials.
func (f *clientFlags) issue(c *cobra.Command, policy string, ttl time.Duration) (issued, error) {
	base, err := f.check()
	if err != nil {
		return issued{}, &usageError{err, c.CommandPath()}
	}
	token, err := f.token(c.InOrStdin())
	if err != nil {
		return issued{}, err
	}
	client, err := f.httpClient()
	if err != nil {
		return issued{}, err
	}
	defer client.CloseIdleConnections()

	body := map[string]any{"role": f.role}
	if policy != "" {
		body["policy"] = policy
	}
	if ttl > 0 {
		body["ttl_seconds"] = int64(ttl / time.Second)
	}
	data, err := json.Marshal(body)
	if err != nil {
		return issued{}, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base.JoinPath("/v1/credentials").String(), bytes.NewReader(data))
	if err != nil {
		return issued{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	req.Header.Set("User-Agent", "credbroker/"+versionText())
	resp, err := client.Do(req)
	if err != nil {
		return issued{}, fmt.Errorf("the broker at %s can't be reached: %w", base.Host, withoutURL(err))
	}
	defer resp.Body.Close() //nolint:errcheck // read-only
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 256<<10))
	if err != nil {
		return issued{}, fmt.Errorf("the broker's answer broke off: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return issued{}, refusal(resp.StatusCode, answer)
	}
	var got issued
	if err := json.Unmarshal(answer, &got); err != nil || !got.sane() {
		return issued{}, errors.New("the broker's answer isn't what a broker sends: is --endpoint the URL of its HTTP listener?")
	}
	return got, nil
}

func (f *clientFlags) check() (*url.URL, error) {
	var missing []string
	for _, flag := range []struct{ name, value string }{{"--endpoint", f.endpoint}, {"--token-file", f.tokenFile}, {"--role", f.role}} {
		if flag.value == "" {
			missing = append(missing, flag.name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("needed and not given: %s", strings.Join(missing, ", "))
	}
	u, err := url.Parse(f.endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("--endpoint must be a URL such as https://broker.internal:8443")
	}
	if u.Scheme == "http" && !f.plaintext && !loopback(u.Hostname()) {
		return nil, errors.New("--endpoint is http:// beyond this machine: use https://, or say --insecure-plaintext")
	}
	return u, nil
}

func (f *clientFlags) token(stdin io.Reader) (secret.Secret, error) {
	const most = 16 << 10
	if f.tokenFile != "-" {
		token, err := secret.ReadFile(f.tokenFile, most)
		if err != nil {
			return secret.Secret{}, fmt.Errorf("token: %w", err)
		}
		return token, nil
	}
	data, err := io.ReadAll(io.LimitReader(stdin, most+1))
	if err != nil {
		return secret.Secret{}, err
	}
	text := strings.TrimSpace(string(data))
	if text == "" || len(data) > most {
		return secret.Secret{}, errors.New("standard input holds no token, or more than 16 KiB")
	}
	return secret.New(text), nil
}

func (f *clientFlags) httpClient() (*http.Client, error) {
	transport := &http.Transport{
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 20 * time.Second,
		ForceAttemptHTTP2:     true,
	}
	if f.caFile != "" {
		pem, err := os.ReadFile(f.caFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca-file: %s holds no PEM certificate", f.caFile)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{
		Transport: transport,
		// The token goes where it was meant to go, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("it answered with a redirect") },
	}, nil
}

// refusal turns an error answer into words.
func refusal(status int, answer []byte) error {
	var body struct {
		Error struct {
			Code      string `json:"code"`
			Message   string `json:"message"`
			RequestID string `json:"request_id"`
			Retryable bool   `json:"retryable"`
		} `json:"error"`
	}
	if err := json.Unmarshal(answer, &body); err != nil || body.Error.Code == "" {
		return fmt.Errorf("HTTP status %d, and not in a broker's words: is --endpoint the URL of its HTTP listener?", status)
	}
	hint := ""
	if body.Error.Retryable {
		hint = "; try again"
	}
	return fmt.Errorf("%q: %q (request %q%s)", body.Error.Code, body.Error.Message, body.Error.RequestID, hint)
}

var harmless = regexp.MustCompile(`^[A-Za-z0-9+/=._-]+$`)

// sane says whether an answer may be pasted into a shell or a file.
func (i issued) sane() bool {
	return harmless.MatchString(i.AccessKeyID) && harmless.MatchString(i.SecretAccessKey) &&
		(i.SessionToken == "" || harmless.MatchString(i.SessionToken)) && !i.ExpiresAt.IsZero()
}

// withoutURL drops what net/http puts around an error, which repeats the URL.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
