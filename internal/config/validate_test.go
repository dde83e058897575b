package config

import (
	"fmt"
	"strings"
	"testing"
)

// anIssuer and anExchanger are sound entries with more keys added.
func anIssuer(more string) string {
	return "issuers: [{name: a, issuer: 'https://a.example', audiences: [x], " + more + "}]"
}

func anExchanger(more string) string {
	return "exchangers: {m: {kind: minio-web-identity, client_id: c, " + more + "}}"
}

func aRedis(more string) string {
	return "redis: {addresses: ['127.0.0.1:6379'], sealing_keys_file: a, key_hmac_keys_file: b, " + more + "}"
}

func anAWS(more string) string {
	if !strings.Contains(more, "server_id") {
		more = "server_id: s, " + more
	}
	return "aws: {accounts: ['123456789012'], " + more + "}"
}

func aVault(more string) string {
	return "vault: {address: 'https://v.example', auth: {method: approle, role: r, role_id_file: a, secret_id_file: b}, " + more + "}"
}

func aVaultAuth(auth string) string {
	return "vault: {address: 'https://v.example', auth: {" + auth + "}}"
}

func aVaultRead(more string) string {
	return aVault("") + "\nexchangers: {m: {kind: vault-read, " + more + "}}"
}

func aVaultMinIO(kind, more string) string {
	return aVault("") + "\nexchangers: {m: {kind: " + kind + ", endpoint: 'https://m.example', " + more + "}}"
}

func many(n int, format string) string {
	entries := make([]string, n)
	for i := range entries {
		entries[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(entries, ", ")
}

// TestBounds checks each limit at its edge: the first text is sound, the second is a fault at the path.
func TestBounds(t *testing.T) {
	const endpoint, policies = "endpoint: 'https://m.example'", "allowed_policies: [p]"
	long := strings.Repeat("x", 255)
	for _, c := range []struct{ sound, faulty, path string }{
		{"issuer: {key_rotation: 10m}", "issuer: {key_rotation: 599s}", "issuer.key_rotation"},
		{"issuer: {key_rotation: 720h}", "issuer: {key_rotation: 720h1ms}", "issuer.key_rotation"},
		{"cache: {max_bytes: 1MiB}", "cache: {max_bytes: 1023KiB}", "cache.max_bytes"},
		{"cache: {max_bytes: 16GiB}", "cache: {max_bytes: 17179869185}", "cache.max_bytes"},
		{"cache: {max_bytes: '1GiB'}", "cache: {max_bytes: 8589934592GiB}", "cache.max_bytes"},
		{"cache: {max_bytes: 2MiB}", "cache: {max_bytes: 02MiB}", "cache.max_bytes"},
		{"limits: {max_in_flight: 1}", "limits: {max_in_flight: 0}", "limits.max_in_flight"},
		{"limits: {max_in_flight: 65536}", "limits: {max_in_flight: 65537}", "limits.max_in_flight"},
		{"limits: {max_in_flight: 8}", "limits: {max_in_flight: 010}", "limits.max_in_flight"},
		{"limits: {max_in_flight: 9}", "limits: {max_in_flight: 99999999999999999999}", "limits.max_in_flight"},
		{"limits: {max_mints: 1}", "limits: {max_mints: -1}", "limits.max_mints"},
		{"limits: {max_mints: 100000}", "limits: {max_mints: 100001}", "limits.max_mints"},
		{"limits: {request_timeout: 100ms}", "limits: {request_timeout: 99ms}", "limits.request_timeout"},
		{"limits: {request_timeout: 60s}", "limits: {request_timeout: 1m1ms}", "limits.request_timeout"},
		{"limits: {max_unshared_mints: 1}", "limits: {max_unshared_mints: 0}", "limits.max_unshared_mints"},
		{"limits: {max_unshared_mints: 1024}", "limits: {max_unshared_mints: 1025}", "limits.max_unshared_mints"},
		{aRedis("timeout: 10ms"), aRedis("timeout: 9ms"), "redis.timeout"},
		{aRedis("timeout: 5s"), aRedis("timeout: 5001ms"), "redis.timeout"},
		{aRedis("db: 1023"), aRedis("db: 1024"), "redis.db"},
		{aRedis("db: 0"), aRedis("db: -1"), "redis.db"},
		{aRedis("prefix: a-b_c9"), aRedis("prefix: 'a:b'"), "redis.prefix"},
		{aRedis("mode: cluster"), aRedis("mode: cluster, db: 1"), "redis.db"},
		{aRedis("mode: sentinel, master_name: m"), aRedis("mode: sentinel"), "redis.master_name"},
		{aRedis("mode: sentinel, master_name: m, sentinel_username: u"), aRedis("sentinel_username: u"), "redis.mode"},
		{aRedis("tls: {enabled: true, cert_file: c, key_file: k}"), aRedis("tls: {enabled: true, key_file: k}"), "redis.tls.key_file"},
		{aRedis("tls: {enabled: true, server_name: r}"), aRedis("tls: {server_name: r}"), "redis.tls.enabled"},
		{anAWS("skew: 1s"), anAWS("skew: 999ms"), "aws.skew"},
		{anAWS("skew: 60s"), anAWS("skew: 61s"), "aws.skew"},
		{anAWS("server_id: '" + long + "'"), anAWS("server_id: '" + long + "x'"), "aws.server_id"},
		{anAWS(""), "aws: {skew: 1s}", "aws.accounts"},
		{anAWS(""), "aws: {accounts: ['123456789012']}", "aws.server_id"},
		{anAWS("endpoints: {a: {host: h.example, region: us-gov-west-1, partition: aws-us-gov, address: 'h:1'}}"), anAWS("endpoints: {a: {host: h.example, region: r, partition: aws}}"), "aws.endpoints.a.region"},
		{"redis: {addresses: ['redis:1'], insecure_plaintext: true, sealing_keys_file: a, key_hmac_keys_file: b}", "redis: {addresses: ['redis:1'], sealing_keys_file: a, key_hmac_keys_file: b}", "redis.addresses[0]"},
		{"redis: {addresses: ['redis:1'], tls: {enabled: true}, sealing_keys_file: a, key_hmac_keys_file: b}", "redis: {addresses: ['redis:0'], tls: {enabled: true}, sealing_keys_file: a, key_hmac_keys_file: b}", "redis.addresses[0]"},
		{aRedis("mode: cluster"), "redis: {addresses: ['127.0.0.1:1', '127.0.0.1:2'], sealing_keys_file: a, key_hmac_keys_file: b}", "redis.addresses"},
		{aRedis("mode: cluster") + "\nreplicas: many", "replicas: many", "replicas"},
		{aRedis("db: 0"), "redis: {addresses: ['127.0.0.1:1'], key_hmac_keys_file: b}", "redis.sealing_keys_file"},
		{aRedis("db: 0"), "redis: {addresses: ['127.0.0.1:1'], sealing_keys_file: a}", "redis.key_hmac_keys_file"},
		{aRedis("db: 0"), "redis: {addresses: ['127.0.0.1:1'], sealing_keys_file: a, key_hmac_keys_file: a}", "redis.key_hmac_keys_file"},
		{aRedis("db: 0"), "redis: {timeout: 1s}", "redis.addresses"},
		{"redis: {addresses: [" + many(32, "'127.0.0.1:1%02d'") + "], mode: cluster, sealing_keys_file: a, key_hmac_keys_file: b}", "redis: {addresses: [" + many(33, "'127.0.0.1:1%02d'") + "], mode: cluster, sealing_keys_file: a, key_hmac_keys_file: b}", "redis.addresses"},
		{aVault("") + "\nissuer: {transit: {key: k}}", "issuer: {transit: {key: k}}", "issuer.transit"},
		{aVault("") + "\nissuer: {transit: {key: k, mount: a/b}}", aVault("") + "\nissuer: {transit: {key: k, mount: /a}}", "issuer.transit.mount"},
		{aVault("") + "\nissuer: {transit: {key: k}}", aVault("") + "\nissuer: {transit: {key: k/..}}", "issuer.transit.key"},
		{aVault("") + "\nissuer: {transit: {key: k}}", aVault("") + "\nissuer: {transit: {mount: m}}", "issuer.transit.key"},
		{aVault("") + "\nissuer: {transit: {key: k}}", aVault("") + "\nissuer: {key_rotation: 1h, transit: {key: k}}", "issuer.key_rotation"},
		{aVaultRead("vault: {path: aws/sts/a}"), "exchangers: {m: {kind: vault-read, vault: {path: aws/sts/a}}}", "exchangers.m"},
		{aVaultRead("vault: {path: aws/sts/a}"), aVaultRead("vault: {path: /aws/sts/a}"), "exchangers.m.vault.path"},
		{aVaultRead("vault: {path: aws/sts/a}"), aVaultRead("vault: {path: aws/../sys/seal}"), "exchangers.m.vault.path"},
		{aVaultRead("vault: {path: aws/sts/a}"), aVaultRead("vault: {write: true}"), "exchangers.m.vault.path"},
		{aVaultRead("vault: {path: a, parameters: {ttl: '{{ttl}}'}}"), aVaultRead("vault: {path: a, parameters: {ttl: '{{ttl}}s'}}"), "exchangers.m.vault.parameters.ttl"},
		{aVaultRead("vault: {path: a, parameters: {" + many(16, "p%d: x") + "}}"), aVaultRead("vault: {path: a, parameters: {" + many(17, "p%d: x") + "}}"), "exchangers.m.vault.parameters"},
		{aVaultRead("vault: {path: a, fields: {access_key_id: a.b, session_token: '', expires: c}}"), aVaultRead("vault: {path: a, fields: {access_key_id: ''}}"), "exchangers.m.vault.fields.access_key_id"},
		{aVaultRead("vault: {path: a, fields: {expires: a.b}}"), aVaultRead("vault: {path: a, fields: {expires: a..b}}"), "exchangers.m.vault.fields.expires"},
		{aVaultRead("vault: {path: a, min_ttl: 12h}"), aVaultRead("vault: {path: a, min_ttl: 12h1s}"), "exchangers.m.vault.min_ttl"},
		{aVaultRead("vault: {path: a}"), aVaultRead("vault: {path: a}, client_id: c"), "exchangers.m.client_id"},
		{aVaultRead("vault: {path: a}"), aVaultRead("vault: {path: a}, timeout: 5s"), "exchangers.m.timeout"},
		{anExchanger(endpoint + ", " + policies), anExchanger(endpoint + ", " + policies + ", vault: {path: a}"), "exchangers.m.vault"},
		{aVault("") + "\n" + anExchanger(endpoint+", identity_role: r"), anExchanger(endpoint + ", identity_role: r"), "exchangers.m.identity_role"},
		{aVault("") + "\n" + anExchanger(endpoint+", identity_role: r"), aVault("") + "\n" + anExchanger(endpoint+", identity_role: r/x"), "exchangers.m.identity_role"},
		{aVault("") + "\n" + anExchanger(endpoint+", identity_role: r"), aVault("") + "\n" + anExchanger(endpoint+", identity_role: r, "+policies), "exchangers.m.allowed_policies"},
		{aVault("") + "\nredis: {addresses: ['127.0.0.1:1'], transit: {key: k}}", "redis: {addresses: ['127.0.0.1:1'], transit: {key: k}}", "redis.transit"},
		{aVault("") + "\nredis: {addresses: ['127.0.0.1:1'], transit: {key: k}}", aVault("") + "\nredis: {addresses: ['127.0.0.1:1'], transit: {key: k}, sealing_keys_file: a}", "redis.sealing_keys_file"},
		{aVault("") + "\nredis: {addresses: ['127.0.0.1:1'], transit: {key: k, rotate_every: 72h}}", aVault("") + "\nredis: {addresses: ['127.0.0.1:1'], transit: {key: k, rotate_every: 71h}}", "redis.transit.rotate_every"},
		{aVaultMinIO("minio-assume-role", "vault: {path: kv/data/p}"), aVaultMinIO("minio-assume-role", "vault: {path: kv/data/p}, parent_file: f"), "exchangers.m.parent_file"},
		{aVaultMinIO("minio-assume-role", "vault: {path: kv/data/p, fields: {access_key_id: data.id}}"), aVaultMinIO("minio-assume-role", "vault: {path: kv/data/p, write: true}"), "exchangers.m.vault.write"},
		{aVaultMinIO("minio-assume-role", "parent_file: f"), aVaultMinIO("minio-assume-role", "vault: {path: ''}"), "exchangers.m.vault.path"},
		{aVaultMinIO("minio-certificate", "dangerous: true, allowed_policies: [p], pki: {role: r, ttl: 10m}"), aVaultMinIO("minio-certificate", "dangerous: true, allowed_policies: [p], pki: {role: r, ttl: 599s}"), "exchangers.m.pki.ttl"},
		{aVaultMinIO("minio-certificate", "dangerous: true, allowed_policies: [p], pki: {role: r, ttl: 24h}"), aVaultMinIO("minio-certificate", "dangerous: true, allowed_policies: [p], pki: {role: r/x}"), "exchangers.m.pki.role"},
		{aVaultMinIO("minio-certificate", "dangerous: true, allowed_policies: [p], pki: {role: r}"), aVaultMinIO("minio-certificate", "dangerous: true, allowed_policies: [p], pki: {role: r}, cert_file: c"), "exchangers.m.cert_file"},
		{aVaultMinIO("minio-certificate", "dangerous: true, allowed_policies: [p], pki: {role: r, mount: a/b}"), aVaultMinIO("minio-certificate", "dangerous: true, allowed_policies: [p], pki: {role: r, mount: ''}"), "exchangers.m.pki.mount"},
		{aVault("timeout: 100ms"), aVault("timeout: 99ms"), "vault.timeout"},
		{aVault("timeout: 30s"), aVault("timeout: 30001ms"), "vault.timeout"},
		{aVault("namespace: a/b"), aVault("namespace: a/b/"), "vault.namespace"},
		{aVault("nodes: [" + many(16, "'https://v%d.example'") + "]"), aVault("nodes: [" + many(17, "'https://v%d.example'") + "]"), "vault.nodes"},
		{aVault("nodes: ['https://v1.example:8200']"), aVault("nodes: ['https://v1.example/x']"), "vault.nodes[0]"},
		{aVault("insecure_plaintext: true"), aVault("insecure_plaintext: true, nodes: ['http://v1.example']"), "vault.nodes[0]"},
		{aVault("nodes: ['https://v1.example']"), aVault("nodes: ['https://v.example']"), "vault.nodes[0]"},
		{aVault("cert_file: a, key_file: b"), aVault("cert_file: a"), "vault.cert_file"},
		{aVault("cert_file: a, key_file: b"), aVault("key_file: b"), "vault.key_file"},
		{aVault(""), "vault: {timeout: 1s}", "vault.address"},
		{aVaultAuth("method: token-file, token_file: t"), aVaultAuth("method: token-file"), "vault.auth.token_file"},
		{aVaultAuth("method: token-file, token_file: t"), aVaultAuth("method: token-file, token_file: t, role: r"), "vault.auth.role"},
		{aVaultAuth("method: token-file, token_file: t"), aVaultAuth("method: token-file, token_file: t, mount: m"), "vault.auth.mount"},
		{aVaultAuth("method: kubernetes, role: r"), aVaultAuth("method: kubernetes"), "vault.auth.role"},
		{aVaultAuth("method: jwt, role: r, token_file: t, mount: a/b"), aVaultAuth("method: jwt, role: r, token_file: t, mount: /a"), "vault.auth.mount"},
		{aVaultAuth("method: jwt, role: r, token_file: t, mount: a/b"), aVaultAuth("method: jwt, role: r, token_file: t, mount: a/../b"), "vault.auth.mount"},
		{aVaultAuth("method: jwt, role: r, token_file: t"), aVaultAuth("method: oidc, role: r"), "vault.auth.method"},
		{aVaultAuth("method: approle, role: r, role_id_file: a, secret_id_file: b, secret_id_wrapped: true"), aVaultAuth("method: jwt, role: r, token_file: t, secret_id_wrapped: true"), "vault.auth.secret_id_wrapped"},
		{"vault: {address: 'https://v.example', cert_file: c, key_file: k, auth: {method: cert}}", aVaultAuth("method: cert"), "vault.cert_file"},
		{aVaultAuth("method: aws, role: r, region: eu-west-1, server_id: s"), aVaultAuth("method: aws, role: r, region: eu, server_id: s"), "vault.auth.region"},
		{aVaultAuth("method: aws, role: r, region: eu-west-1, server_id: s"), aVaultAuth("method: aws, role: r, region: eu-west-1"), "vault.auth.server_id"},
		{aVaultAuth("method: aws, role: r, region: eu-west-1, server_id: s"), aVaultAuth("method: aws, role: r, region: eu-west-1, server_id: 'a b'"), "vault.auth.server_id"},
		{aVaultAuth("method: aws, role: r, region: eu-west-1, server_id: s, assume_role: 'arn:aws:iam::123456789012:role/x'"), aVaultAuth("method: aws, role: r, region: eu-west-1, server_id: s, assume_role: 'arn:aws:iam::1:role/x'"), "vault.auth.assume_role"},
		{aVaultAuth("method: aws, role: r, region: eu-west-1, server_id: s, sts_endpoint: 'https://sts.example'"), aVaultAuth("method: aws, role: r, region: eu-west-1, server_id: s, sts_endpoint: 'http://sts.example'"), "vault.auth.sts_endpoint"},
		{aVaultAuth("method: gcp, role: r, service_account: a@b.iam.gserviceaccount.com"), aVaultAuth("method: gcp, role: r, service_account: 'a/../b'"), "vault.auth.service_account"},
		{aVaultAuth("method: azure, role: r, resource: 'https://management.azure.com/', vm: v"), aVaultAuth("method: azure, role: r"), "vault.auth.resource"},
		{"shutdown: {drain: 60s}", "shutdown: {drain: 60001ms}", "shutdown.drain"},
		{"shutdown: {deadline: 1s}", "shutdown: {deadline: 999ms}", "shutdown.deadline"},
		{"shutdown: {deadline: 10m}", "shutdown: {deadline: 10m1s}", "shutdown.deadline"},
		{"debug: {pprof: true}", "debug: {pprof: true}\nlisteners: {metrics: {address: ':9464', insecure_plaintext: true}}", "debug.pprof"},

		{"listeners: {grpc: {address: 'localhost:1'}}", "listeners: {grpc: {address: 'localhos:1'}}", "listeners.grpc.address"},
		{"listeners: {grpc: {address: '[::1]:1'}}", "listeners: {grpc: {address: '[::]:1'}}", "listeners.grpc.address"},
		{"listeners: {grpc: {address: '127.0.0.1:65535'}}", "listeners: {grpc: {address: '127.0.0.1:65536'}}", "listeners.grpc.address"},
		{"listeners: {grpc: {address: '127.0.0.1:443'}}", "listeners: {grpc: {address: '127.0.0.1:0443'}}", "listeners.grpc.address"},
		{"listeners: {grpc: {address: '127.0.0.1:0'}, http: {address: '127.0.0.1:0'}}", "listeners: {grpc: {address: '127.0.0.1:1'}, http: {address: '127.0.0.1:1'}}", "listeners.http.address"},
		{"listeners: {grpc: {address: '127.0.0.1:1'}, http: {address: '127.0.0.2:1'}}", "listeners: {grpc: {address: '127.0.0.1:1'}, http: {address: 'localhost:1'}}", "listeners.http.address"},
		{"listeners: {grpc: {address: '[::1]:1'}, http: {address: '[::2]:1', insecure_plaintext: true}}", "listeners: {grpc: {address: '[::1]:1'}, http: {address: '[0:0::1]:1'}}", "listeners.http.address"},
		{"listeners: {http: {address: '0.0.0.0:8443', tls: {cert_file: c, key_file: k}}}", "listeners: {http: {address: '0.0.0.0:9443', tls: {cert_file: c, key_file: k}}}", "listeners.http.address"},
		{"listeners: {http: {address: '10.0.0.1:8443', insecure_plaintext: true}}", "listeners: {http: {address: '10.0.0.1:8443', insecure_plaintext: false}}", "listeners.http.address"},
		{"listeners: {metrics: {address: '127.9.9.9:1'}}", "listeners: {metrics: {address: '128.0.0.1:1'}}", "listeners.metrics.address"},
		{"listeners: {admin: {socket: /" + strings.Repeat("s", 99) + "}}", "listeners: {admin: {socket: /" + strings.Repeat("s", 100) + "}}", "listeners.admin.socket"},
		{"listeners: {admin: {socket: '', address: ':9', tls: {cert_file: c, key_file: k, client_ca_file: a}}}", "listeners: {admin: {socket: '', address: ':9', tls: {cert_file: c, key_file: k}}}", "listeners.admin.address"},
		{"listeners: {admin: {address: ':9', tls: {cert_file: c, key_file: k, client_ca_file: a}}}", "listeners: {admin: {address: ':8443', tls: {cert_file: c, key_file: k, client_ca_file: a}}}", "listeners.admin.address"},

		{anIssuer("skew: 60s"), anIssuer("skew: 60001ms"), "issuers[0].skew"},
		{anIssuer("skew: 1s"), anIssuer("skew: 0s"), "issuers[0].skew"},
		{anIssuer("max_lifetime: 25h"), anIssuer("max_lifetime: 25h1s"), "issuers[0].max_lifetime"},
		{anIssuer("max_lifetime: 1s"), anIssuer("max_lifetime: 999ms"), "issuers[0].max_lifetime"},
		{anIssuer("authorized_parties: [" + long + "]"), anIssuer("authorized_parties: [x" + long + "]"), "issuers[0].authorized_parties[0]"},
		{anIssuer("authorized_parties: [" + many(32, "p%d") + "]"), anIssuer("authorized_parties: [" + many(33, "p%d") + "]"), "issuers[0].authorized_parties"},
		{anIssuer("authorized_parties: ['a b']"), anIssuer(`authorized_parties: ["a\nb"]`), "issuers[0].authorized_parties[0]"},
		{anIssuer("types: [" + many(8, "t%d") + "]"), anIssuer("types: [" + many(9, "t%d") + "]"), "issuers[0].types"},
		// As many entries as there may be are still looked at one by one.
		{anIssuer("algorithms: [ES256]"), anIssuer("algorithms: [none]"), "issuers[0].algorithms[0]"},
		{anIssuer("types: [" + many(7, "t%d") + ", x]"), anIssuer("types: [" + many(7, "t%d") + ", t0]"), "issuers[0].types[7]"},
		{anIssuer("types: ['']"), anIssuer("types: ['', '']"), "issuers[0].types[1]"},
		{anIssuer("types: [" + strings.Repeat("t", 64) + "]"), anIssuer("types: [" + strings.Repeat("t", 65) + "]"), "issuers[0].types[0]"},
		{anIssuer("attributes: {a" + strings.Repeat("_", 62) + ": {claim: c}}"), anIssuer("attributes: {a" + strings.Repeat("_", 63) + ": {claim: c}}"), "issuers[0].attributes.a" + strings.Repeat("_", 63)},
		{anIssuer("attributes: {" + many(64, "a%d: {claim: c}") + "}"), anIssuer("attributes: {" + many(65, "a%d: {claim: c}") + "}"), "issuers[0].attributes"},
		{anIssuer("attributes: {a: {claim: " + strings.Repeat("/a", 16) + "}}"), anIssuer("attributes: {a: {claim: " + strings.Repeat("/a", 17) + "}}"), "issuers[0].attributes.a.claim"},
		{anIssuer("attributes: {a: {claim: /a/~0~1/0}}"), anIssuer("attributes: {a: {claim: /a/~}}"), "issuers[0].attributes.a.claim"},
		{anIssuer("attributes: {a: {claim: 'https://claims.example/x~y'}}"), anIssuer("attributes: {a: {claim: ''}}"), "issuers[0].attributes.a.claim"},
		{anIssuer("jwks_url: 'http://localhost:1/k'"), anIssuer("jwks_url: 'http://localhost.example:1/k'"), "issuers[0].jwks_url"},
		{anIssuer("jwks_url: 'http://k.example', insecure_plaintext: true"), anIssuer("jwks_url: 'http://k.example'"), "issuers[0].jwks_url"},
		{anIssuer("pem: {file: f, kid: " + long + "}"), anIssuer("pem: {file: f, kid: x" + long + "}"), "issuers[0].pem.kid"},
		{anIssuer("jwks_url: 'https://k.example', ca_file: c"), anIssuer("jwks_file: k, ca_file: c"), "issuers[0].ca_file"},
		{anIssuer("discovery: true, bearer_file: c"), anIssuer("jwks_file: k, bearer_file: c"), "issuers[0].bearer_file"},
		{anIssuer("discovery: false, jwks_file: k"), anIssuer("discovery: true, jwks_file: k"), "issuers[0].jwks_file"},
		{"issuers: [" + many(256, "{name: n%[1]d, issuer: 'https://%[1]d.example', audiences: [x]}") + "]", "issuers: [" + many(257, "{name: n%[1]d, issuer: 'https://%[1]d.example', audiences: [x]}") + "]", "issuers"},
		{"issuers: [{name: a, issuer: 'https://a.example', audiences: [" + many(32, "a%d") + "]}]", "issuers: [{name: a, issuer: 'https://a.example', audiences: [" + many(33, "a%d") + "]}]", "issuers[0].audiences"},
		{"issuers: [{name: " + strings.Repeat("n", 63) + ", issuer: 'https://a.example', audiences: [x]}]", "issuers: [{name: " + strings.Repeat("n", 64) + ", issuer: 'https://a.example', audiences: [x]}]", "issuers[0].name"},

		{anExchanger(endpoint + "," + policies + ", timeout: 100ms"), anExchanger(endpoint + "," + policies + ", timeout: 99ms"), "exchangers.m.timeout"},
		{anExchanger(endpoint + "," + policies + ", timeout: 30s"), anExchanger(endpoint + "," + policies + ", timeout: 30001ms"), "exchangers.m.timeout"},
		{anExchanger(endpoint + ", allowed_policies: [" + many(256, "p%d") + "]"), anExchanger(endpoint + ", allowed_policies: [" + many(257, "p%d") + "]"), "exchangers.m.allowed_policies"},
		{anExchanger(endpoint + ", allowed_policies: [" + strings.Repeat("p", 128) + "]"), anExchanger(endpoint + ", allowed_policies: [" + strings.Repeat("p", 129) + "]"), "exchangers.m.allowed_policies[0]"},
		{anExchanger(endpoint + ", allowed_policies: [consoleAdmin, diagnostics], dangerous: true"), anExchanger(endpoint + ", allowed_policies: [diagnostics]"), "exchangers.m.allowed_policies[0]"},
		{anExchanger(policies + ", endpoint: 'https://m.example'"), anExchanger(policies + ", endpoint: 'https://m.example/'"), "exchangers.m.endpoint"},
		{"exchangers: {" + many(64, "m%d: {kind: minio-web-identity, client_id: c, endpoint: 'https://m', allowed_policies: [p]}") + "}", "exchangers: {" + many(65, "m%d: {kind: minio-web-identity, client_id: c, endpoint: 'https://m', allowed_policies: [p]}") + "}", "exchangers"},
	} {
		if _, err := Parse("f", []byte(c.sound), nil); err != nil {
			t.Errorf("%.200s: %.300v", c.sound, err)
		}
		_, err := Parse("f", []byte(c.faulty), nil)
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), ": "+c.path+": ") {
			t.Errorf("%.200s: got %.300v, want one fault at %s", c.faulty, err, c.path)
		}
	}
}

func TestURLForms(t *testing.T) {
	for raw, sound := range map[string]bool{
		"https://h": true, "https://h.example:1/a/b": true, "https://[::2]:8443": true, "http://127.0.0.1:1": true, "http://[::1]": true,
		"http://localhost": true, "https://h/a@b": true,
		"": false, "h.example": false, "//h": false, "https:h": false, "https:///p": false, "HTTPS://h": false, "ftp://h": false, "https://": false,
		"https://h:": false, "https://h:x": false, "https://h:65536": false, "https://h:01": false, "https://h?": false, "https://h?a": false,
		"https://h#": false, "https://h#a": false, "https://u@h": false, "https://u:p@h": false, "https://@h": false, "https://h/a b": false,
		"https://h/\u00e9": false, "https://h\\@evil": false, "https://h_h": false, "https://-h": false, "https://h..h": false, "https://h/\x7f": false,
		"http://h": false, "http://127.0.0.1.example": false, "http://0.0.0.0": false, "http://localhost.": false,
		"https://h/" + strings.Repeat("p", 2038): true, "https://h/" + strings.Repeat("p", 2039): false,
	} {
		v := newValidator(defaults(), nil)
		if v.url("k", raw, false, anyPath); (len(v.faults) == 0) != sound {
			t.Errorf("%.64q: got %.200v", raw, v.faults)
		}
	}
}

func TestPasswordInAURLIsNotRepeated(t *testing.T) {
	for _, raw := range []string{"https://u:hunter2@h", "https://u:hunter2%@h", "ftp://u:hunter2@h", "https://u:hunter2@h:x"} {
		v := newValidator(defaults(), nil)
		if v.url("k", raw, false, anyPath); len(v.faults) != 1 || strings.Contains(v.faults.Error(), "hunter2") {
			t.Errorf("%s: got %v", raw, v.faults)
		}
	}
}

func TestIssuerURLIsDerivedOnLoopbackAlone(t *testing.T) {
	const exchanger = "exchangers: {m: {kind: minio-web-identity, client_id: c, endpoint: 'https://m', allowed_policies: [p]}}\n"
	const tls = "tls: {cert_file: c, key_file: k}"
	for text, want := range map[string]string{
		exchanger: "http://127.0.0.1:8443",
		exchanger + "listeners: {http: {address: 'localhost:1'}}":                               "http://localhost:1",
		exchanger + "listeners: {http: {address: '[::1]:1', " + tls + "}}":                      "https://[::1]:1",
		"listeners: {http: {address: '0.0.0.0:1', " + tls + "}}":                                "https://127.0.0.1:1",
		"listeners: {http: {address: '127.0.0.1:0'}}":                                           "http://127.0.0.1:0",
		exchanger + "listeners: {http: {address: '0.0.0.0:1', " + tls + "}}":                    "",
		exchanger + "listeners: {http: {address: 'broker:1', " + tls + "}}":                     "",
		exchanger + "listeners: {http: {address: '127.0.0.1:0'}}":                               "",
		exchanger + "issuer: {url: 'https://b/c'}\nlisteners: {http: {address: '127.0.0.1:0'}}": "https://b/c",
	} {
		c, err := Parse("f", []byte(text), nil)
		switch {
		case want == "":
			if err == nil || !strings.Contains(err.Error(), "issuer.url: it is required") {
				t.Errorf("%s: got %v", text, err)
			}
		case err != nil || c.Issuer.URL != want:
			t.Errorf("%s: got %v, %v", text, c, err)
		}
	}
	for text, sound := range map[string]bool{
		"issuer: {url: 'http://b.example', insecure_plaintext: true}": true, "issuer: {url: 'http://b.example'}": false, "issuer: {url: 'https://b/'}": false,
	} {
		if _, err := Parse("f", []byte(text), nil); (err == nil) != sound {
			t.Errorf("%s: %v", text, err)
		}
	}
}
