package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/credbroker/credbroker/internal/brokertest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// tokenBytes is the size of callers' tokens.
const tokenBytes = 1024

// stage is what the measurements share.
type stage struct {
	t testing.TB
	// rounds and spell are how often ours and the peer take their turns, and for how long each.
	rounds int
	spell  time.Duration
	// full is false in a smoke test: then everything is done once and small.
	full bool
	idp  *brokertest.IDP

	first *replica // what broker returned
	fleet *fleet   // what replicas returned
	back  *backends
}

// size is how many of something there are: in a measurement, and in a smoke test.
func (s *stage) size(full, smoke int) int {
	if s.full {
		return full
	}
	return smoke
}

const everything = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::*"]}]}`

// startMinIO runs a real MinIO that trusts an issuer, which has to answer.
func (s *stage) startMinIO(issuerURL string) *brokertest.MinIO {
	s.t.Helper()
	m := brokertest.StartMinIO(s.t, brokertest.MinIOOptions{IssuerURL: issuerURL})
	m.PutPolicy("everything", everything)
	return m
}

// broker is a broker with a real MinIO that trusts it and no Redis; it is the same one each time.
func (s *stage) broker() *replica {
	s.t.Helper()
	if s.first == nil {
		b := newReplica(s.t)
		m := brokertest.NewMinIO(s.t, brokertest.MinIOOptions{IssuerURL: b.http})
		b.start(b.http, s.config(m.Endpoint, ""))
		m.Start()
		m.PutPolicy("everything", everything)
		s.works(b)
		s.first = b
	}
	return s.first
}

// fleet is three replicas with a Redis and a MinIO. The last of them has hardly any memory for credentials.
type fleet struct {
	replicas [3]*replica
	redis    *brokertest.Redis
}

func (s *stage) replicas() *fleet {
	s.t.Helper()
	if s.fleet != nil {
		return s.fleet
	}
	f := &fleet{redis: brokertest.StartRedis(s.t, brokertest.RedisOptions{})}
	for i := range f.replicas {
		f.replicas[i] = newReplica(s.t)
	}
	dir := s.t.TempDir()
	keys := [2]string{filepath.Join(dir, "sealing.keys"), filepath.Join(dir, "hmac.keys")}
	for _, file := range keys {
		var key [32]byte
		_, _ = rand.Read(key[:])
		s.write(file, []byte(base64.StdEncoding.EncodeToString(key[:])+"\n"))
	}
	issuer := f.replicas[0].http // each serves the keys of all
	m := brokertest.NewMinIO(s.t, brokertest.MinIOOptions{IssuerURL: issuer})
	config := s.config(m.Endpoint, fmt.Sprintf("replicas: many\nredis: {addresses: [%q], sealing_keys_file: %q, key_hmac_keys_file: %q}\n", f.redis.Addr, keys[0], keys[1]))
	for i, b := range f.replicas {
		if i == len(f.replicas)-1 {
			b.env = append(b.env, "CREDBROKER__CACHE__MAX_BYTES=1MiB")
		}
		b.start(issuer, config)
	}
	m.Start()
	m.PutPolicy("everything", everything)
	for _, b := range f.replicas {
		s.works(b)
	}
	s.fleet = f
	return f
}

// config is a broker's configuration: one issuer, one role with a condition and a policy, and more if given.
func (s *stage) config(minio, more string) string {
	return fmt.Sprintf(`
issuers:
  - {name: bench, issuer: %q, audiences: [credbroker], algorithms: [ES256], attributes: {groups: {claim: groups}}}
exchangers:
  minio: {kind: minio-web-identity, endpoint: %q, client_id: %s, allowed_policies: [everything]}
limits: {max_mints: 100000}
roles:
  - {name: bench, when: '"finance" in identity.attrs.groups', exchanger: minio, policies: [everything], ttl: {default: 1h, max: 12h}}
  - {name: sign, when: '"finance" in identity.attrs.groups', exchanger: minio, policies: [everything], operations: [s3:GetObject], ttl: {default: 1h, max: 12h}}
%s`, s.idp.URL, minio, brokertest.ClientID, more)
}

// works waits until the broker gives credentials: MinIO has to have found it.
func (s *stage) works(b *replica) {
	s.t.Helper()
	client, token := dial(s.t, b.grpc), s.token("first")
	brokertest.Eventually(s.t, 30*time.Second, "credentials", func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
		defer cancel()
		_, err := client.IssueCredentials(ctx, issueRequest(token, "bench"))
		return err
	})
}

// token is a new token for a subject, of tokenBytes or a few less, good for an hour.
func (s *stage) token(subject string) string {
	const rest = 341 // what a token has without the padding, if the subject is a long one
	return s.idp.Token(map[string]any{
		"sub": subject, "groups": []string{"finance", "staff"}, "exp": time.Now().Add(time.Hour).Unix(),
		"pad": strings.Repeat("x", (tokenBytes-rest)*3/4), // three bytes of payload are four of token
	})
}

// answers has credentials made for the token, and keeps the broker's answers in a directory for a peer to give.
func (s *stage) answers(b *replica, token string) (dir, accessKey string) {
	s.t.Helper()
	dir = s.t.TempDir()
	answer, err := dial(s.t, b.grpc).IssueCredentials(s.t.Context(), issueRequest(token, "bench"))
	if err != nil {
		s.t.Fatal(err)
	}
	data, err := proto.Marshal(answer)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(filepath.Join(dir, answerProto), data)
	s.write(filepath.Join(dir, answerJSON), fmt.Appendf(nil, `{"access_key_id":%q,"secret_access_key":%q,"session_token":%q,"expires_at":%q,"role":%q,"request_id":%q}`,
		answer.AccessKeyId, answer.SecretAccessKey, answer.SessionToken, answer.ExpiresAt.AsTime().Format(time.RFC3339), answer.Role, answer.RequestId))
	return dir, answer.AccessKeyId
}

func (s *stage) write(path string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func issueRequest(token, role string) *brokerv1.IssueCredentialsRequest {
	return &brokerv1.IssueCredentialsRequest{Proof: &brokerv1.Proof{Proof: &brokerv1.Proof_Jwt{Jwt: token}}, Role: role}
}
