package config

import (
	"bytes"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/policy"
)

var update = flag.Bool("update", false, "write the faults that were found to testdata")

// TestFaults parses each faulty file and compares all that is said about it.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Parse(filepath.Base(file), data, nil)
			if err == nil || c != nil {
				t.Fatal("no fault was found")
			}
			got, golden := err.Error()+"\n", strings.TrimSuffix(file, ".yaml")+".want"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestAllFaultsComeAtOnceInLineOrder(t *testing.T) {
	data, err := os.ReadFile("testdata/faults/issuers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse("f", append(data, "unknown: 1\ncache: {max_bytes: x}\n"...), []string{"CREDBROKER__LOG__LEVEL=loud", "CREDBROKER__X=1"})
	faults, ok := errors.AsType[Faults](err)
	if !ok || len(faults) < 30 {
		t.Fatalf("%d faults: %v", len(faults), err)
	}
	last := 0
	for _, f := range faults[:len(faults)-2] {
		if f.File != "f" || f.Line < last {
			t.Errorf("%v comes after line %d", f, last)
		}
		last = f.Line
	}
	for _, f := range faults[len(faults)-2:] {
		if f.Line != 0 || !strings.HasPrefix(f.File, "CREDBROKER__") {
			t.Errorf("%v: expected the variables last", f)
		}
	}
}

func TestEmptyFileIsValid(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "---\n...\n", "{}", "null", "roles:\nissuers:\nexchangers:\nlog:\n", "\ufefflog: {}"} {
		c, err := Parse("f", []byte(text), nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		want := Config{
			Replicas: "single",
			Issuer:   OwnIssuer{URL: "http://127.0.0.1:8443", KeyRotation: 24 * time.Hour, Transit: TransitKey{Mount: "transit"}},
			Listeners: Listeners{
				GRPC: Listener{Address: "127.0.0.1:9443"}, HTTP: Listener{Address: "127.0.0.1:8443"}, Metrics: Listener{Address: "127.0.0.1:9464"},
				Admin: AdminListener{Socket: "/run/credbroker/admin.sock"},
			},
			AWS: AWS{Skew: 30 * time.Second},
			STS: STS{Account: "000000000000", MinLeft: 20 * time.Minute},

			ContainerCredentials: Surface{MinLeft: 20 * time.Minute}, TokenExchange: Surface{MinLeft: 20 * time.Minute},

			Vault:    Vault{Timeout: 5 * time.Second},
			Cache:    Cache{MaxBytes: 67108864},
			Redis:    Redis{Mode: "standalone", Timeout: 250 * time.Millisecond, Prefix: "credbroker", Transit: RedisTransit{Mount: "transit", RotateEvery: 720 * time.Hour}},
			Audit:    Audit{Path: "-"},
			Log:      Log{Level: slog.LevelInfo},
			Limits:   Limits{MaxInFlight: 4096, MaxMints: 60, MaxUnsharedMints: 16, RequestTimeout: 10 * time.Second},
			Shutdown: Shutdown{Drain: 2 * time.Second, Deadline: 20 * time.Second},
		}
		got := *c
		got.origins = nil
		if len(got.Exchangers) == 0 {
			got.Exchangers = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
	if c, err := Load("", nil); err != nil || len(c.Watched()) != 0 {
		t.Errorf("no file at all: %v", err)
	}
}

func TestValuesAreDecoded(t *testing.T) {
	c, err := Parse("/etc/broker.yaml", []byte(`
issuers:
  - {name: a, issuer: "https://a.example/", audiences: [x, y], types: [at+jwt], skew: 1s, attributes: {home: {claim: h, path: true}}}
  - {name: b, issuer: "https://b.example", audiences: [x], pem: {file: /k, kid: '1'}}
exchangers:
  minio: {kind: minio-web-identity, endpoint: "http://[::1]:9000", client_id: c, allowed_policies: [p, consoleAdmin], dangerous: true}
cache: {max_bytes: 2GiB}
log: {level: warn}
shutdown: {deadline: 1m30s, drain: 0s}

roles:
  - name: first
  - name: second
    policies: [p]
    ttl:
      max: 2h
      within_proof: true
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := Issuer{
		Name: "a", Profile: "oidc", Issuer: "https://a.example/", Discovery: true, Audiences: []string{"x", "y"}, AudienceMatch: AudienceContains,
		Types: []string{"at+jwt"}, Algorithms: []string{"RS256", "ES256"}, Skew: time.Second, MaxLifetime: time.Hour,
		Attributes: map[string]Attribute{"home": {Claim: "h", Path: true}},
	}
	b := Issuer{
		Name: "b", Profile: "oidc", Issuer: "https://b.example", PEM: PEM{"/k", "1"}, Audiences: []string{"x"}, AudienceMatch: AudienceContains,
		Types: []string{"JWT", ""}, Algorithms: []string{"RS256", "ES256"}, Skew: 30 * time.Second, MaxLifetime: time.Hour,
	}
	minio := Exchanger{
		Kind: KindMinIOWebIdentity, Endpoint: "http://[::1]:9000", ClientID: "c", AllowedPolicies: []string{"p", "consoleAdmin"},
		Dangerous: true, Timeout: 5 * time.Second, Vault: defaultVaultRead(), PKI: VaultPKI{Mount: "pki", TTL: time.Hour},
	}
	roles := []policy.Role{
		{Name: "first", Source: "broker.yaml:12"},
		{Name: "second", Policies: []string{"p"}, TTL: policy.TTL{Max: 2 * time.Hour, WithinProof: true}, Source: "broker.yaml:13"},
	}
	if !reflect.DeepEqual(c.Issuers, []Issuer{a, b}) || !reflect.DeepEqual(c.Exchangers, map[string]Exchanger{"minio": minio}) || !reflect.DeepEqual(c.Roles, roles) {
		t.Errorf("got %+v\n%+v\n%+v", c.Issuers, c.Exchangers, c.Roles)
	}
	if c.Cache.MaxBytes != 2<<30 || c.Log.Level != slog.LevelWarn || c.Shutdown.Deadline != 90*time.Second || c.Shutdown.Drain != 0 {
		t.Errorf("got %+v", c)
	}
}

func TestPolicyFaultsAreLocated(t *testing.T) {
	c, err := Parse("dir/f.yaml", []byte("roles:\n  - name: a\n    ttl:\n      max: 1h\n    policies:\n      - p\n      - q\n  - name: b\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := c.PolicyFaults(policy.Faults{
		{Path: "roles[1].when", Problem: "missing"},
		{Path: "roles[0].policies[1]", Problem: "unknown"},
		{Path: "roles[0].ttl.max", Problem: "long"},
		{Path: "roles[7].name", Problem: "odd"},
	})
	want := `dir/f.yaml:1: roles[7].name: odd
dir/f.yaml:4: roles[0].ttl.max: long
dir/f.yaml:7: roles[0].policies[1]: unknown
dir/f.yaml:8: roles[1].when: missing`
	if got.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", got.Error(), want)
	}
}

// Neither size nor depth nor a foreign encoding gets past the reader.
func TestTextThatIsNotReadAtAll(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"not UTF-8":      {"log: {}\naudit: {path: \"\xff\"}\n", "f:2: not UTF-8"},
		"UTF-16":         {"\xff\xfel\x00o\x00g\x00", "f:1: not UTF-8"},
		"one byte more":  {strings.Repeat("#", maxFileBytes+1), "f:1: larger than 4194304 bytes"},
		"deep flow":      {strings.Repeat("[", 20_000), "exceeded max depth"},
		"deep blocks":    {strings.Repeat("- ", 20_000), "exceeded max depth"},
		"deep and whole": {"log: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "f:1: log: a list; expected keys and values"},
		"control byte":   {"log:\n  level: \"\x00\"\n", "control characters are not allowed"},
	} {
		_, err := Parse("f", []byte(c.text), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if _, err := Parse("f", bytes.Repeat([]byte("#"), maxFileBytes), nil); err != nil {
		t.Errorf("a file of the largest size: %v", err)
	}
}

func TestNearest(t *testing.T) {
	long := strings.Repeat("k", 127)
	for _, c := range []struct {
		unknown string
		known   []string
		want    string
	}{
		{"addresss", []string{"socket", "address"}, "did you mean address?"},
		{"ab", []string{"b"}, "did you mean b?"},
		{"ab", []string{"cd"}, ""},                              // 2 apart, of 2
		{"abcdefghi", []string{"abcde"}, "did you mean abcde?"}, // 4 apart
		{"abcdefghij", []string{"abcde"}, ""},                   // 5 apart
		{"cat", []string{"bat", "hat"}, "did you mean bat?"},    // the first of two
		{long + "x", []string{long}, "did you mean " + long + "?"},
		{long + "xx", []string{long}, ""},
	} {
		if got := nearest(c.unknown, c.known); got != c.want {
			t.Errorf("%.20s: got %.40q, want %.40q", c.unknown, got, c.want)
		}
	}
}

func TestJoinQuotesWhatCouldBeAPath(t *testing.T) {
	plain := "azAZ09_-"
	if got := join("a", plain); got != "a."+plain || join("", plain) != plain || join("", strings.Repeat("k", 64)) != strings.Repeat("k", 64) {
		t.Errorf("got %s", got)
	}
	for _, odd := range []string{"", ".", "[", "/", ":", "@", "`", "{", " ", "\n", "é", strings.Repeat("k", 65)} {
		if got := join("a", odd); !strings.HasPrefix(got, `a["`) || strings.Contains(got, "\n") {
			t.Errorf("%q: got %q", odd, got)
		}
	}
}
