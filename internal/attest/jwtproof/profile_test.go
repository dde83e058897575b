package jwtproof_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/brokertest"
)

// platform is what a token of a profile has to have. Its keys are a test issuer's, in a file, since the issuer isn't on loopback.
type platform struct {
	issuer jwtproof.Issuer
	claims map[string]any
	want   attest.Identity
}

const (
	tenantID   = "72f988bf-86f1-41af-91ab-2d7cd011db47"
	objectID   = "15a1d2b6-53d1-43b5-8c0f-e3e1d7c0e6c5"
	appID      = "9c56cb0e-7d4e-4f9b-ae0f-2b8d5d6b1b0c"
	accountUID = "4b1f1f0e-6e8c-4a44-9d0b-2a4e9b4b9d3e"
	podUID     = "0b6c3f2b-95c8-4b5a-8f5e-0d3d1f9f6a55"
)

func platforms() map[string]platform {
	gce := func() map[string]any {
		return map[string]any{"compute_engine": map[string]any{
			"project_id": "proj", "project_number": 1234567890, "zone": "europe-west1-b", "instance_id": "5550011", "instance_name": "vm-1",
			"instance_creation_timestamp": 1_700_000_000,
		}}
	}
	return map[string]platform{
		"aws": {
			issuer: jwtproof.Issuer{Profile: jwtproof.ProfileAWS, Issuer: "https://0a1b.tokens.sts.global.api.aws"},
			claims: map[string]any{"sub": "arn:aws:iam::123456789012:role/team/reports", "jti": "x", "https://sts.amazonaws.com/": map[string]any{
				"aws_account": "123456789012", "source_region": "eu-west-1", "org_id": "o-abc1234567", "principal_tags": map[string]any{"team": "data"},
			}},
			want: attest.Identity{
				Kind: attest.KindAWS, Tenant: "123456789012", Subject: "arn:aws:iam::123456789012:role/team/reports",
				Attrs: map[string][]string{
					"account": {"123456789012"}, "arn": {"arn:aws:iam::123456789012:role/team/reports"}, "source_region": {"eu-west-1"}, "org_id": {"o-abc1234567"},
				},
			},
		},
		"aws user": {
			issuer: jwtproof.Issuer{Profile: jwtproof.ProfileAWS, Issuer: "https://0a1b.tokens.sts.global.api.aws"},
			claims: map[string]any{"sub": "arn:aws-cn:iam::123456789012:user/a/b", "https://sts.amazonaws.com/": map[string]any{
				"aws_account": "123456789012", "source_region": "cn-north-1", "org_id": 7,
			}},
			want: attest.Identity{
				Kind: attest.KindAWS, Tenant: "123456789012", Subject: "arn:aws-cn:iam::123456789012:user/a/b",
				Attrs: map[string][]string{"account": {"123456789012"}, "arn": {"arn:aws-cn:iam::123456789012:user/a/b"}, "source_region": {"cn-north-1"}},
			},
		},
		"gcp": {
			issuer: jwtproof.Issuer{Profile: jwtproof.ProfileGCP, Issuer: "https://accounts.google.com", GCP: jwtproof.GCP{ProjectNumbers: []string{"1234567890"}}},
			claims: map[string]any{
				"sub": "107517467455664443765", "azp": "107517467455664443765", "email": "vm@proj.iam.gserviceaccount.com", "email_verified": true, "google": gce(),
			},
			want: attest.Identity{
				Kind: attest.KindGCP, Tenant: "1234567890", Subject: "107517467455664443765",
				Attrs: map[string][]string{
					"service_account": {"vm@proj.iam.gserviceaccount.com"}, "project_id": {"proj"}, "project_number": {"1234567890"},
					"zone": {"europe-west1-b"}, "instance_id": {"5550011"}, "instance_name": {"vm-1"},
				},
			},
		},
		"gcp without an instance": {
			issuer: jwtproof.Issuer{
				Profile: jwtproof.ProfileGCP, Issuer: "https://accounts.google.com", GCP: jwtproof.GCP{ServiceAccounts: []string{"job@proj.iam.gserviceaccount.com"}},
			},
			claims: map[string]any{"sub": "99", "email": "job@proj.iam.gserviceaccount.com", "email_verified": true},
			want: attest.Identity{
				Kind: attest.KindGCP, Subject: "99", Attrs: map[string][]string{"service_account": {"job@proj.iam.gserviceaccount.com"}},
			},
		},
		"gcp service account": {
			issuer: jwtproof.Issuer{
				Profile: jwtproof.ProfileGCPServiceAccount, Issuer: "job@proj.iam.gserviceaccount.com",
			},
			claims: map[string]any{"sub": "job@proj.iam.gserviceaccount.com"},
			want: attest.Identity{
				Kind: attest.KindGCP, Subject: "job@proj.iam.gserviceaccount.com", Attrs: map[string][]string{"service_account": {"job@proj.iam.gserviceaccount.com"}},
			},
		},
		"azure v1": {
			issuer: jwtproof.Issuer{Profile: jwtproof.ProfileAzure, Issuer: "https://sts.windows.net/" + tenantID + "/"},
			claims: map[string]any{
				"sub": objectID, "oid": objectID, "tid": tenantID, "appid": appID, "ver": "1.0", "idtyp": "app",
				"xms_mirid": "/subscriptions/5F0D/resourcegroups/Data/providers/Microsoft.Compute/virtualMachines/VM-1",
			},
			want: attest.Identity{
				Kind: attest.KindAzure, Tenant: tenantID, Subject: objectID,
				Attrs: map[string][]string{
					"object_id": {objectID}, "app_id": {appID}, "subscription_id": {"5f0d"}, "resource_group": {"data"},
					"resource_type": {"microsoft.compute/virtualmachines"}, "resource_name": {"vm-1"},
				},
			},
		},
		"azure v2": {
			issuer: jwtproof.Issuer{
				Profile: jwtproof.ProfileAzure, Issuer: "https://login.microsoftonline.com/" + tenantID + "/v2.0",
				Azure: jwtproof.Azure{ObjectIDs: []string{objectID}, AppIDs: []string{appID}},
			},
			claims: map[string]any{"sub": "pairwise", "oid": objectID, "tid": tenantID, "azp": appID, "ver": "2.0"},
			want: attest.Identity{
				Kind: attest.KindAzure, Tenant: tenantID, Subject: objectID, Attrs: map[string][]string{"object_id": {objectID}, "app_id": {appID}},
			},
		},
		"kubernetes": {
			issuer: jwtproof.Issuer{Profile: jwtproof.ProfileKubernetes, Issuer: "https://kubernetes.default.svc"},
			claims: map[string]any{
				"sub": "system:serviceaccount:prod:reports", "aud": []string{"credbroker"},
				"kubernetes.io": map[string]any{
					"namespace": "prod", "serviceaccount": map[string]any{"name": "reports", "uid": accountUID},
					"pod": map[string]any{"name": "reports-0", "uid": podUID}, "node": map[string]any{"name": "node-1", "uid": "77"}, "warnafter": 1,
				},
			},
			want: attest.Identity{
				Kind: attest.KindKubernetes, Tenant: accountUID, Subject: "system:serviceaccount:prod:reports",
				Attrs: map[string][]string{
					"namespace": {"prod"}, "service_account": {"reports"}, "service_account_uid": {accountUID}, "pod": {"reports-0"}, "pod_uid": {podUID}, "node": {"node-1"},
				},
			},
		},
		"spiffe": {
			issuer: jwtproof.Issuer{Profile: jwtproof.ProfileSPIFFE, Issuer: "spiffe://prod.example"},
			claims: map[string]any{"iss": nil, "sub": "spiffe://prod.example/ns/prod/sa/reports"},
			want: attest.Identity{
				Kind: attest.KindSPIFFE, Subject: "spiffe://prod.example/ns/prod/sa/reports",
				Attrs:     map[string][]string{"trust_domain": {"prod.example"}, "path": {"/ns/prod/sa/reports"}},
				PathAttrs: map[string]bool{"path": true},
			},
		},
	}
}

// start returns a fixture that accepts the platform's tokens.
func (p platform) start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{clock: newClock()}
	f.idp = brokertest.NewIDP(t, brokertest.WithClock(f.now))
	keys := f.idp.JWKS()
	if p.issuer.Profile == jwtproof.ProfileSPIFFE { // a bundle
		keys = bytes.ReplaceAll(keys, []byte(`"use":"sig"`), []byte(`"use":"jwt-svid"`))
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	f.issuer = p.issuer
	f.issuer.Name, f.issuer.Keys = "cloud", jwtproof.KeySource{JWKSFile: file}
	f.issuer.Audiences, f.issuer.Algorithms = []string{"credbroker"}, []string{"ES256"}
	f.verifier = f.replace(t, nil)
	return f
}

// sign signs a token for the broker with the given claims changed.
func (f *fixture) sign(changes map[string]any) string { return f.idp.Token(changes) }

func mustSay(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, expected one with %q", err, want)
	}
}

// with are the platform's claims with some of them changed; nil removes one.
func (p platform) with(changes map[string]any) map[string]any {
	out := map[string]any{"iss": p.issuer.Issuer}
	maps.Copy(out, p.claims)
	maps.Copy(out, changes)
	return out
}

func TestProfilesMakeIdentities(t *testing.T) {
	for name, p := range platforms() {
		t.Run(name, func(t *testing.T) {
			f := p.start(t)
			p.want.Issuer, p.want.Expires = p.issuer.Issuer, f.now().Add(5*time.Minute)
			if p.want.PathAttrs == nil {
				p.want.PathAttrs = map[string]bool{}
			}
			token := f.sign(p.with(nil))
			for range 2 { // verified, then remembered
				if got, err := f.verify(token); err != nil || !reflect.DeepEqual(got, p.want) {
					t.Errorf("%v\ngot  %+v\nwant %+v", err, got, p.want)
				}
			}
		})
	}
}

// TestProfilesRefuse is threats.md's line for each platform, and what a good token lacks when one thing of it is changed.
func TestProfilesRefuse(t *testing.T) {
	inner := func(p platform, claim, inside string, changes map[string]any) map[string]any {
		object := maps.Clone(p.claims[claim].(map[string]any))
		if inside != "" {
			object = maps.Clone(object[inside].(map[string]any))
		}
		for name, v := range changes {
			if object[name] = v; v == nil {
				delete(object, name)
			}
		}
		if inside == "" {
			return map[string]any{claim: object}
		}
		outer := maps.Clone(p.claims[claim].(map[string]any))
		outer[inside] = object
		return map[string]any{claim: outer}
	}
	all := platforms()
	aws, gcp, kubernetes := all["aws"], all["gcp"], all["kubernetes"]
	const awsClaim = "https://sts.amazonaws.com/"
	for _, tc := range []struct {
		name, platform string
		changes        map[string]any
		want           string
	}{
		{"another account's ARN", "aws", map[string]any{"sub": "arn:aws:iam::210987654321:role/reports"}, "sub is no ARN"},
		{"account of another form", "aws", inner(aws, awsClaim, "", map[string]any{"aws_account": "1234"}), "sub is no ARN"},
		{"an account and an ARN of another form", "aws", map[string]any{"sub": "arn:aws:iam::12345678901x:role/r", awsClaim: map[string]any{"aws_account": "12345678901x", "source_region": "r"}}, "sub is no ARN"},
		{"an account of 13 digits", "aws", map[string]any{"sub": "arn:aws:iam::1234567890123:role/r", awsClaim: map[string]any{"aws_account": "1234567890123", "source_region": "r"}}, "sub is no ARN"},
		{"a session", "aws", map[string]any{"sub": "arn:aws:sts::123456789012:assumed-role/reports/s"}, "sub is no ARN"},
		{"a region in the ARN", "aws", map[string]any{"sub": "arn:aws:iam:eu:123456789012:role/reports"}, "sub is no ARN"},
		{"no ARN", "aws", map[string]any{"sub": "urn:aws:iam::123456789012:role/reports"}, "sub is no ARN"},
		{"a short ARN", "aws", map[string]any{"sub": "arn:aws:iam::123456789012"}, "sub is no ARN"},
		{"the root", "aws", map[string]any{"sub": "arn:aws:iam::123456789012:root"}, "neither a role nor a user"},
		{"AWS's claims missing", "aws", map[string]any{awsClaim: nil}, "is missing or no object"},
		{"AWS's claims as text", "aws", map[string]any{awsClaim: "123456789012"}, "is missing or no object"},
		{"account as a number", "aws", inner(aws, awsClaim, "", map[string]any{"aws_account": 123456789012}), "aws_account is missing or no text"},
		{"region missing", "aws", inner(aws, awsClaim, "", map[string]any{"source_region": nil}), "source_region is missing"},

		{"another project", "gcp", inner(gcp, "google", "compute_engine", map[string]any{"project_number": 1234567891}), "not among gcp.project_numbers"},
		{"project number as text", "gcp", inner(gcp, "google", "compute_engine", map[string]any{"project_number": "1234567890"}), "project_number is missing or no whole number"},
		{"no project number", "gcp", inner(gcp, "google", "compute_engine", map[string]any{"project_number": nil}), "project_number is missing or no whole number"},
		{"project number with an exponent", "gcp", inner(gcp, "google", "compute_engine", map[string]any{"project_number": 1.5}), "project_number is missing or no whole number"},
		{"instance without an ID", "gcp", inner(gcp, "google", "compute_engine", map[string]any{"instance_id": nil}), "instance_id is missing"},
		{"instance name with a space", "gcp", inner(gcp, "google", "compute_engine", map[string]any{"instance_name": "a b"}), "instance_name is missing or no text"},
		{"google as text", "gcp", map[string]any{"google": "x"}, "google is no object"},
		{"compute_engine as text", "gcp", map[string]any{"google": map[string]any{"compute_engine": "x"}}, "compute_engine is no object"},
		{"a service account of no listed project", "gcp", map[string]any{"google": nil}, "not among gcp.service_accounts"},
		{"google without an instance", "gcp", map[string]any{"google": map[string]any{}}, "not among gcp.service_accounts"},
		{"audience of Vault's form", "gcp", map[string]any{"aud": "https://evil/vault/credbroker"}, "aud "},
		{"the older issuer", "gcp", map[string]any{"iss": "accounts.google.com"}, "not configured"},
		{"e-mail not verified", "gcp without an instance", map[string]any{"email_verified": false}, "not among gcp.service_accounts"},
		{"e-mail verified in text", "gcp without an instance", map[string]any{"email_verified": "true"}, "not among gcp.service_accounts"},
		{"another e-mail", "gcp without an instance", map[string]any{"email": "job@evil.iam.gserviceaccount.com"}, "not among gcp.service_accounts"},
		{"an unlisted account's instance", "gcp without an instance", map[string]any{"email": "x@evil.example", "google": gcp.claims["google"]}, "not among gcp.project_numbers"},
		{"another subject", "gcp service account", map[string]any{"sub": "admin@proj.iam.gserviceaccount.com"}, "sub is not the service account that signed"},
		{"compute_engine claims that an account signed", "gcp service account", map[string]any{"google": gcp.claims["google"]}, "can't vouch for an instance"},
		{"an account that isn't configured", "gcp service account", map[string]any{"iss": "a%2fb@proj.iam.gserviceaccount.com"}, "not configured"},

		{"another tenant", "azure v1", map[string]any{"tid": "72f988bf-86f1-41af-91ab-2d7cd011db48"}, "tid is not the tenant"},
		{"tenant missing", "azure v1", map[string]any{"tid": nil}, "tid is missing"},
		{"object ID missing", "azure v1", map[string]any{"oid": nil}, "oid is missing"},
		{"app ID missing", "azure v1", map[string]any{"appid": nil, "azp": appID}, "appid is missing"},
		{"version 2 at version 1", "azure v1", map[string]any{"ver": "2.0"}, "ver is"},
		{"a user's token", "azure v1", map[string]any{"scp": "user_impersonation"}, "scp:"},
		{"a user by idtyp", "azure v1", map[string]any{"idtyp": "user"}, "idtyp is not app"},
		{"idtyp as a number", "azure v1", map[string]any{"idtyp": 1}, "idtyp is not app"},
		{"resource with dot segments", "azure v1", map[string]any{"xms_mirid": "/subscriptions/a/resourcegroups/../providers/m/t/vm"}, "xms_mirid is not"},
		{"resource with a dot segment", "azure v1", map[string]any{"xms_mirid": "/subscriptions/a/resourcegroups/./providers/m/t/vm"}, "xms_mirid is not"},
		{"resource with an empty segment", "azure v1", map[string]any{"xms_mirid": "/subscriptions//resourcegroups/b/providers/m/t/vm"}, "xms_mirid is not"},
		{"resource with an escape", "azure v1", map[string]any{"xms_mirid": "/subscriptions/a/resourcegroups/b%2fc/providers/m/t/vm"}, "xms_mirid is not"},
		{"resource cut short", "azure v1", map[string]any{"xms_mirid": "/subscriptions/a/resourcegroups/b"}, "xms_mirid is not"},
		{"resource of another order", "azure v1", map[string]any{"xms_mirid": "/resourcegroups/a/subscriptions/b/providers/m/t/vm"}, "xms_mirid is not"},
		{"resource in another group's words", "azure v1", map[string]any{"xms_mirid": "/subscriptions/a/groups/b/providers/m/t/vm"}, "xms_mirid is not"},
		{"resource of no provider", "azure v1", map[string]any{"xms_mirid": "/subscriptions/a/resourcegroups/b/x/m/t/vm"}, "xms_mirid is not"},
		{"resource with a type alone", "azure v1", map[string]any{"xms_mirid": "/subscriptions/a/resourcegroups/b/providers/m/t/vm/t2"}, "xms_mirid is not"},
		{"resource without a slash before", "azure v1", map[string]any{"xms_mirid": "x/subscriptions/a/resourcegroups/b/providers/m/t/vm"}, "xms_mirid is not"},
		{"resource of no subscription", "azure v1", map[string]any{"xms_mirid": "/x/a/resourcegroups/b/providers/m/t/vm"}, "xms_mirid is not"},
		{"resource without end", "azure v1", map[string]any{"xms_mirid": "/subscriptions/a/resourcegroups/b/providers/m" + strings.Repeat("/t/vm", 200)}, "xms_mirid is not"},
		{"resource as a list", "azure v1", map[string]any{"xms_mirid": []string{"/subscriptions/a/resourcegroups/b/providers/m/t/vm"}}, "xms_mirid is not"},
		{"object ID not listed", "azure v2", map[string]any{"oid": "15a1d2b6-53d1-43b5-8c0f-e3e1d7c0e6c6"}, "not among azure.object_ids"},
		{"app not listed", "azure v2", map[string]any{"azp": "9c56cb0e-7d4e-4f9b-ae0f-2b8d5d6b1b0d"}, "not among azure.app_ids"},
		{"version 1's app ID", "azure v2", map[string]any{"azp": nil, "appid": appID}, "azp is missing"},

		{"another namespace", "kubernetes", inner(kubernetes, "kubernetes.io", "", map[string]any{"namespace": "dev"}), "sub is not the service account"},
		{"another account", "kubernetes", inner(kubernetes, "kubernetes.io", "serviceaccount", map[string]any{"name": "admin"}), "sub is not the service account"},
		{"another subject", "kubernetes", map[string]any{"sub": "system:serviceaccount:prod:admin"}, "sub is not the service account"},
		{"a user", "kubernetes", map[string]any{"sub": "system:admin"}, "sub is not the service account"},
		{"no UID", "kubernetes", inner(kubernetes, "kubernetes.io", "serviceaccount", map[string]any{"uid": nil}), "serviceaccount: uid is missing"},
		{"no account", "kubernetes", inner(kubernetes, "kubernetes.io", "", map[string]any{"serviceaccount": nil}), "serviceaccount: name is missing"},
		{"a pod without a UID", "kubernetes", inner(kubernetes, "kubernetes.io", "pod", map[string]any{"uid": nil}), "pod: uid is missing"},
		{"a pod that is text", "kubernetes", inner(kubernetes, "kubernetes.io", "", map[string]any{"pod": "reports-0"}), "pod: name is missing"},
		{"a node that is text", "kubernetes", inner(kubernetes, "kubernetes.io", "", map[string]any{"node": "n"}), "node: name is missing"},
		{"no namespace", "kubernetes", inner(kubernetes, "kubernetes.io", "", map[string]any{"namespace": nil}), "namespace is missing"},
		{"a token from a secret", "kubernetes", map[string]any{
			"kubernetes.io": nil, "kubernetes.io/serviceaccount/namespace": "prod", "kubernetes.io/serviceaccount/service-account.name": "reports",
		}, "kubernetes.io is missing"},
		{"the API server's audience", "kubernetes", map[string]any{"aud": []string{"https://kubernetes.default.svc"}}, "aud "},
		{"no end", "kubernetes", map[string]any{"exp": nil}, "exp is missing"},

		{"another trust domain", "spiffe", map[string]any{"sub": "spiffe://dev.example/ns/prod/sa/reports"}, "not configured"},
		{"a trust domain of which it is a part", "spiffe", map[string]any{"sub": "spiffe://prod.example.evil/ns/prod/sa/reports"}, "not configured"},
		{"trust domain in capitals", "spiffe", map[string]any{"sub": "spiffe://PROD.example/ns/prod/sa/reports"}, "iss is missing"},
		{"dot segments", "spiffe", map[string]any{"sub": "spiffe://prod.example/ns/../sa/admin"}, "iss is missing"},
		{"dot segments with an issuer", "spiffe", map[string]any{"iss": "spiffe://prod.example", "sub": "spiffe://prod.example/ns/../sa/admin"}, "dot segment"},
		{"another domain's subject with an issuer", "spiffe", map[string]any{"iss": "spiffe://prod.example", "sub": "spiffe://dev.example/sa"}, "another trust domain"},
		{"no SPIFFE ID with an issuer", "spiffe", map[string]any{"iss": "spiffe://prod.example", "sub": "alice"}, "doesn't begin with spiffe://"},
		{"no end", "spiffe", map[string]any{"exp": nil}, "exp is missing"},
		{"iss as a number", "spiffe", map[string]any{"iss": 1}, "iss is missing or not a string"},
	} {
		t.Run(tc.platform+"/"+tc.name, func(t *testing.T) {
			p := all[tc.platform]
			f := p.start(t)
			if _, err := f.verify(f.sign(p.with(tc.changes))); !errors.Is(err, attest.ErrRejected) && !errors.Is(err, attest.ErrMalformed) {
				t.Errorf("%v", err)
			} else {
				mustSay(t, err, tc.want)
			}
		})
	}
}

func TestProfilesLeaveConfiguredAttributes(t *testing.T) {
	p := platforms()["aws"]
	f := p.start(t)
	f.issuer.Attributes = map[string]jwtproof.Attribute{"team": {Claim: "/https:~1~1sts.amazonaws.com~1/principal_tags/team"}}
	f.verifier = f.replace(t, nil)
	id, err := f.verify(f.sign(p.with(nil)))
	if err != nil || !reflect.DeepEqual(id.Attrs["team"], []string{"data"}) || !reflect.DeepEqual(id.Attrs["account"], []string{"123456789012"}) {
		t.Errorf("%+v, %v", id, err)
	}
}

// What is remembered for all replicas is remembered there, and not here.
func TestSingleUseIsRememberedWhereItIsSaid(t *testing.T) {
	f := newFixture(t, func(is *jwtproof.Issuer) { is.SingleUse = true })
	began := f.now().Add(-time.Hour)
	shared := attest.NewReplayMemory(func() time.Time { return began })
	token := f.idp.Token(map[string]any{"jti": "a"})
	for n := range 2 {
		v, err := jwtproof.New([]jwtproof.Issuer{f.issuer}, jwtproof.Options{Now: f.now, Replay: shared})
		if err != nil {
			t.Fatal(err)
		}
		f.verifier = v
		if _, err := f.verify(token); (err == nil) != (n == 0) || err != nil && !errors.Is(err, attest.ErrUsed) {
			t.Errorf("at verifier %d: %v", n, err)
		}
	}
}

func TestAListedAccountCountsInAnyProject(t *testing.T) {
	all := platforms()
	p := all["gcp without an instance"]
	f := p.start(t)
	id, err := f.verify(f.sign(p.with(map[string]any{"google": all["gcp"].claims["google"]})))
	if err != nil || id.Tenant != "1234567890" {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestASignedJWTLivesAQuarterOfAnHour(t *testing.T) {
	p := platforms()["gcp service account"]
	f := p.start(t)
	claims := p.with(map[string]any{"exp": f.now().Add(15*time.Minute + time.Second).Unix()})
	f.expect(t, f.sign(claims), attest.ErrRejected, "lives for 15m1s")
}

func TestAManagedIdentitysTokenLivesADay(t *testing.T) {
	p := platforms()["azure v1"]
	f := p.start(t)
	f.expect(t, f.sign(p.with(map[string]any{"iat": f.now().Add(-5 * time.Minute).Unix(), "exp": f.now().Add(24 * time.Hour).Unix()})), nil, "")
}

// A token's issuer is chosen before its signature is checked, so no choice may give one issuer's keys another's name.
func TestSPIFFEIssuerInATokenIsNoKey(t *testing.T) {
	p := platforms()["spiffe"]
	f := p.start(t)
	// SPIRE writes an issuer of its own, which nobody configures.
	if id, err := f.verify(f.sign(p.with(map[string]any{"iss": "https://spire.example"}))); err != nil || id.Issuer != "spiffe://prod.example" {
		t.Errorf("%+v, %v", id, err)
	}
	// An OpenID Connect issuer may name its subjects as it likes: they are its own.
	other := newFixture(t)
	if id, err := other.verify(other.idp.Token(map[string]any{"sub": "spiffe://prod.example/ns/prod/sa/reports"})); err != nil ||
		id.Kind != attest.KindOIDC || id.Issuer != other.idp.URL || id.Attrs != nil {
		t.Errorf("%+v, %v", id, err)
	}
	// And with both configured, its keys are good for no SVID.
	v, err := jwtproof.New([]jwtproof.Issuer{f.issuer, other.issuer}, jwtproof.Options{Now: f.now})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	f.verifier = v
	f.expect(t, other.idp.Token(map[string]any{"iss": nil, "sub": "spiffe://prod.example/ns/prod/sa/reports"}), attest.ErrRejected, "kid")
}

func TestProfilesAreHeldAgainstTheirConfiguration(t *testing.T) {
	for name, tc := range map[string]struct {
		platform string
		change   func(*jwtproof.Issuer)
		want     string
	}{
		"unknown":                              {"spiffe", func(is *jwtproof.Issuer) { is.Profile = "oauth" }, `profile: "oauth" is not one of`},
		"an attribute of its own":              {"spiffe", func(is *jwtproof.Issuer) { is.Attributes = map[string]jwtproof.Attribute{"path": {Claim: "x"}} }, "attributes.path: the profile sets it"},
		"another issuer than Google":           {"gcp", func(is *jwtproof.Issuer) { is.Issuer = "https://accounts.google.com/" }, "expected https://accounts.google.com"},
		"everybody at Google":                  {"gcp", func(is *jwtproof.Issuer) { is.GCP = jwtproof.GCP{} }, "signs tokens for everybody"},
		"an account that isn't one":            {"gcp service account", func(is *jwtproof.Issuer) { is.Issuer = "a%2fb@proj.iam.gserviceaccount.com" }, "no e-mail address of a service account"},
		"a long life of what an account signs": {"gcp service account", func(is *jwtproof.Issuer) { is.MaxLifetime = time.Hour }, "max_lifetime: is 1h0m0s"},
		"the common tenant":                    {"azure v2", func(is *jwtproof.Issuer) { is.Issuer = "https://login.microsoftonline.com/common/v2.0" }, "issuer: "},
		"version 1 with the suffix of 2":       {"azure v1", func(is *jwtproof.Issuer) { is.Issuer = "https://sts.windows.net/" + tenantID + "/v2.0" }, "issuer: "},
		"version 2 without its suffix":         {"azure v2", func(is *jwtproof.Issuer) { is.Issuer = "https://login.microsoftonline.com/" + tenantID + "/" }, "issuer: "},
		"a trust domain that is a URL":         {"spiffe", func(is *jwtproof.Issuer) { is.Issuer = "https://prod.example" }, "expected spiffe://TRUST-DOMAIN"},
		"a trust domain without scheme":        {"spiffe", func(is *jwtproof.Issuer) { is.Issuer = "prod.example" }, "expected spiffe://TRUST-DOMAIN"},
		"a trust domain in capitals":           {"spiffe", func(is *jwtproof.Issuer) { is.Issuer = "spiffe://Prod" }, "expected spiffe://TRUST-DOMAIN"},
		"discovery of a trust domain":          {"spiffe", func(is *jwtproof.Issuer) { is.Keys = jwtproof.KeySource{Discovery: true} }, "a trust domain has neither"},
		"a PEM file of a trust domain":         {"spiffe", func(is *jwtproof.Issuer) { is.Keys = jwtproof.KeySource{PEMFile: "a", PEMKeyID: "k"} }, "a trust domain has neither"},
		"a workload API elsewhere":             {"gcp", func(is *jwtproof.Issuer) { is.Keys = jwtproof.KeySource{WorkloadAPI: "unix:///a"} }, "workload_api: is for profile spiffe"},
		"a workload API that is none":          {"spiffe", func(is *jwtproof.Issuer) { is.Keys = jwtproof.KeySource{WorkloadAPI: "http://a"} }, "workload_api: "},
		"a review elsewhere":                   {"gcp", func(is *jwtproof.Issuer) { is.Keys = jwtproof.KeySource{ReviewURL: "https://a", BearerFile: "b"} }, "token_review: is for profile kubernetes"},
		"a review without a token":             {"kubernetes", func(is *jwtproof.Issuer) { is.Keys = jwtproof.KeySource{ReviewURL: "https://a"} }, "token_review.token_file: is empty"},
		"a review in plaintext":                {"kubernetes", func(is *jwtproof.Issuer) { is.Keys = jwtproof.KeySource{ReviewURL: "http://a", BearerFile: "b"} }, "token_review.url: "},
	} {
		f := platforms()[tc.platform].start(t)
		tc.change(&f.issuer)
		_, err := jwtproof.New([]jwtproof.Issuer{f.issuer}, jwtproof.Options{})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		mustSay(t, err, tc.want)
	}
}
