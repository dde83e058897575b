package jwtproof

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// FuzzParseReview holds what is taken of a TokenReview's answer against encoding/json, and sees to it that a good review is of
// the very account that the token names.
func FuzzParseReview(f *testing.F) {
	f.Add([]byte(`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":true,"user":{"username":"system:serviceaccount:n:s","uid":"u","extra":{"authentication.kubernetes.io/pod-name":["p"],"authentication.kubernetes.io/pod-uid":["q"]}},"audiences":["a"]}}`))
	f.Add([]byte(`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"user":{},"error":"[invalid bearer token]"}}`))
	f.Add([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure"}`))
	account := kubernetesAccount{namespace: "n", name: "s", uid: "u", pod: "p", podUID: "q"}
	f.Fuzz(func(t *testing.T, data []byte) {
		status, err := parseReview(data)
		if err != nil {
			return
		}
		var theirs struct {
			Kind, APIVersion string
			Status           struct {
				Authenticated bool
				Audiences     []string
				User          struct {
					Username, UID string
					Extra         map[string][]string
				}
			}
		}
		if err := json.Unmarshal(data, &theirs); err != nil {
			t.Fatalf("taken, and not JSON: %v", err)
		}
		if status.check(&account, []string{"a"}) != nil {
			return
		}
		s := theirs.Status
		if theirs.Kind != "TokenReview" || !s.Authenticated || s.User.Username != "system:serviceaccount:n:s" || s.User.UID != "u" ||
			s.User.Extra["authentication.kubernetes.io/pod-name"][0] != "p" || len(s.Audiences) == 0 {
			t.Errorf("%s: a good review, and encoding/json reads %+v", data, theirs)
		}
	})
}

// FuzzProfiles sees to it that no claims make a profile panic, nor give an identity without a subject or with another kind, and
// that what encoding/json reads of an accepted token is what the identity says.
func FuzzProfiles(f *testing.F) {
	const tenant = "72f988bf-86f1-41af-91ab-2d7cd011db47"
	issuers := []Issuer{
		{Profile: ProfileAWS, Issuer: "https://a.tokens.sts.global.api.aws"},
		{Profile: ProfileGCP, Issuer: googleIssuer, GCP: GCP{ProjectNumbers: []string{"1"}, ServiceAccounts: []string{"a@p.iam.gserviceaccount.com"}}},
		{Profile: ProfileGCPServiceAccount, Issuer: "a@p.iam.gserviceaccount.com"},
		{Profile: ProfileAzure, Issuer: "https://sts.windows.net/" + tenant + "/"},
		{Profile: ProfileKubernetes, Issuer: "https://k"},
		{Profile: ProfileSPIFFE, Issuer: "spiffe://a"},
	}
	for n, extra := range []string{
		`"sub":"arn:aws:iam::123456789012:role/r","https://sts.amazonaws.com/":{"aws_account":"123456789012","source_region":"r","org_id":"o"}`,
		`"sub":"1","email":"a@p.iam.gserviceaccount.com","email_verified":true,"google":{"compute_engine":{"project_id":"p","project_number":1,"zone":"z","instance_id":"2","instance_name":"n"}}`,
		`"sub":"a@p.iam.gserviceaccount.com"`,
		`"sub":"s","tid":"` + tenant + `","oid":"o","appid":"a","ver":"1.0","xms_mirid":"/subscriptions/a/resourcegroups/b/providers/c/d/e"`,
		`"sub":"system:serviceaccount:n:s","kubernetes.io":{"namespace":"n","serviceaccount":{"name":"s","uid":"u"},"pod":{"name":"p","uid":"q"}}`,
		`"sub":"spiffe://a/b"`,
	} {
		f.Add(n, []byte(`{"iss":"`+issuers[n].Issuer+`","aud":"a","iat":1,"exp":2,`+extra+`}`))
	}
	now := time.Unix(1, 0)
	f.Fuzz(func(t *testing.T, n int, payload []byte) {
		config := issuers[uint(n)%uint(len(issuers))]
		config.Name, config.Audiences, config.Keys = "x", []string{"a"}, KeySource{JWKSFile: "x"}
		paths, err := config.normalize()
		if err != nil {
			t.Fatal(err)
		}
		p := profiles[config.Profile]
		is := &issuer{config: config, claims: paths, profile: &p}
		c, err := parseClaims(payload)
		if err != nil || is.check(&c, "", now) != nil {
			return
		}
		id, err := is.identity(&c)
		if err != nil {
			return
		}
		var theirs map[string]any
		if err := json.Unmarshal(payload, &theirs); err != nil {
			t.Fatalf("taken, and not JSON: %v", err)
		}
		want, _ := theirs["sub"].(string)
		if config.Profile == ProfileAzure {
			want, _ = theirs["oid"].(string)
		}
		if id.Subject == "" || id.Subject != want || id.Kind != p.kind || id.Issuer != config.Issuer || id.Actor != nil {
			t.Errorf("%s: %+v", payload, id)
		}
		for name, values := range id.Attrs {
			if len(values) != 1 || values[0] == "" {
				t.Errorf("%s: attribute %s is %q", payload, name, values)
			}
		}
		if _, _, err := attest.ParseSPIFFEID(id.Subject); config.Profile == ProfileSPIFFE && err != nil {
			t.Error(err)
		}
	})
}
