package brokertest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// review is a TokenReview's outcome.
type review struct {
	Authenticated bool
	Error         string
	Audiences     []string
	User          struct {
		Username, UID string
		Groups        []string
		Extra         map[string][]string
	}
}

// asReviewer asks for a TokenReview as the broker would, and returns the answer as it came too.
func asReviewer(t *testing.T, k *Kubernetes, reviewer, token string, audiences ...string) (review, string) {
	t.Helper()
	status, answer, err := k.Call(reviewer, http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", object{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": object{"token": token, "audiences": audiences},
	})
	if err != nil || status != http.StatusCreated {
		t.Fatalf("TokenReview: %d, %v: %s", status, err, answer)
	}
	var r struct{ Status review }
	if err := json.Unmarshal(answer, &r); err != nil {
		t.Fatal(err)
	}
	return r.Status, string(answer)
}

// show logs a token and what the server says of it.
func show(t *testing.T, token, answer string) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("the token has %d parts, want 3", len(parts))
	}
	for i, name := range []string{"header", "payload"} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", name, data)
	}
	t.Logf("TokenReview: %s", answer)
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestKubernetes(t *testing.T) {
	started := time.Now()
	k := StartKubernetes(t)
	t.Logf("started in %s", time.Since(started))
	reviewer := readFile(t, k.ReviewerTokenFile())
	k.CreateNamespace("payroll")
	const aud = "credbroker"
	audiences := []string{aud}
	const username = "system:serviceaccount:payroll:job"
	passes := func(t *testing.T, token string) (review, string) {
		t.Helper()
		r, answer := asReviewer(t, k, reviewer, token, aud)
		if !r.Authenticated || r.User.Username != username || !slices.Equal(r.Audiences, audiences) {
			t.Fatal(answer)
		}
		return r, answer
	}
	refuses := func(t *testing.T, what, token string, audiences ...string) {
		t.Helper()
		r, answer := asReviewer(t, k, reviewer, token, audiences...)
		if r.Authenticated || r.User.Username != "" || r.Error == "" {
			t.Fatalf("%s: %s", what, answer)
		}
		t.Logf("%s: %s", what, r.Error)
	}

	t.Run("unbound token", func(t *testing.T) {
		uid := k.CreateServiceAccount("payroll", "job")
		defer k.DeleteServiceAccount("payroll", "job")
		token := k.Token("payroll", "job", audiences, 10*time.Minute, "")
		r, answer := passes(t, token)
		show(t, token, answer)
		want(t, "UID", r.User.UID, uid)
		if pod := r.User.Extra["authentication.kubernetes.io/pod-name"]; pod != nil {
			t.Errorf("it is bound to %s", pod)
		}
		refuses(t, "for another audience", token, "other")
		refuses(t, "for the server", token)
		refuses(t, "for the server, by name", token, k.Issuer)
		refuses(t, "altered", token[:len(token)-8]+"AAAAAAAA", aud)
		refuses(t, "no token", "x", aud)
	})

	t.Run("token of several audiences", func(t *testing.T) {
		k.CreateServiceAccount("payroll", "job")
		defer k.DeleteServiceAccount("payroll", "job")
		token := k.Token("payroll", "job", []string{"one", aud, "two"}, time.Hour, "")
		r, answer := asReviewer(t, k, reviewer, token, "two", "three", aud)
		if !r.Authenticated || !slices.Equal(r.Audiences, []string{"two", aud}) {
			t.Error(answer)
		}
	})

	t.Run("bound to a pod", func(t *testing.T) {
		uid := k.CreateServiceAccount("payroll", "job")
		defer k.DeleteServiceAccount("payroll", "job")
		pod := k.CreatePod("payroll", "job-1", "job")
		token, unseen := k.Token("payroll", "job", audiences, time.Hour, "job-1"), k.Token("payroll", "job", audiences, time.Hour, "job-1")
		r, answer := passes(t, token)
		show(t, token, answer)
		want(t, "UID", r.User.UID, uid)
		want(t, "pod", strings.Join(r.User.Extra["authentication.kubernetes.io/pod-uid"], " "), pod)
		want(t, "node", strings.Join(r.User.Extra["authentication.kubernetes.io/node-name"], " "), kubernetesNode)
		k.DeletePod("payroll", "job-1")
		refuses(t, "of a deleted pod", unseen, aud)
		k.CreatePod("payroll", "job-1", "job")
		refuses(t, "of a deleted pod that another has the name of", unseen, aud)
		k.DeletePod("payroll", "job-1")
	})

	t.Run("deleted account", func(t *testing.T) {
		k.CreateServiceAccount("payroll", "job")
		unseen, seen := k.Token("payroll", "job", audiences, time.Hour, ""), k.Token("payroll", "job", audiences, time.Hour, "")
		passes(t, seen)
		k.DeleteServiceAccount("payroll", "job")
		refuses(t, "of a deleted account", unseen, aud)
		k.CreateServiceAccount("payroll", "job")
		defer k.DeleteServiceAccount("payroll", "job")
		refuses(t, "of a deleted account that another has the name of", unseen, aud)
		// The server remembers for 10 s what it has reviewed.
		if r, _ := asReviewer(t, k, reviewer, seen, aud); !r.Authenticated {
			t.Error("a token that was just reviewed is refused at once: say so in Kubernetes's comment")
		}
	})

	t.Run("legacy token", func(t *testing.T) {
		k.CreateServiceAccount("payroll", "job")
		defer k.DeleteServiceAccount("payroll", "job")
		token := k.LegacyToken("payroll", "job")
		refuses(t, "legacy, for an audience", token, aud)
		r, answer := asReviewer(t, k, reviewer, token)
		if !r.Authenticated || r.User.Username != username {
			t.Fatal(answer)
		}
		show(t, token, answer)
	})

	t.Run("signed by hand", func(t *testing.T) {
		uid := k.CreateServiceAccount("payroll", "job")
		defer k.DeleteServiceAccount("payroll", "job")
		claims := func(age time.Duration) object {
			at := time.Now().Add(-age).Unix()
			return object{
				"iss": k.Issuer, "sub": username, "aud": audiences, "iat": at, "nbf": at, "exp": at + 60,
				"kubernetes.io": object{"namespace": "payroll", "serviceaccount": object{"name": "job", "uid": uid}},
			}
		}
		passes(t, k.Sign(claims(0)))
		refuses(t, "expired", k.Sign(claims(time.Hour)), aud)
		refuses(t, "of the future", k.Sign(claims(-time.Hour)), aud)
	})

	t.Run("discovery", func(t *testing.T) {
		for _, url := range []string{k.DiscoveryURL, k.JWKSURL} {
			path := strings.TrimPrefix(url, k.URL)
			status, answer, err := k.Call(reviewer, http.MethodGet, path, nil)
			if err != nil || status != http.StatusOK {
				t.Fatalf("%s: %d, %v: %s", path, status, err, answer)
			}
			t.Logf("%s: %s", path, answer)
			for _, part := range map[string][]string{
				k.DiscoveryURL: {`"issuer":"` + k.Issuer + `"`, `"jwks_uri":"` + k.JWKSURL + `"`},
				k.JWKSURL:      {`"kty":"RSA"`, `"alg":"RS256"`},
			}[url] {
				if !bytes.Contains(answer, []byte(part)) {
					t.Errorf("%s: no %s in %s", path, part, answer)
				}
			}
			resp, err := k.client.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s: %s to whoever asks", path, resp.Status)
			}
		}
	})

	t.Run("no reviewer", func(t *testing.T) {
		k.CreateServiceAccount("payroll", "job")
		defer k.DeleteServiceAccount("payroll", "job")
		token := k.Token("payroll", "job", nil, time.Hour, "")
		for bearer, code := range map[string]int{token: http.StatusForbidden, "x": http.StatusUnauthorized, reviewer[:len(reviewer)-8] + "AAAAAAAA": http.StatusUnauthorized} {
			status, answer, err := k.Call(bearer, http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", object{
				"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": object{"token": token},
			})
			if err != nil || status != code {
				t.Errorf("%d, %v, want %d: %s", status, err, code, answer)
			}
			t.Logf("%d: %s", status, answer)
		}
	})

	t.Run("killed and started", func(t *testing.T) {
		k.CreateServiceAccount("payroll", "job")
		defer k.DeleteServiceAccount("payroll", "job")
		token := k.Token("payroll", "job", audiences, time.Hour, "")
		k.Kill()
		if _, _, err := k.Call(reviewer, http.MethodGet, "/readyz", nil); err == nil {
			t.Error("it answers")
		}
		started := time.Now()
		k.Start()
		t.Logf("started again in %s", time.Since(started))
		passes(t, token)
	})
}
