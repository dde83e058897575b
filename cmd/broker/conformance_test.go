package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/conformance"
)

// conform runs `broker conformance` and returns the checks that failed.
func conform(t *testing.T, surface, endpoint, tokenFile string) (checks int, failed []string) {
	t.Helper()
	out, stderr, err := runProgram(t, "", nil, "conformance", "--surface", surface, "--endpoint", endpoint, "--token-file", tokenFile, "--role", "reports", "--format", "json")
	var results []conformance.Result
	if json.Unmarshal([]byte(out), &results) != nil {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	for _, r := range results {
		if !r.OK {
			failed = append(failed, r.ID)
			t.Logf("%s: %s; expected %s", r.ID, r.Saw, r.Expected)
		}
	}
	if (err == nil) != (len(failed) == 0) {
		t.Errorf("%d checks failed, and it ended with %v: %s", len(failed), err, stderr)
	}
	token, _ := os.ReadFile(tokenFile)
	if strings.Contains(out+stderr, strings.TrimSpace(string(token))) {
		t.Error("it prints the token")
	}
	return len(results), failed
}

func TestOurSurfacesConform(t *testing.T) {
	w := startWorld(t)
	token := w.tokenFile(w.token(nil))
	a := startAgent(t, nil, "--endpoint", w.HTTP, "--token-file", token, "--role", "reports")
	a.waitReady()
	for name, c := range map[string]struct {
		surface, endpoint, token string
		checks                   int
	}{
		"sts":       {"sts", w.HTTP + "/sts", token, 29},
		"container": {"container", w.HTTP + "/v1/container-credentials/reports", token, 20},
		"oauth":     {"oauth", w.HTTP + "/oauth/token", token, 22},
		"agent":     {"container", a.uri("reports"), a.TokenFile, 20},
	} {
		t.Run(name, func(t *testing.T) {
			checks, failed := conform(t, c.surface, c.endpoint, c.token)
			// The agent has what the broker gave it, which is the role's default of 15 minutes.
			if name == "agent" {
				failed = slices.DeleteFunc(failed, func(id string) bool { return id == "container.life" })
			}
			if checks != c.checks || len(failed) > 0 {
				t.Errorf("%d checks; %q failed", checks, failed)
			}
		})
	}
}

// MinIO's own STS gives credentials, and isn't AWS's to the letter. Should this list change, docs/sdks.md has to.
func TestWhatMinIOsOwnSTSIsLike(t *testing.T) {
	idp := brokertest.NewIDP(t)
	m := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: idp.URL})
	w := &world{t: t}
	token := w.tokenFile(idp.Token(map[string]any{"policy": "readwrite", "aud": brokertest.ClientID}))
	checks, failed := conform(t, "sts", m.Endpoint, token)
	want := []string{
		"sts.life", "sts.assumed-role-user", "sts.no-store", "sts.error-shape", "sts.bad-token", "sts.no-token", "sts.unknown-role", "sts.no-action",
		"sts.unknown-action", "sts.wrong-version", "sts.bad-policy", "sts.long-role-arn", "sts.hostile-session-name", "sts.twice", "sts.query",
	}
	if checks != 29 || !slices.Equal(failed, want) {
		t.Errorf("%d checks; %q failed", checks, failed)
	}
}
