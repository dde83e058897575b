package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/devidp"
)

const defaultIDP = "127.0.0.1:8444"

// devConfig is what `broker dev` runs without a configuration file: one role for the group developers.
const devConfig = `
issuer:
  url: http://127.0.0.1:8443
exchangers:
  minio:
    kind: minio-web-identity
    endpoint: http://127.0.0.1:9000
    client_id: credbroker
    allowed_policies: [readwrite]
roles:
  - name: developer
    description: Read and write every bucket of the development MinIO
    when: '"developers" in identity.attrs.groups'
    exchanger: minio
    policies: [readwrite]
    ttl: {default: 15m, max: 1h, min: 1m}
`

func newDevCommand() *cobra.Command {
	var file, address string
	var users []string
	c := &cobra.Command{
		Use:     "dev",
		GroupID: "run",
		Short:   "Run a broker to try out, with an identity provider that asks nobody for a password",
		Long: `dev runs a broker on loopback together with a DEVELOPMENT identity provider that gives anyone on this machine a token for any
of its users. Without --config it has one role, developer, for the group developers, at a MinIO on 127.0.0.1:9000 that is
started with:

  MINIO_IDENTITY_OPENID_CONFIG_URL=http://127.0.0.1:8443/.well-known/openid-configuration
  MINIO_IDENTITY_OPENID_CLIENT_ID=credbroker
  MINIO_IDENTITY_OPENID_CLIENT_SECRET=<32 random bytes, known to MinIO alone>
  MINIO_IDENTITY_OPENID_CLAIM_NAME=policy

Then:

  broker dev-token alice | broker get --endpoint http://127.0.0.1:8443 --token-file - --role developer`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			host, _, err := net.SplitHostPort(address)
			if err != nil || !loopback(host) {
				return &usageError{errors.New("--idp-address must be a loopback address with a port: it hands tokens to anyone"), c.CommandPath()}
			}
			groups, err := parseUsers(users)
			if err != nil {
				return &usageError{err, c.CommandPath()}
			}
			idp, err := devidp.New("http://"+address, "credbroker", groups)
			if err != nil {
				return err
			}
			socket := os.Getenv("CREDBROKER__LISTENERS__ADMIN__SOCKET")
			if socket == "" {
				// The default lies in /run, which is root's.
				dir, err := os.MkdirTemp("", "credbroker-dev-")
				if err != nil {
					return err
				}
				defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
				socket = dir + "/admin.sock"
			}
			load := func() (*config.Config, error) { return loadDev(file, "http://"+address, socket) }
			fmt.Fprintf(c.ErrOrStderr(), "DEVELOPMENT MODE: http://%s gives anyone on this machine a token for any of: %s\nAdmin socket: %s\n", address, strings.Join(users, " "), socket)
			return withIDP(c.Context(), address, idp.Handler(), func(ctx context.Context) error {
				return serve(ctx, load, "development identity provider: it asks nobody for a password")
			})
		},
	}
	registerConfigFlag(c, &file)
	c.Flags().StringVar(&address, "idp-address", defaultIDP, "where the development identity provider listens")
	c.Flags().StringArrayVar(&users, "user", []string{"alice:developers", "bob:"}, "a user and its groups, as name:group1,group2; may be repeated")
	return c
}

func newDevTokenCommand() *cobra.Command {
	var idp string
	var life time.Duration
	c := &cobra.Command{
		Use:     "dev-token USER",
		GroupID: "use",
		Short:   "Get a token from the identity provider of a running `broker dev`",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
			defer cancel()
			form := url.Values{"user": {args[0]}, "life": {strconv.Itoa(int(life.Seconds()))}}.Encode()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, idp+"/token", strings.NewReader(form))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return fmt.Errorf("no development identity provider there: %w", err)
			}
			defer resp.Body.Close() //nolint:errcheck // read-only
			body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %q", resp.Status, strings.TrimSpace(string(body)))
			}
			_, err = c.OutOrStdout().Write(body)
			return err
		},
	}
	c.Flags().StringVar(&idp, "idp", "http://"+defaultIDP, "URL of the development identity provider")
	c.Flags().DurationVar(&life, "life", devidp.TokenLife, "how long the token lives; no longer than this")
	return c
}

// loadDev reads the configuration and adds the development identity provider to its issuers.
func loadDev(file, idpURL, socket string) (*config.Config, error) {
	env := append(os.Environ(), "CREDBROKER__LISTENERS__ADMIN__SOCKET="+socket)
	var cfg *config.Config
	var err error
	if file == "" {
		cfg, err = config.Parse("built-in", []byte(devConfig), env)
	} else {
		cfg, err = config.Load(file, env)
	}
	if err != nil {
		return nil, err
	}
	return cfg, cfg.AddDevelopmentIssuer(idpURL)
}

func parseUsers(users []string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, u := range users {
		name, list, ok := strings.Cut(u, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("--user %q: expected name:group1,group2", u)
		}
		out[name] = []string{}
		for group := range strings.SplitSeq(list, ",") {
			if group != "" {
				out[name] = append(out[name], group)
			}
		}
	}
	return out, nil
}

// withIDP serves handler while work runs.
func withIDP(ctx context.Context, address string, handler http.Handler, work func(context.Context) error) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	err = work(ctx)
	_ = server.Close()
	<-done
	return err
}
