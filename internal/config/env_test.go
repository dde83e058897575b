package config

import (
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"
)

const twoExchangers = `
exchangers:
  minio: {kind: minio-web-identity, endpoint: "https://a.example", client_id: c, allowed_policies: [p]}
  minio-eu: {kind: minio-web-identity, endpoint: "https://b.example", client_id: c, allowed_policies: [p]}
issuer: {url: "https://broker.example"}
`

func TestEnvironmentOverridesTheFile(t *testing.T) {
	c, err := Parse("f", []byte(twoExchangers), []string{
		"PATH=/bin", "CREDBROKER_ENDPOINT=x", "CREDBROKER_PORT=tcp://10.0.0.1:80", "CREDBROKER__LOG__LEVEL=warn",
		"CREDBROKER__ISSUER__URL=https://other.example", "CREDBROKER__CACHE__MAX_BYTES=2MiB", "CREDBROKER__LIMITS__MAX_IN_FLIGHT=7",
		"CREDBROKER__SHUTDOWN__DRAIN=0s", "CREDBROKER__DEBUG__PPROF=true", "CREDBROKER__LISTENERS__GRPC__TLS__CERT_FILE=/c=d",
		"CREDBROKER__LISTENERS__GRPC__TLS__KEY_FILE=/k", "CREDBROKER__EXCHANGERS__MINIO__TIMEOUT=1s",
		"CREDBROKER__EXCHANGERS__MINIO_EU__ENDPOINT=https://eu.example", "CREDBROKER__LOG__LEVEL=error",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != slog.LevelError || c.Issuer.URL != "https://other.example" || c.Cache.MaxBytes != 2<<20 || c.Limits.MaxInFlight != 7 ||
		c.Shutdown.Drain != 0 || !c.Debug.Pprof || c.Listeners.GRPC.TLS != (TLS{CertFile: "/c=d", KeyFile: "/k"}) {
		t.Errorf("got %+v", c)
	}
	if a, b := c.Exchangers["minio"], c.Exchangers["minio-eu"]; a.Timeout != time.Second || a.Endpoint != "https://a.example" || b.Endpoint != "https://eu.example" || b.ClientID != "c" {
		t.Errorf("got %+v and %+v", a, b)
	}
	if file, line := c.Locate("log.level"); file != "CREDBROKER__LOG__LEVEL" || line != 0 {
		t.Errorf("log.level is said to be at %s:%d", file, line)
	}
}

func TestEnvironmentFaultsNameTheVariable(t *testing.T) {
	for _, c := range []struct{ text, entry, want string }{
		{"", "CREDBROKER__LOG__LEVEL=loud", `CREDBROKER__LOG__LEVEL: log.level: "loud"; expected debug, info, warn or error`},
		{"", "CREDBROKER__LOG__LEVEL=", `CREDBROKER__LOG__LEVEL: log.level: ""; expected debug, info, warn or error`},
		{"", "CREDBROKER__LOG__LEVEL", `CREDBROKER__LOG__LEVEL: log.level: ""; expected debug, info, warn or error`},
		{"", "CREDBROKER__LOG__LEVELS=info", "CREDBROKER__LOG__LEVELS: unknown variable; did you mean CREDBROKER__LOG__LEVEL?"},
		{"", "CREDBROKER__log__level=info", "CREDBROKER__log__level: unknown variable; expected CREDBROKER__ and a key's path in upper case, joined by __ (issuers, roles and lists can't be overridden)"},
		{"", "CREDBROKER__ISSUERS__0__NAME=a", "CREDBROKER__ISSUERS__0__NAME: unknown variable; expected CREDBROKER__ and a key's path in upper case, joined by __ (issuers, roles and lists can't be overridden)"},
		{"", "CREDBROKER__EXCHANGERS__MINIO__ENDPOINT=https://x", "CREDBROKER__EXCHANGERS__MINIO__ENDPOINT: unknown variable; expected CREDBROKER__ and a key's path in upper case, joined by __ (issuers, roles and lists can't be overridden)"},
		{twoExchangers, "CREDBROKER__EXCHANGERS__MINIO__ENDPOINT=http://x.example", `CREDBROKER__EXCHANGERS__MINIO__ENDPOINT: exchangers.minio.endpoint: "http://x.example" is plaintext beyond loopback; expected https, or insecure_plaintext: true`},
		{"", "CREDBROKER__LIMITS__MAX_IN_FLIGHT=0", "CREDBROKER__LIMITS__MAX_IN_FLIGHT: limits.max_in_flight: 0; expected 1 to 65536"},
		{"", "CREDBROKER__LISTENERS__GRPC__ADDRESS=:9443", `CREDBROKER__LISTENERS__GRPC__ADDRESS: listeners.grpc.address: ":9443" is plaintext beyond loopback; expected tls.cert_file and tls.key_file, or insecure_plaintext: true`},
	} {
		_, err := Parse("f", []byte(c.text), []string{c.entry})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v\nwant %s", c.entry, err, c.want)
		}
	}
}

func TestEnvironmentListsAreNotOverridable(t *testing.T) {
	if _, err := Parse("f", []byte(twoExchangers), []string{"CREDBROKER__EXCHANGERS__MINIO__ALLOWED_POLICIES=consoleAdmin"}); err == nil {
		t.Error("a list was overridden")
	}
}

func TestEnvironmentVariableOfTwoExchangersIsRefused(t *testing.T) {
	text := `
exchangers:
  a-b: {kind: minio-web-identity, endpoint: "https://a.example", client_id: c, allowed_policies: [p]}
  a_b: {kind: minio-web-identity, endpoint: "https://b.example", client_id: c, allowed_policies: [p]}
`
	if _, err := Parse("f", []byte(text), []string{"CREDBROKER__LOG__LEVEL=info"}); err != nil {
		t.Errorf("not set: %v", err)
	}
	_, err := Parse("f", []byte(text), []string{"CREDBROKER__EXCHANGERS__A_B__TIMEOUT=1s"})
	want := "CREDBROKER__EXCHANGERS__A_B__TIMEOUT: exchangers.a_b.timeout: the variable could also mean exchangers.a-b.timeout; rename one of the exchangers"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// Without a file there are no lines to name.
func TestFaultsWithoutAFile(t *testing.T) {
	_, err := Load("", []string{"CREDBROKER__LISTENERS__GRPC__ADDRESS=127.0.0.1:9464"})
	want := `(no file): listeners.metrics.address: "127.0.0.1:9464" collides with listeners.grpc.address; expected another port`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// Every variable that the configuration has reaches its key, and no two keys share one.
func TestEveryScalarHasItsVariable(t *testing.T) {
	c, err := Parse("f", []byte(twoExchangers), nil)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	walk(fieldsOf(c), "", func(path string, v reflect.Value) {
		if isScalar(v.Type()) {
			if other, taken := names[envName(path)]; taken {
				t.Errorf("%s and %s share %s", path, other, envName(path))
			}
			names[envName(path)] = path
		}
	})
	if len(names) < 45 {
		t.Errorf("only %d variables: %v", len(names), slices.Sorted(maps.Keys(names)))
	}
}
