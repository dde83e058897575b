package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/metrics"
	"github.com/credbroker/credbroker/internal/vault"
)

// newVault makes the client of the configured Vault, which still has to be run; nil without a Vault.
func newVault(cfg *config.Config, m *metrics.Metrics, log *slog.Logger) (*vault.Client, error) {
	c := cfg.Vault
	if !c.Enabled() {
		return nil, nil
	}
	login, err := vaultLogin(c.Auth)
	if err != nil {
		return nil, err
	}
	return vault.New(vault.Config{
		Address: c.Address, Nodes: c.Nodes, Namespace: c.Namespace, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
		Timeout: c.Timeout, Login: login, Log: log, Observe: m.VaultOperation,
	})
}

// vaultLogin is the one switch of the ways to log in.
func vaultLogin(a config.VaultAuth) (vault.Login, error) {
	switch a.Method {
	case config.VaultTokenFile:
		return vault.TokenFile{Path: a.TokenFile}, nil
	case config.VaultAppRole:
		return vault.AppRole{Mount: a.Mount, Role: a.Role, RoleIDFile: a.RoleIDFile, SecretIDFile: a.SecretIDFile, Wrapped: a.SecretIDWrapped}, nil
	case config.VaultJWT, config.VaultKubernetes:
		return vault.JWT{Mount: a.Mount, Role: a.Role, Path: a.TokenFile}, nil
	case config.VaultCert:
		return vault.Certificate{Mount: a.Mount, Role: a.Role}, nil
	case config.VaultAWS:
		return vault.AWS{Mount: a.Mount, Role: a.Role, Region: a.Region, ServerID: a.ServerID, AssumeRole: a.AssumeRole, STS: a.STSEndpoint}, nil
	case config.VaultGCP:
		return vault.GCP{Mount: a.Mount, Role: a.Role, ServiceAccount: a.ServiceAccount}, nil
	case config.VaultAzure:
		return vault.Azure{
			Mount: a.Mount, Role: a.Role, Resource: a.Resource,
			SubscriptionID: a.SubscriptionID, ResourceGroup: a.ResourceGroup, VM: a.VM, ScaleSet: a.ScaleSet, ResourceID: a.ResourceID,
		}, nil
	default:
		return nil, fmt.Errorf("vault.auth.method: %q is not known", a.Method)
	}
}

// exportVault adds the values of the Vault client that are read when metrics are scraped.
func exportVault(m *metrics.Metrics, c *vault.Client) {
	m.Gauge("credbroker_vault_up", "0 while Vault can't be used, or the broker has no token or can't keep it alive.", nil, func() float64 {
		if c.Status() == "" {
			return 1
		}
		return 0
	})
	m.Gauge("credbroker_vault_token_remaining_seconds", "Life left of the broker's Vault token, as it stands now; 0 without one, or if it has no end that the broker knows.", nil, func() float64 {
		return max(time.Until(c.TokenEnds()).Seconds(), 0)
	})
}
