package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/awsiam"
	"github.com/credbroker/credbroker/internal/attest/gateway"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/attest/x509proof"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/datakeys"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/exchange/awssts"
	"github.com/credbroker/credbroker/internal/exchange/fromvault"
	"github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/issuer"
	"github.com/credbroker/credbroker/internal/metrics"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/redis"
	"github.com/credbroker/credbroker/internal/s3"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/vault"
)

// This file is the only one that knows which kinds there are and which package implements each.

// backends tells the policy what each configured exchanger honours, without starting one.
func backends(cfg *config.Config) map[string]policy.Backend {
	out := make(map[string]policy.Backend, len(cfg.Exchangers))
	for name, e := range cfg.Exchangers {
		switch e.Kind {
		case config.KindMinIOWebIdentity:
			out[name] = minio.WebIdentityHonours(e.AllowedPolicies)
			if e.CallerToken {
				out[name] = minio.CallerTokenHonours()
			}
		case config.KindMinIOAssumeRole:
			out[name] = minio.AssumeRoleHonours()
		case config.KindMinIOCertificate:
			out[name] = minio.CertificateHonours(e.AllowedPolicies)
		case config.KindAWSAssumeRole:
			out[name] = awssts.AssumeRoleHonours()
		case config.KindAWSWebIdentity:
			out[name] = awssts.WebIdentityHonours()
		case config.KindVaultRead:
			out[name] = fromvault.CredentialsHonour(e.Vault.MinTTL)
		}
	}
	return out
}

// newExchangers makes the configured exchangers. Those that have a Run still have to be run.
func newExchangers(cfg *config.Config, iss *issuer.Issuer, v *vault.Client, m *metrics.Metrics, log *slog.Logger) (map[string]exchange.Exchanger, error) {
	out := map[string]exchange.Exchanger{}
	for name, e := range cfg.Exchangers {
		x, err := newExchanger(e, iss, v, func(outcome string, took time.Duration) { m.Exchanged(name, outcome, took) }, log)
		if err != nil {
			return nil, fmt.Errorf("exchangers.%s: %w", name, err)
		}
		out[name] = x
	}
	return out, nil
}

func newExchanger(e config.Exchanger, iss *issuer.Issuer, v *vault.Client, observe func(string, time.Duration), log *slog.Logger) (exchange.Exchanger, error) {
	server := minio.Server{Endpoint: e.Endpoint, CAFile: e.CAFile, Timeout: e.Timeout, Observe: observe}
	switch e.Kind {
	case config.KindMinIOWebIdentity:
		tokens, err := newTokenSource(e, iss, v)
		if err != nil {
			return nil, err
		}
		return minio.NewWebIdentity(minio.WebIdentityConfig{
			Server: server, ClientID: e.ClientID, Tokens: tokens, AllowedPolicies: e.AllowedPolicies, Dangerous: e.Dangerous, Log: log,
		})
	case config.KindMinIOAssumeRole:
		return minio.NewAssumeRole(minio.AssumeRoleConfig{Server: server, Parent: newParent(e, v), Region: cmp.Or(e.Region, "us-east-1"), Dangerous: e.Dangerous})
	case config.KindMinIOCertificate:
		return minio.NewCertificate(minio.CertificateConfig{
			Server: server, Certificates: newCertificates(e, v), AllowedPolicies: e.AllowedPolicies,
		})
	case config.KindAWSAssumeRole, config.KindAWSWebIdentity:
		return newAWSExchanger(e, iss, observe)
	case config.KindVaultRead:
		return fromvault.NewCredentials(fromvault.CredentialsConfig{
			Client: v, Path: e.Vault.Path, Write: e.Vault.Write, Parameters: e.Vault.Parameters, Fields: fromvault.Fields(e.Vault.Fields),
			Log: log, Observe: observe,
		}), nil
	}
	return nil, fmt.Errorf("kind %q is not known", e.Kind)
}

func newAWSExchanger(e config.Exchanger, iss *issuer.Issuer, observe func(string, time.Duration)) (exchange.Exchanger, error) {
	c := awssts.Config{
		RoleARN: e.RoleARN, Region: e.Region, Endpoint: e.Endpoint, CAFile: e.CAFile, Timeout: e.Timeout, Observe: observe,
		ExternalID: e.ExternalID, SourceIdentity: e.SourceIdentity,
	}
	if e.Kind == config.KindAWSWebIdentity {
		var err error
		c.Tokens, err = iss.Source(issuer.SourceConfig{Audience: cmp.Or(e.ClientID, awssts.Audience), NoPolicies: true})
		if err != nil {
			return nil, err
		}
		return awssts.New(c)
	}
	// The platform's own: a web identity, a container's or an instance's role. Nothing is asked yet.
	own, err := awsconfig.LoadDefaultConfig(context.Background(), awsconfig.WithRegion(e.Region))
	if err != nil {
		return nil, fmt.Errorf("the broker's own credentials of AWS: %w", err)
	}
	c.Credentials = own.Credentials
	return awssts.New(c)
}

func newParent(e config.Exchanger, v *vault.Client) minio.Keys {
	if e.ParentFile != "" {
		return minio.KeyFile(e.ParentFile)
	}
	return newVaultKey(v, e.Vault.Path, e.Vault.Fields.AccessKeyID, e.Vault.Fields.SecretAccessKey)
}

func newCertificates(e config.Exchanger, v *vault.Client) minio.Certificates {
	if e.CertFile != "" {
		return minio.CertificateFiles{CertFile: e.CertFile, KeyFile: e.KeyFile}
	}
	return fromvault.NewCertificates(fromvault.CertificatesConfig{Client: v, Mount: e.PKI.Mount, Role: e.PKI.Role, TTL: e.PKI.TTL})
}

// newTokenSource makes what web-identity exchanges show: tokens of the broker's own, of Vault's, or the callers'.
func newTokenSource(e config.Exchanger, iss *issuer.Issuer, v *vault.Client) (exchange.TokenSource, error) {
	if e.CallerToken {
		return exchange.CallerToken{}, nil
	}
	if e.IdentityRole != "" {
		return fromvault.IdentityTokens{Client: v, Role: e.IdentityRole}, nil
	}
	return iss.Source(issuer.SourceConfig{Audience: e.ClientID, AllowedPolicies: e.AllowedPolicies, Dangerous: e.Dangerous})
}

// newRedis makes the client of what replicas share, and its keys; nil without a Redis.
func newRedis(cfg *config.Config, m *metrics.Metrics, log *slog.Logger) (*redis.Client, *seal.Keyring, *cache.Keyer, error) {
	r := cfg.Redis
	if !r.Enabled() {
		return nil, nil, cache.NewKeyer(randomKey()), nil
	}
	keyring, keyer, err := newSharedKeys(r)
	if err != nil {
		return nil, nil, nil, err
	}
	encryption, err := redisTLS(r.TLS)
	if err != nil {
		return nil, nil, nil, err
	}
	var sentinelPassword secret.Secret
	if r.SentinelPasswordFile != "" {
		if sentinelPassword, err = secret.ReadFile(r.SentinelPasswordFile, 4096); err != nil {
			return nil, nil, nil, fmt.Errorf("redis.sentinel_password_file: %w", err)
		}
	}
	client, err := redis.New(redis.Config{
		Mode: r.Mode, Addresses: r.Addresses, MasterName: r.MasterName, Username: r.Username, PasswordFile: r.PasswordFile,
		SentinelUsername: r.SentinelUsername, SentinelPassword: sentinelPassword, DB: r.DB, TLS: encryption,
		Timeout: r.Timeout, Prefix: r.Prefix, Keyring: keyring, Observe: m.RedisOperation, Log: log,
	})
	return client, keyring, keyer, err
}

// newSharedKeys reads the key files, or makes do until Vault has unwrapped the keys.
func newSharedKeys(r config.Redis) (*seal.Keyring, *cache.Keyer, error) {
	if r.Transit.Enabled() {
		keyring, err := seal.NewLockedKeyring()
		return keyring, cache.NewKeyer(randomKey()), err
	}
	keys, err := r.ReadKeys()
	if err != nil {
		return nil, nil, err
	}
	keyring, err := seal.NewKeyring(keys.Sealing)
	return keyring, cache.NewKeyer(keys.KeyHMAC...), err
}

// newDataKeys has Vault wrap the keys of what lies in Redis; nil if it doesn't.
func newDataKeys(cfg *config.Config, v *vault.Client, client *redis.Client, keyring *seal.Keyring, keyer *cache.Keyer, log *slog.Logger) *datakeys.Keys {
	t := cfg.Redis.Transit
	if client == nil || !t.Enabled() {
		return nil
	}
	return datakeys.New(datakeys.Config{
		Client: v, Mount: t.Mount, Key: t.Key, Store: client.WrappedKeys(), RotateEvery: t.RotateEvery, Log: log,
		Apply: func(sealing, names []secret.Secret) error {
			keyer.Replace(names)
			return keyring.Replace(sealing)
		},
	})
}

// redisTLS is nil for plaintext.
func redisTLS(t config.RedisTLS) (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		var err error
		if out.RootCAs, err = readRoots(t.CAFile); err != nil {
			return nil, fmt.Errorf("redis.tls.ca_file: %w", err)
		}
	}
	if t.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &c, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("redis.tls.cert_file: %w", err)
		}
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return out, nil
}

// readRoots reads certificates in PEM.
func readRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return roots, nil
}

// newVerifiers makes a verifier for each kind of proof that is configured. Issuers that did not change keep what the
// previous verifier learned.
func newVerifiers(cfg *config.Config, previous *jwtproof.Verifier, replay attest.Replay, log *slog.Logger) (*jwtproof.Verifier, error) {
	issuers := make([]jwtproof.Issuer, len(cfg.Issuers))
	for i, c := range cfg.Issuers {
		attributes := make(map[string]jwtproof.Attribute, len(c.Attributes))
		for name, a := range c.Attributes {
			attributes[name] = jwtproof.Attribute{Claim: a.Claim, Path: a.Path}
		}
		issuers[i] = jwtproof.Issuer{
			Name: c.Name, Profile: jwtproof.Profile(c.Profile), Issuer: c.Issuer,
			Keys: jwtproof.KeySource{
				Discovery: c.Discovery, JWKSURL: c.JWKSURL, JWKSFile: c.JWKSFile, PEMFile: c.PEM.File, PEMKeyID: c.PEM.KID,
				WorkloadAPI: c.WorkloadAPI, ReviewURL: c.TokenReview.URL,
				CAFile: cmp.Or(c.TokenReview.CAFile, c.CAFile), BearerFile: cmp.Or(c.TokenReview.TokenFile, c.BearerFile), AllowPlaintext: c.InsecurePlaintext,
			},
			GCP: jwtproof.GCP(c.GCP), Azure: jwtproof.Azure(c.Azure),
			Audiences: c.Audiences, SoleAudience: c.AudienceMatch == config.AudienceSole, AuthorizedParties: c.AuthorizedParties,
			Types: c.Types, Algorithms: c.Algorithms, Skew: c.Skew, MaxLifetime: c.MaxLifetime, SingleUse: c.SingleUse,
			Attributes: attributes,
		}
	}
	return jwtproof.New(issuers, jwtproof.Options{Previous: previous, Replay: replay, MemoryBytes: cfg.Cache.MaxBytes, Log: log})
}

// kept is what verifiers remember across reloads.
type kept struct {
	used       attest.Replay
	sessions   attest.GatewaySessions
	accessKeys *accessKeys
}

// newRulebook compiles what a configuration says about identities and roles.
func newRulebook(cfg *config.Config, backends map[string]policy.Backend, verifier *jwtproof.Verifier, kept kept, log *slog.Logger) (broker.Rulebook, error) {
	rules, err := compileRules(cfg, backends)
	if err != nil {
		return broker.Rulebook{}, err
	}
	static := map[string][]secret.Secret{}
	for _, k := range cfg.GatewayKeys {
		if static[k.Name], err = secret.ReadKeys(k.KeyFile); err != nil {
			return broker.Rulebook{}, fmt.Errorf("gateway_keys: %w", err)
		}
	}
	verifiers := map[attest.Kind]attest.Verifier{attest.KindJWT: verifier, attest.KindGateway: gateway.New(gateway.StaticKeys(static, kept.sessions, nil), kept.used, nil)}
	if cfg.AWS.Enabled() {
		if verifiers[attest.KindAWS], err = newAWSVerifier(&cfg.AWS, kept.used); err != nil {
			return broker.Rulebook{}, err
		}
	}
	if len(cfg.X509) > 0 {
		if verifiers[attest.KindX509], err = newX509Verifier(cfg.X509, log); err != nil {
			return broker.Rulebook{}, err
		}
	}
	if verifiers[attest.KindSigV4], err = kept.accessKeys.verifier(cfg.AccessKeys); err != nil {
		return broker.Rulebook{}, err
	}
	return broker.Rulebook{
		Verifiers: verifiers,
		Rules:     rules,
		LoadedAt:  time.Now(),
	}, nil
}

func newX509Verifier(authorities []config.X509, log *slog.Logger) (*x509proof.Verifier, error) {
	list := make([]x509proof.Authority, len(authorities))
	for i, a := range authorities {
		list[i] = x509proof.Authority{
			Name: a.Name, TrustDomain: a.TrustDomain, Subject: x509proof.Subject(a.Subject),
			CAFile: a.CAFile, BundleFile: a.BundleFile, WorkloadAPI: a.WorkloadAPI, CRLFile: a.CRLFile,
		}
	}
	return x509proof.New(list, x509proof.Options{Log: log})
}

func newAWSVerifier(a *config.AWS, used attest.Replay) (*awsiam.Verifier, error) {
	c := awsiam.Config{ServerID: a.ServerID, Accounts: a.Accounts, Skew: a.Skew, Replay: used}
	for _, name := range slices.Sorted(maps.Keys(a.Endpoints)) {
		e := a.Endpoints[name]
		c.Endpoints = append(c.Endpoints, awsiam.Endpoint{Host: e.Host, Partition: e.Partition, Region: e.Region, Address: e.Address})
	}
	if a.CAFile != "" {
		var err error
		if c.Roots, err = readRoots(a.CAFile); err != nil {
			return nil, fmt.Errorf("aws.ca_file: %w", err)
		}
	}
	v, err := awsiam.New(c)
	if err != nil {
		return nil, fmt.Errorf("aws: %w", err)
	}
	return v, nil
}

func asBrokerExchangers(cfg *config.Config, exchangers map[string]exchange.Exchanger) map[string]broker.Exchanger {
	out := make(map[string]broker.Exchanger, len(exchangers))
	for name, x := range exchangers {
		e := cfg.Exchangers[name]
		endpoints, region := e.SignsFor()
		out[name] = broker.Exchanger{Exchanger: x, Target: targetOf(e), S3: s3.Target{Endpoints: endpoints, Region: region}}
	}
	return out
}

// targetOf is all of an exchanger's configuration that shapes credentials, apart from what is in a grant.
func targetOf(e config.Exchanger) string {
	return fmt.Sprintf("%s %s %s dangerous=%t %q %q %t %q %q %q %s", e.Kind, e.Endpoint, e.ClientID, e.Dangerous, e.IdentityRole, fmt.Sprint(e.Vault), e.CallerToken, e.ParentFile, e.CertFile, fmt.Sprint(e.PKI), e.RoleARN)
}

// newFingerprinter keys proof fingerprints from the configured file, or at random: then they can be compared only until
// the next start.
func newFingerprinter(path string) (audit.Fingerprinter, error) {
	if path == "" {
		return audit.NewFingerprinter(randomKey()), nil
	}
	key, err := secret.ReadFile(path, 4096)
	if err != nil {
		return audit.Fingerprinter{}, fmt.Errorf("audit.fingerprint_key_file: %w", err)
	}
	if key.Len() < 32 {
		return audit.Fingerprinter{}, fmt.Errorf("audit.fingerprint_key_file: %s holds %d bytes, at least 32 are needed", path, key.Len())
	}
	return audit.NewFingerprinter(key), nil
}

func randomKey() secret.Secret {
	var key [32]byte
	_, _ = rand.Read(key[:]) // crypto/rand.Read never fails
	return secret.New(string(key[:]))
}
