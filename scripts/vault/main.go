// The program vault is HashiCorp's Vault server with the few engines and logins that tests and demos use. It starts sealed and
// not initialised, and is set up by its API (PUT sys/init, sys/unseal) like any other.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/audit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	var s server
	flag.StringVar(&s.address, "address", "127.0.0.1:8200", "where it serves")
	flag.StringVar(&s.standby, "standby", "", "where a second server of the same cluster serves, which redirects while it isn't the active one; data is in memory then")
	flag.StringVar(&s.data, "data", "", "directory of its data; memory if empty")
	flag.StringVar(&s.certFile, "tls-cert", "", "its certificate in PEM; plaintext if empty")
	flag.StringVar(&s.keyFile, "tls-key", "", "the key of that certificate")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

type server struct {
	address, standby, data, certFile, keyFile string
}

func (s *server) run(ctx context.Context) error {
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Info})
	storage, ha, err := s.storage(log)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	var cores []*vault.Core
	for _, address := range []string{s.address, s.standby} {
		if address == "" {
			continue
		}
		core, err := vault.NewCore(&vault.CoreConfig{
			Physical: storage, HAPhysical: ha, RedirectAddr: s.scheme() + "://" + address, StorageType: "inmem", ClusterName: "test",
			LogicalBackends: engines, CredentialBackends: logins, BuiltinRegistry: registry{}, AuditBackends: map[string]audit.Factory{"file": audit.NewFileBackend},
			Logger: log.Named(address), DisableMlock: true, DisableCache: ha != nil, DefaultLeaseTTL: 768 * time.Hour, MaxLeaseTTL: 768 * time.Hour,
		})
		if err != nil && !vault.IsFatalError(err) {
			log.Warn("core", "error", err) // as Vault's own server does
		} else if err != nil {
			return err
		}
		cores = append(cores, core)
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() { failed <- s.serve(core, listener) }()
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	for _, core := range cores {
		err = errors.Join(err, core.Shutdown())
	}
	return err
}

// storage is a directory, or memory; with a standby memory that two servers share.
func (s *server) storage(log hclog.Logger) (physical.Backend, physical.HABackend, error) {
	switch {
	case s.standby != "":
		shared, err := inmem.NewTransactionalInmemHA(nil, log)
		if err != nil {
			return nil, nil, err
		}
		return shared, shared.(physical.HABackend), nil
	case s.data != "":
		b, err := file.NewFileBackend(map[string]string{"path": s.data}, log)
		return b, nil, err
	default:
		b, err := inmem.NewInmem(nil, log)
		return b, nil, err
	}
}

func (s *server) scheme() string {
	if s.certFile != "" {
		return "https"
	}
	return "http"
}

func (s *server) serve(core *vault.Core, listener net.Listener) error {
	srv := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core: core, DisablePrintableCheck: true,
			ListenerConfig: &configutil.Listener{Type: "tcp", Address: listener.Addr().String(), MaxRequestSize: 32 << 20, MaxRequestDuration: 90 * time.Second},
		}),
		// As Vault's listener does by default: the login by certificate verifies what it gets here.
		TLSConfig:         &tls.Config{ClientAuth: tls.RequestClientCert},
		ReadHeaderTimeout: 10 * time.Second,
	}
	if s.certFile != "" {
		return srv.ServeTLS(listener, s.certFile, s.keyFile)
	}
	return srv.Serve(listener)
}
