package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/server"
)

// Open connections of one listener: callers are many, operators and probes few. No host gets more than a quarter.
const (
	maxPublicConns = 8192
	maxOpsConns    = 256
	maxAdminConns  = 32
)

// transports are the broker's servers.
type transports struct {
	grpc, http, ops, admin *server.Server
	gateway, sts           *server.Server // nil if there is none
	certificates           []*server.Certificates
}

// listen opens the listeners, all or none.
func listen(p *program, metrics http.Handler) (t *transports, err error) {
	t = &transports{}
	var opened []*server.Listener
	defer func() {
		if err != nil {
			for _, l := range opened {
				_ = l.Close()
			}
		}
	}()
	open := func(path, address string, tls config.TLS, request bool, o server.ListenOptions) *server.Listener {
		if err != nil {
			return nil
		}
		var l *server.Listener
		if path == "listeners.admin.socket" {
			l, err = server.ListenSocket(address, o)
		} else {
			l, err = server.Listen(address, server.TLSFiles{Cert: tls.CertFile, Key: tls.KeyFile, ClientCA: tls.ClientCAFile, Request: request && tls.Enabled()}, o)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", path, err)
			return nil
		}
		opened = append(opened, l)
		if l.Certificates != nil {
			t.certificates = append(t.certificates, l.Certificates)
		}
		return l
	}

	c, asProof := p.cfg.Listeners, len(p.cfg.X509) > 0
	grpc := open("listeners.grpc", c.GRPC.Address, c.GRPC.TLS, asProof, server.ListenOptions{MaxConns: maxPublicConns, MaxConnsPerHost: maxPublicConns / 16})
	public := open("listeners.http", c.HTTP.Address, c.HTTP.TLS, asProof, server.ListenOptions{MaxConns: maxPublicConns, MaxConnsPerHost: maxPublicConns / 4})
	var gateway *server.Listener
	if c.Gateway.Address != "" {
		gateway = open("listeners.gateway", c.Gateway.Address, c.Gateway.TLS, false, server.ListenOptions{MaxConns: maxPublicConns, MaxConnsPerHost: maxPublicConns / 4})
	}
	var sts *server.Listener
	if c.STS.Address != "" {
		sts = open("listeners.sts", c.STS.Address, c.STS.TLS, false, server.ListenOptions{MaxConns: maxPublicConns, MaxConnsPerHost: maxPublicConns / 4})
	}
	ops := open("listeners.metrics", c.Metrics.Address, c.Metrics.TLS, false, server.ListenOptions{MaxConns: maxOpsConns, MaxConnsPerHost: maxOpsConns / 4})
	var admin *server.Listener
	if c.Admin.Address != "" {
		admin = open("listeners.admin", c.Admin.Address, c.Admin.TLS, false, server.ListenOptions{MaxConns: maxAdminConns, RequireClientCert: true})
	} else {
		admin = open("listeners.admin.socket", c.Admin.Socket, config.TLS{}, false, server.ListenOptions{MaxConns: maxAdminConns})
	}
	if err != nil {
		return nil, err
	}

	o := server.Options{
		Log: p.log, RequestTimeout: p.cfg.Limits.RequestTimeout, Account: p.cfg.STS.Account,
		Floors: server.Floors{STS: p.cfg.STS.MinLeft, Container: p.cfg.ContainerCredentials.MinLeft, OAuth: p.cfg.TokenExchange.MinLeft},
	}
	t.grpc = server.NewGRPC(grpc, p.broker, p.ready, o)
	t.http = server.NewHTTP(public, p.broker, p.issuer, o)
	if gateway != nil {
		t.gateway = server.NewGateway(gateway, p.broker, o)
	}
	if sts != nil {
		t.sts = server.NewSTS(sts, p.broker, o)
	}
	t.ops = server.NewOps(ops, metrics, p.ready, p.cfg.Debug.Pprof, p.log)
	t.admin = server.NewAdmin(admin, p.broker, p, o)
	return t, nil
}

// serve runs the servers in group.
func (t *transports) serve(group *errgroup.Group) {
	for _, s := range t.all() {
		group.Go(s.Serve)
	}
}

// shutdown ends the servers by ctx's end at the latest. Metrics and probes go last, so that they can be watched meanwhile.
func (t *transports) shutdown(ctx context.Context) error {
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, s := range t.all() {
		if s == t.ops {
			continue
		}
		wait.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("calls on %s were cut off: %w", s.Addr(), err))
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return errors.Join(append(errs, t.ops.Shutdown(ctx))...)
}

func (t *transports) all() []*server.Server {
	list := []*server.Server{t.grpc, t.http, t.ops, t.admin}
	for _, s := range []*server.Server{t.gateway, t.sts} {
		if s != nil {
			list = append(list, s)
		}
	}
	return list
}
