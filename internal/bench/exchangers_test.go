package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/exchange/awssts"
	"github.com/credbroker/credbroker/internal/exchange/fromvault"
	"github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/issuer"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/vault"
)

// kind is an exchanger as it is measured.
type kind struct {
	name string
	x    exchange.Exchanger
	role policy.Role
}

// backends are what exchangers are measured at.
type backends struct {
	*stage
	vault  *brokertest.Vault
	client *vault.Client
	kinds  []kind
	// direct is a MinIO that trusts the callers' identity provider.
	direct *brokertest.MinIO
}

// shares is the part of an exchange that isn't its back-ends': making and signing what is shown, the HTTP client, reading and checking the
// answer; that is, all but the time from when a request to a back-end was written until its answer began. Against a call of MinIO's STS in
// the same run. What comes before and after an exchange is in the row cold.
func shares(s *stage) []row {
	b := s.backEnds()
	b.addAssumeRole()
	b.addCertificates()
	b.addLeases()
	b.addAWS()
	peer := s.directly(b.direct)
	calls := s.size(60, 2)
	ours := make([][]float64, len(b.kinds))
	var theirs []float64
	for round := range s.rounds {
		shares := make([][]float64, len(b.kinds))
		var p []float64
		for i := range calls {
			for k, kind := range b.kinds {
				shares[k] = append(shares[k], b.share(kind, fmt.Sprintf("%s-%d-%d", kind.name, round, i)).Seconds())
			}
			p = append(p, peer(fmt.Sprintf("direct-%d-%d", round, i)).Seconds())
		}
		for k := range b.kinds {
			ours[k] = append(ours[k], median(shares[k]))
		}
		theirs = append(theirs, median(p))
	}
	var rows []row
	for k, kind := range b.kinds {
		rows = append(rows, compared("broker's share of an exchange, "+kind.name+" / MinIO STS", "s", ours[k], theirs, atMost(0.10, 0.05)))
	}
	return rows
}

// share is what one exchange takes beside its back-ends.
func (b *backends) share(k kind, subject string) time.Duration {
	var mu sync.Mutex
	var away time.Duration // requests of one exchange go one after the other
	var written time.Time
	trace := &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) {
			mu.Lock()
			defer mu.Unlock()
			written = time.Now()
		},
		GotFirstResponseByte: func() {
			mu.Lock()
			defer mu.Unlock()
			away += time.Since(written)
		},
	}
	ctx, req := httptrace.WithClientTrace(b.t.Context(), trace), b.request(k.role, subject)
	begin := time.Now()
	_, err := k.x.Exchange(ctx, req)
	took := time.Since(begin)
	mu.Lock()
	defer mu.Unlock()
	if err != nil || away == 0 {
		b.t.Fatalf("%s, which asked its back-end for %s: %v", k.name, away, err)
	}
	return took - away
}

// request is what an exchanger is asked for a subject by a role.
func (s *stage) request(role policy.Role, subject string) exchange.Request {
	token := s.idp.Token(map[string]any{"sub": subject, "aud": brokertest.ClientID, "policy": "everything", "exp": time.Now().Add(time.Hour).Unix()})
	return exchange.Request{
		Identity: attest.Identity{Kind: attest.KindJWT, Issuer: s.idp.URL, Subject: subject, Expires: time.Now().Add(time.Hour)},
		Grant: policy.Grant{
			Role: "bench", Policies: role.Policies, SessionPolicy: role.SessionPolicy, TTL: role.TTL.Default, Bound: role.TTL.Default, WithinProof: role.TTL.WithinProof,
		},
		Proof: attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)}, Correlation: exchange.Correlation{RequestID: rand.Text()},
	}
}

func (s *stage) cold(p *pipeline, token string) {
	got, err := p.broker.Issue(s.t.Context(), broker.Request{
		Proof: attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)}, Role: "bench", Correlation: exchange.Correlation{RequestID: rand.Text()},
	})
	if err != nil || got.Hit {
		s.t.Fatalf("hit %v: %v", got.Hit, err)
	}
}

// directly makes AssumeRoleWithWebIdentity at a MinIO, for a new subject each time.
func (s *stage) directly(m *brokertest.MinIO) func(subject string) time.Duration {
	client := &http.Client{Transport: &http.Transport{}}
	s.t.Cleanup(client.CloseIdleConnections)
	return func(subject string) time.Duration {
		// As the broker's own tokens: ES256, the policy as a claim.
		token := s.idp.Token(map[string]any{"sub": subject, "aud": brokertest.ClientID, "policy": "everything", "exp": time.Now().Add(time.Hour).Unix()})
		form := url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "WebIdentityToken": {token}}
		begin := time.Now()
		resp, err := client.PostForm(m.Endpoint, form)
		if err != nil {
			s.t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		took := time.Since(begin)
		var answer struct {
			AccessKeyID string `xml:"AssumeRoleWithWebIdentityResult>Credentials>AccessKeyId"`
		}
		if err != nil || xml.Unmarshal(data, &answer) != nil || answer.AccessKeyID == "" {
			s.t.Fatalf("MinIO said %s, %v: %s", resp.Status, err, data)
		}
		return took
	}
}

// backEnds are a Vault and MinIOs, with the exchangers by web identity; they are the same each time.
func (s *stage) backEnds() *backends {
	s.t.Helper()
	if s.back != nil {
		return s.back
	}
	b := &backends{stage: s, vault: brokertest.StartVault(s.t, brokertest.VaultOptions{})}
	b.vault.Write("sys/mounts/aws", brokertest.VaultData{"type": "aws"})
	b.vault.Prepare([]string{"CLIENT_ID=" + brokertest.ClientID, "POLICIES=everything", "IDENTITY_ISSUER=" + b.vault.URL}, "issuer", "identity", "certificates", "parent", "aws", "approle")
	role, secretID := b.vault.AppRoleFiles("credbroker")
	b.client = s.vaultClient(b.vault, vault.AppRole{Mount: "approle", Role: "credbroker", RoleIDFile: role, SecretIDFile: secretID}, nil)
	b.addMinIO()
	s.back = b
	return b
}

func (s *stage) vaultClient(v *brokertest.Vault, login vault.Login, observe func(string, string, time.Duration)) *vault.Client {
	s.t.Helper()
	c, err := vault.New(vault.Config{Address: v.URL, Login: login, Timeout: 5 * time.Second, Observe: observe})
	if err != nil {
		s.t.Fatal(err)
	}
	s.run(c.Run)
	return c
}

// run runs something until the test ends.
func (s *stage) run(work func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { work(ctx) })
	s.t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

// add adds a kind once it gives credentials.
func (b *backends) add(name string, x exchange.Exchanger, role policy.Role) {
	b.t.Helper()
	if runs, ok := x.(interface{ Run(context.Context) }); ok {
		b.run(runs.Run)
	}
	brokertest.Eventually(b.t, 30*time.Second, "credentials by "+name, func() error {
		_, err := x.Exchange(b.t.Context(), b.request(role, "first"))
		return err
	})
	b.kinds = append(b.kinds, kind{name, x, role})
}

func twentyMinutes() policy.TTL { return policy.TTL{Default: 20 * time.Minute, Max: time.Hour} }

// issuerOf serves an issuer's documents.
func (s *stage) issuerOf(transit *issuer.TransitConfig) *issuer.Issuer {
	s.t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	s.t.Cleanup(server.Close)
	iss, err := issuer.New(issuer.Config{URL: server.URL, RotateEvery: time.Hour, Transit: transit})
	if err != nil {
		s.t.Fatal(err)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(iss.Discovery()) })
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(iss.JWKS(r.Context())) })
	s.run(iss.Run)
	return iss
}

// webIdentity is an exchanger at a new MinIO that trusts an issuer.
func (s *stage) webIdentity(issuerURL string, tokens exchange.TokenSource) *minio.WebIdentity {
	s.t.Helper()
	m := s.startMinIO(issuerURL)
	x, err := minio.NewWebIdentity(minio.WebIdentityConfig{
		Server: minio.Server{Endpoint: m.Endpoint, Timeout: 10 * time.Second}, ClientID: brokertest.ClientID, Tokens: tokens, AllowedPolicies: []string{"everything"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return x
}

func (s *stage) signedBy(iss *issuer.Issuer) exchange.TokenSource {
	s.t.Helper()
	source, err := iss.Source(issuer.SourceConfig{Audience: brokertest.ClientID, AllowedPolicies: []string{"everything"}})
	if err != nil {
		s.t.Fatal(err)
	}
	return source
}

func (b *backends) addMinIO() {
	b.t.Helper()
	role := policy.Role{Policies: []string{"everything"}, TTL: twentyMinutes()}
	own := b.issuerOf(nil)
	b.add("minio-web-identity", b.webIdentity(own.URL(), b.signedBy(own)), role)
	inVault := b.issuerOf(&issuer.TransitConfig{Client: b.client, Mount: "transit", Key: "credbroker"})
	b.add("the same, Transit key", b.webIdentity(inVault.URL(), b.signedBy(inVault)), role)
	b.add("the same, Vault's identity token", b.webIdentity(b.vault.URL+"/v1/identity/oidc", fromvault.IdentityTokens{Client: b.client, Role: "credbroker"}),
		policy.Role{SessionPolicy: everything, TTL: twentyMinutes()})
	b.direct = b.startMinIO(b.idp.URL)
	caller, err := minio.NewWebIdentity(minio.WebIdentityConfig{
		Server: minio.Server{Endpoint: b.direct.Endpoint, Timeout: 10 * time.Second}, ClientID: brokertest.ClientID, Tokens: exchange.CallerToken{},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.add("the same, caller's token", caller, policy.Role{SessionPolicy: everything, TTL: policy.TTL{Default: 2 * time.Hour, Max: 2 * time.Hour, WithinProof: true}})
}

func (b *backends) addAssumeRole() {
	b.t.Helper()
	b.direct.AddUser("parent", "parents-secret-key", "everything")
	file := filepath.Join(b.t.TempDir(), "parent.json")
	b.write(file, []byte(`{"access_key_id":"parent","secret_access_key":"parents-secret-key"}`))
	b.vault.Write("kv/data/credbroker/parent", brokertest.VaultData{"data": brokertest.VaultData{"access_key_id": "parent", "secret_access_key": "parents-secret-key"}})
	for _, parent := range []struct {
		name string
		keys minio.Keys
	}{
		{"minio-assume-role", minio.KeyFile(file)},
		{"the same, key in Vault's KV", fromvault.NewAccessKey(fromvault.AccessKeyConfig{
			Client: b.client, Path: "kv/data/credbroker/parent", AccessKeyID: "data.access_key_id", SecretAccessKey: "data.secret_access_key",
		})},
	} {
		x, err := minio.NewAssumeRole(minio.AssumeRoleConfig{Server: minio.Server{Endpoint: b.direct.Endpoint, Timeout: 10 * time.Second}, Parent: parent.keys, Region: "us-east-1"})
		if err != nil {
			b.t.Fatal(err)
		}
		b.add(parent.name, x, policy.Role{SessionPolicy: everything, TTL: twentyMinutes()})
	}
}

func (b *backends) addCertificates() {
	b.t.Helper()
	_, root, err := b.vault.Call("", http.MethodGet, "pki/ca/pem", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	ca := filepath.Join(b.t.TempDir(), "ca.pem")
	b.write(ca, root)
	m := brokertest.StartMinIO(b.t, brokertest.MinIOOptions{TLS: true, ClientCAFile: ca})
	m.PutPolicy("everything", everything)
	x, err := minio.NewCertificate(minio.CertificateConfig{
		Server:          minio.Server{Endpoint: m.Endpoint, CAFile: m.CAFile, Timeout: 10 * time.Second},
		Certificates:    fromvault.NewCertificates(fromvault.CertificatesConfig{Client: b.client, Mount: "pki", Role: "credbroker", TTL: time.Hour}),
		AllowedPolicies: []string{"everything"},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.add("minio-certificate, signed by Vault", x, policy.Role{Policies: []string{"everything"}, TTL: twentyMinutes()})
}

func (b *backends) addLeases() {
	b.t.Helper()
	iam := brokertest.NewIAM(b.t)
	b.vault.Write("aws/config/root", brokertest.VaultData{"access_key": "AKIAVAULT", "secret_key": "x", "region": "us-east-1", "iam_endpoint": iam.URL, "sts_endpoint": iam.URL})
	b.vault.Write("aws/config/lease", brokertest.VaultData{"lease": "20m", "lease_max": "12h"})
	b.vault.Write("aws/roles/bench", brokertest.VaultData{"credential_type": "iam_user", "policy_document": `{"Version":"2012-10-17","Statement":[]}`})
	b.vault.Policy("leases", map[string]string{"aws/creds/bench": "read", "sys/leases/renew": "update", "sys/leases/revoke": "update"})
	file := filepath.Join(b.t.TempDir(), "token")
	b.write(file, []byte(b.vault.Token(12*time.Hour, "leases")))
	b.add("vault-read", fromvault.NewCredentials(fromvault.CredentialsConfig{
		Client: b.vaultClient(b.vault, vault.TokenFile{Path: file}, nil), Path: "aws/creds/bench", Fields: fromvault.Fields{AccessKeyID: "access_key", SecretAccessKey: "secret_key"},
	}), policy.Role{TTL: twentyMinutes()})
}

func (b *backends) addAWS() {
	b.t.Helper()
	const roleARN = "arn:aws:iam::123456789012:role/bench"
	own := brokertest.AWSKey{ID: "ASIA1111111111BROKER", Secret: "brokers-own-secret", SessionToken: "brokers-own-token", Principal: brokertest.AWSPrincipal{
		Account: "123456789012", ARN: "arn:aws:sts::123456789012:assumed-role/broker/i-1",
	}}
	iss := b.issuerOf(nil)
	sts := brokertest.NewAWSSTS(b.t)
	sts.Add(own)
	sts.AddRole(brokertest.AWSRole{ARN: roleARN, Principal: own.Principal.ARN, Issuer: iss.URL(), Audience: awssts.Audience})
	tokens, err := iss.Source(issuer.SourceConfig{Audience: awssts.Audience, NoPolicies: true})
	if err != nil {
		b.t.Fatal(err)
	}
	at := awssts.Config{RoleARN: roleARN, Region: "eu-west-1", Endpoint: "https://" + sts.Addr, CAFile: sts.CAFile, Timeout: 10 * time.Second}
	role := policy.Role{SessionPolicy: everything, TTL: twentyMinutes()}
	signing, web := at, at
	signing.Credentials, web.Tokens = credentials.NewStaticCredentialsProvider(own.ID, own.Secret, own.SessionToken), tokens
	for _, kind := range []struct {
		name   string
		config awssts.Config
	}{{"aws-assume-role", signing}, {"aws-web-identity", web}} {
		x, err := awssts.New(kind.config)
		if err != nil {
			b.t.Fatal(err)
		}
		b.add(kind.name, x, role)
	}
}

// transitIssuer is how many callers a second get their first credentials, with the broker's key in Vault and in its own memory, and what Vault
// and MinIO do alone.
func transitIssuer(s *stage) []row {
	b := s.backEnds()
	direct := s.directly(b.direct)
	serial := atomic.Int64{}
	next := func() string { return fmt.Sprintf("transit-%d", serial.Add(1)) }
	cold := func(k kind) call {
		p := s.pipelineOver(k.x, minio.WebIdentityHonours([]string{"everything"}), k.role)
		return func(context.Context, int) error {
			s.cold(p, s.token(next()))
			return nil
		}
	}
	const together = 16
	r := s.versusAt(together, load{call: cold(b.kinds[1]), pid: b.vault.PID()}, load{call: cold(b.kinds[0]), pid: b.direct.PID()})
	out := compared("cold issues, Transit key / own key", "/s", r.ours.rates, r.peer.rates, target{})
	body := map[string]any{"input": "aGVhZGVyLnBheWxvYWQ=", "marshaling_algorithm": "jws"}
	sign := rate(s.t, together, s.spell, func(context.Context, int) error {
		_, err := b.client.Do(s.t.Context(), vault.Call{Write: true, Path: "transit/sign/credbroker/sha2-256", Body: body})
		return err
	})
	sts := rate(s.t, together, s.spell, func(context.Context, int) error {
		direct(next())
		return nil
	})
	out.Note = fmt.Sprintf("alone, Vault signs %.0f/s and MinIO's STS gives %.0f/s", float64(sign.steady)/sign.took.Seconds(), float64(sts.steady)/sts.took.Seconds())
	return []row{out}
}

// renewals counts how often a token of Vault's is renewed while nobody uses it, and while many do.
func renewals(s *stage) []row {
	v := brokertest.StartVault(s.t, brokertest.VaultOptions{})
	v.Prepare(nil, "issuer", "approle")
	life := time.Duration(s.size(9, 3)) * time.Second // renewed after two thirds of it
	v.Write("auth/approle/role/credbroker", brokertest.VaultData{"token_ttl": life.String(), "token_max_ttl": "1h"})
	role, secretID := v.AppRoleFiles("credbroker")
	client := func() (*vault.Client, *atomic.Int64) {
		var renewed atomic.Int64
		c := s.vaultClient(v, vault.AppRole{Mount: "approle", Role: "credbroker", RoleIDFile: role, SecretIDFile: secretID}, func(operation, outcome string, _ time.Duration) {
			if operation == "renew" && outcome == "ok" {
				renewed.Add(1)
			}
		})
		return c, &renewed
	}
	busy, ours := client()
	_, idle := client()
	calls := rate(s.t, s.size(inFlight, 4), life*time.Duration(s.size(10, 5))/6, func(ctx context.Context, _ int) error {
		_, err := busy.Do(ctx, vault.Call{Path: "auth/token/lookup-self"})
		return err
	})
	r := alone("renewals of a Vault token in use / of one at rest", "", []float64{float64(ours.Load()) / float64(max(idle.Load(), 1))}, atMost(1, 1))
	r.Note = fmt.Sprintf("%d of either in %s, with %d calls", ours.Load(), calls.took.Round(time.Second), calls.calls)
	return []row{r}
}

// cachedSign is what a request costs to be signed whose credentials are in memory, against net/http with a handler that writes the same bytes.
func cachedSign(s *stage) []row {
	b := s.broker()
	token := s.token("cached")
	addr := strings.TrimPrefix(b.http, "http://")
	body := `{"role":"sign","requests":[{"method":"GET","bucket":"reports","key":"acme/q3.csv"}]}`
	request := fmt.Appendf(nil, "POST /v1/sign HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", addr, token, len(body), body)
	answer := s.body(http.MethodPost, b.http+"/v1/sign", http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}, body)
	dir, _ := s.answers(b, token)
	s.write(filepath.Join(dir, answerJSON), []byte(answer))
	peer := startPeer(s.t, dir)
	want := []byte(`"authorization"`)
	if !bytes.Contains([]byte(answer), want) {
		s.t.Fatal(answer)
	}
	r := s.versus(
		load{call: httpLoad(s.t, addr, inFlight, request, want), pid: b.pid()},
		load{call: httpLoad(s.t, peer.http, inFlight, request, want), pid: peer.pid})
	s.profile(b, "sign", httpLoad(s.t, addr, inFlight, request, want))
	return []row{r.row("cached signature, HTTP/JSON / net/http handler", atLeast(0.30, 0.45))}
}
