package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/prove"
)

// tokenClaims reads a token without verifying it.
func tokenClaims(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	var claims map[string]any
	if len(parts) != 3 {
		t.Fatalf("no JWT: %s", token)
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(data, &claims) != nil {
		t.Fatalf("no JWT: %s", token)
	}
	return claims
}

// What each platform gives is printed, found by auto from the same environment, and nothing is said but by auto.
func TestProvePrintsWhatThePlatformGives(t *testing.T) {
	google, entra, aws, spiffe := brokertest.NewGoogle(t, nil), brokertest.NewEntra(t, nil), brokertest.NewAWSSTS(t), brokertest.NewSPIFFE(t, "example.org", nil)
	aws.Add(awsKey)
	// The program's own AWS keys are not what auto goes by.
	awsToken := append([]string{
		"AWS_ENDPOINT_URL_STS=" + aws.WebIdentityURL, "AWS_CA_BUNDLE=" + aws.CAFile, "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/",
	}, awsEnv...)
	for name, c := range map[string]struct {
		kind, found  string
		env          []string
		claim, value string
	}{
		"Google":            {"gcp", "$GCE_METADATA_HOST is set", []string{"GCE_METADATA_HOST=" + google.MetadataHost}, "email", google.Instance.ServiceAccount},
		"App Service":       {"azure", "$IDENTITY_ENDPOINT is set", entra.Environ(), "oid", entra.System.ObjectID},
		"App Service, user": {"azure", "$IDENTITY_ENDPOINT is set", append(entra.Environ(), "AZURE_CLIENT_ID="+entra.User.AppID), "oid", entra.User.ObjectID},
		"AKS": {
			"azure", "$AZURE_FEDERATED_TOKEN_FILE is set",
			append(entra.FederatedEnviron(t, filepath.Join(t.TempDir(), "token")), "SSL_CERT_FILE="+entra.CAFile, "SSL_CERT_DIR=/nowhere"), "oid", entra.User.ObjectID,
		},
		"AWS":    {"aws-token", "$AWS_CONTAINER_CREDENTIALS_FULL_URI is set", awsToken, "sub", "arn:aws:iam::123456789012:role/reports-service"},
		"SPIFFE": {"spiffe", "$SPIFFE_ENDPOINT_SOCKET is set", []string{"SPIFFE_ENDPOINT_SOCKET=" + spiffe.Address}, "sub", spiffe.ID("/workload")},
	} {
		for _, kind := range []string{c.kind, "auto"} {
			out, stderr, err := runProgram(t, "", c.env, "prove", kind, "--audience", "credbroker")
			if err != nil {
				t.Errorf("%s by %s: %v: %s", name, kind, err, stderr)
				continue
			}
			said := ""
			if kind == "auto" {
				said = "broker: proving with " + c.kind + ": " + c.found + "\n"
			}
			claims := tokenClaims(t, strings.TrimSpace(out))
			audience := claims["aud"]
			if several, ok := audience.([]any); ok && len(several) == 1 {
				audience = several[0]
			}
			if claims[c.claim] != c.value || audience != "credbroker" || stderr != said {
				t.Errorf("%s by %s: %s is %v, aud %v; it says %q", name, kind, c.claim, claims[c.claim], claims["aud"], stderr)
			}
		}
	}
}

func TestBenchKeepsAPlatformsProofForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, away := 0, errors.New("away")
		var fault error
		k := &keptProof{prover: prove.TokenFunc(func(context.Context) (string, error) {
			asked++
			return strings.Repeat("t", asked), fault
		})}
		give := func(want string) {
			t.Helper()
			if got, err := k.Prove(t.Context()); err != nil || got.Reveal() != want {
				t.Errorf("%q, %v; want %q", got.Reveal(), err, want)
			}
		}
		give("t")
		time.Sleep(30*time.Second - 1)
		give("t")
		time.Sleep(time.Nanosecond)
		give("tt")
		time.Sleep(time.Minute)
		fault = away
		for range 2 {
			if _, err := k.Prove(t.Context()); !errors.Is(err, away) {
				t.Error(err)
			}
		}
		fault = nil
		give("ttttt")
	})
}
