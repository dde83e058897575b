package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/credbroker/credbroker/internal/agent"
	"github.com/credbroker/credbroker/internal/server"
)

// Bounds of an agent.
const (
	maxAgentConns = 256 // of one listener
	maxAgentRoles = 16
	// agentDrain is how long the agent's calls may take to end when it is told to stop.
	agentDrain = 5 * time.Second
)

func newAgentCommand() *cobra.Command {
	var a agentFlags
	c := &cobra.Command{
		Use:     "agent",
		GroupID: "use",
		Short:   "Hand credentials to AWS SDKs on this machine, as AWS's containers do",
		Long: `agent proves this machine's or pod's identity to the broker, and gives what it gets to the AWS SDKs of programs that can't do
that themselves, by the protocol of AWS's container credentials. It has credentials before it is asked, renews them ahead of their
end, and gives out the last ones while the broker is away. Programs need two variables, and an endpoint for S3:

  AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:8450/v1/container-credentials/reports
  AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/run/credbroker-agent/token

It listens on addresses that only this machine reaches: loopback, those of the EKS Pod Identity Agent (169.254.170.23 and
[fd00:ec2::23], which must be set up on an interface), or a Unix socket. GET /healthz answers 200 while every role has valid
credentials; systemd is told when all have had some.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.run(c) },
	}
	a.client.register(c)
	c.Flags().Lookup("role").Usage = "role to serve, or several with commas between them [$CREDBROKER_ROLE]"
	c.Flags().StringArrayVar(&a.listen, "listen", []string{"127.0.0.1:8450"}, "where to listen: ADDRESS:PORT or unix:/PATH; may be repeated")
	c.Flags().StringVar(&a.authorizationFile, "authorization-file", "", "file of the token that clients must show; made with mode 0600 if it isn't there")
	c.Flags().BoolVar(&a.open, "no-authorization", false, "ask clients for no token: on a Unix socket alone, which only this user may connect to")
	return c
}

type agentFlags struct {
	client            clientFlags
	listen            []string
	authorizationFile string
	open              bool
}

var roleName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// check finds all faults of the flags that are the agent's own.
func (a *agentFlags) check() (roles []string, at []agent.Address, err error) {
	var faults []error
	roles = strings.Split(a.client.role, ",")
	for i, role := range roles {
		if a.client.role != "" && (!roleName.MatchString(role) || slices.Contains(roles[:i], role)) {
			faults = append(faults, fmt.Errorf("--role has %.64q: expected names of roles, each once, with commas between them", role))
		}
	}
	if len(roles) > maxAgentRoles {
		faults = append(faults, fmt.Errorf("--role has %d roles; at most %d are served", len(roles), maxAgentRoles))
	}
	for _, text := range a.listen {
		address, err := agent.ParseAddress(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("--listen is %.128q: %w", text, err))
		} else if a.open && address.Network != "unix" {
			faults = append(faults, fmt.Errorf("--no-authorization is for Unix sockets alone, and --listen is %s", text))
		}
		at = append(at, address)
	}
	if len(at) == 0 {
		faults = append(faults, errors.New("--listen is needed"))
	}
	if a.open == (a.authorizationFile != "") {
		faults = append(faults, errors.New("either --authorization-file or --no-authorization is needed"))
	}
	return roles, at, errors.Join(faults...)
}

func (a *agentFlags) run(c *cobra.Command) error {
	roles, at, err := a.check()
	if err != nil {
		return &usageError{err, c.CommandPath()}
	}
	client, err := a.client.client(c)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // it always returns nil
	var auth *agent.Authorization
	if !a.open {
		if auth, err = agent.OpenAuthorization(a.authorizationFile); err != nil {
			return err
		}
	}
	log := slog.New(slog.NewJSONHandler(c.ErrOrStderr(), nil))
	keeper := agent.New(client.Current, log, roles...)

	var listeners []*server.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	for _, address := range at {
		l, err := listenLocally(address)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
		if address.Network == "tcp" { // the port may have been the kernel's choice
			address.Name = l.Addr().String()
		}
		log.Info("listening", "network", address.Network, "address", address.Name)
	}
	return serveAgent(c.Context(), keeper, auth, listeners)
}

func listenLocally(at agent.Address) (*server.Listener, error) {
	o := server.ListenOptions{MaxConns: maxAgentConns}
	if at.Network == "unix" {
		return server.ListenSocket(at.Name, o)
	}
	return server.Listen(at.Name, server.TLSFiles{}, o)
}

// serveAgent answers until ctx ends. The kernel took connections before: who comes early waits for the first credentials.
func serveAgent(ctx context.Context, keeper *agent.Agent, auth *agent.Authorization, listeners []*server.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { keeper.Run(ctx); return nil })
	for _, l := range listeners {
		s := &http.Server{
			Handler:           keeper.Handler(agent.Hosts(l.Addr()), auth),
			ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
			MaxHeaderBytes: 16 << 10,
			ErrorLog:       slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // callers' faults, in callers' words
			BaseContext:    func(net.Listener) context.Context { return ctx },       // waiting for credentials ends when the agent does
		}
		group.Go(func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), agentDrain)
			defer cancel()
			if err := s.Shutdown(stop); err != nil {
				return s.Close()
			}
			return nil
		})
	}
	group.Go(func() error {
		select {
		case <-keeper.Ready():
			return notifySystemd(ctx, "READY=1")
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}
