package vault_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/vault"
)

func TestAWSLogin(t *testing.T) {
	const account, serverID = "123456789012", "vault.example"
	sts := brokertest.NewAWSSTS(t)
	sts.Add(
		brokertest.AWSKey{ID: "ASIABROKER", Secret: "broker-secret", SessionToken: "broker-token", Principal: brokertest.AWSPrincipal{
			Account: account, ARN: "arn:aws:sts::" + account + ":assumed-role/broker/i-1", UserID: "AROABROKER:i-1"}},
		brokertest.AWSKey{ID: "ASIAOTHER", Secret: "other-secret", SessionToken: "other-token", Principal: brokertest.AWSPrincipal{
			Account: account, ARN: "arn:aws:sts::" + account + ":assumed-role/other/i-2", UserID: "AROAOTHER:i-2"}},
	)
	v := startVault(t, brokertest.VaultOptions{CAFiles: []string{sts.CAFile}})
	login(t, v, "aws", "role/broker", brokertest.VaultData{"sts_endpoint": "https://" + sts.Addr, "sts_region": "eu-west-1", "iam_server_id_header_value": serverID},
		brokertest.VaultData{"auth_type": "iam", "bound_iam_principal_arn": "arn:aws:iam::" + account + ":role/broker", "resolve_aws_unique_ids": false})
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	as := func(id, secret, token string) {
		t.Setenv("AWS_ACCESS_KEY_ID", id)
		t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
		t.Setenv("AWS_SESSION_TOKEN", token)
	}
	l := vault.AWS{Mount: "aws", Role: "broker", Region: "eu-west-1", ServerID: serverID}
	as("ASIABROKER", "broker-secret", "broker-token")
	r := run(t, vault.Config{Address: v.URL, Login: l})
	r.ready(t)
	reads(t, r)
	r.stop()
	wrong := l
	wrong.ServerID = "another.example"
	refused(t, vault.Config{Address: v.URL, Login: wrong})
	as("ASIAOTHER", "other-secret", "other-token")
	refused(t, vault.Config{Address: v.URL, Login: l})

	// Another role of AWS's, which may assume the one that Vault knows.
	t.Setenv("AWS_CA_BUNDLE", sts.CAFile)
	assuming := l
	assuming.AssumeRole, assuming.STS = "arn:aws:iam::"+account+":role/broker", "https://"+sts.Addr
	unavailable := run(t, vault.Config{Address: v.URL, Login: assuming})
	brokertest.Eventually(t, 10*time.Second, "AWS's refusal", func() error {
		if !strings.Contains(unavailable.Status(), "AccessDenied") {
			return errors.New(unavailable.Status())
		}
		return nil
	})
	unavailable.stop()
	sts.AddRole(brokertest.AWSRole{ARN: assuming.AssumeRole, Principal: "arn:aws:sts::" + account + ":assumed-role/other/i-2"})
	r = run(t, vault.Config{Address: v.URL, Login: assuming})
	r.ready(t)
	reads(t, r)
}

// standIn is a login endpoint that knows the fields that Vault's does: for GCP and Azure, whose plug-ins ask clouds.
func standIn(t *testing.T, path string, known ...string) (address string, got <-chan fields) {
	t.Helper()
	logins := make(chan fields, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var f fields
		if r.Method != http.MethodPut || r.URL.Path != path || json.NewDecoder(r.Body).Decode(&f) != nil ||
			slices.ContainsFunc(slices.Collect(maps.Keys(f)), func(name string) bool { return !slices.Contains(known, name) }) {
			http.Error(w, `{"errors":["no such login"]}`, http.StatusBadRequest)
			return
		}
		select {
		case logins <- f:
		default:
		}
		_, _ = w.Write([]byte(`{"auth":{"client_token":"hvs.x","lease_duration":600,"renewable":true}}`))
	}))
	t.Cleanup(s.Close)
	return s.URL, logins
}

func payload(t *testing.T, jwt string) []byte {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestGCPLogins(t *testing.T) {
	google := brokertest.NewGoogle(t, nil)
	t.Setenv("GCE_METADATA_HOST", google.MetadataHost)
	address, got := standIn(t, "/v1/auth/gcp/login", "role", "jwt")
	t.Run("gce", func(t *testing.T) {
		r := run(t, vault.Config{Address: address, Login: vault.GCP{Mount: "gcp", Role: "broker"}})
		r.ready(t)
		f := <-got
		claims := f.claims(t)
		if f["role"] != "broker" || claims["aud"] != "http://vault/broker" || claims["iss"] != brokertest.GoogleIssuer || claims["google"] == nil {
			t.Errorf("%v %v", f["role"], claims)
		}
	})
	t.Run("iam", func(t *testing.T) {
		const account = "broker@example-project.iam.gserviceaccount.com"
		r := run(t, vault.Config{Address: address, Login: vault.GCP{Mount: "gcp", Role: "broker", ServiceAccount: account, IAMCredentials: google.IAMURL}})
		r.ready(t)
		f := <-got
		claims := f.claims(t)
		exp, _ := claims["exp"].(float64)
		if f["role"] != "broker" || claims["aud"] != "vault/broker" || claims["sub"] != account || time.Until(time.Unix(int64(exp), 0)) > 15*time.Minute {
			t.Errorf("%v %v", f["role"], claims)
		}
	})
}

func TestAzureLogin(t *testing.T) {
	entra := brokertest.NewEntra(t, nil)
	for _, pair := range entra.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	const resource = "https://vault.example"
	address, got := standIn(t, "/v1/auth/azure/login", "role", "jwt", "subscription_id", "resource_group_name", "vm_name", "vmss_name", "resource_id")
	r := run(t, vault.Config{Address: address, Login: vault.Azure{
		Mount: "azure", Role: "broker", Resource: resource, SubscriptionID: "s", ResourceGroup: "g", ResourceID: "/subscriptions/s/x",
	}})
	r.ready(t)
	f := <-got
	claims := f.claims(t)
	if f["role"] != "broker" || f["subscription_id"] != "s" || f["resource_group_name"] != "g" || f["resource_id"] != "/subscriptions/s/x" || len(f) != 5 ||
		claims["aud"] != resource || claims["oid"] != entra.System.ObjectID {
		t.Errorf("%v %v", f, claims)
	}
}
