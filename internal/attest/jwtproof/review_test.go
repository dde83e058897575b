package jwtproof_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
)

func clusterIssuer(k *brokertest.Kubernetes) jwtproof.Issuer {
	return jwtproof.Issuer{
		Name: "cluster", Profile: jwtproof.ProfileKubernetes, Issuer: k.Issuer, Audiences: []string{"credbroker"},
		Keys: jwtproof.KeySource{ReviewURL: k.URL, CAFile: k.CAFile, BearerFile: k.ReviewerTokenFile()},
	}
}

// TestKubernetesTokens shows tokens of a real API server to the verifier, both with its keys and with reviews.
func TestKubernetesTokens(t *testing.T) {
	k := brokertest.StartKubernetes(t)
	k.CreateNamespace("prod")
	uid := k.CreateServiceAccount("prod", "reports")
	podUID := k.CreatePod("prod", "reports-0", "reports")
	reviewing := clusterIssuer(k)
	reviewing.Name = "reviewed"
	offline := clusterIssuer(k)
	offline.Keys = jwtproof.KeySource{JWKSURL: k.JWKSURL, CAFile: k.CAFile, BearerFile: k.ReviewerTokenFile()}
	for name, issuer := range map[string]jwtproof.Issuer{"reviewed": reviewing, "by keys": offline} {
		ahead := new(atomic.Int64) // of the clock
		v, err := jwtproof.New([]jwtproof.Issuer{issuer}, jwtproof.Options{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		verify := func(token string) (attest.Identity, error) {
			return v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)})
		}
		t.Run(name, func(t *testing.T) {
			bound := k.Token("prod", "reports", []string{"credbroker"}, time.Hour, "reports-0")
			for range 2 {
				id, err := verify(bound)
				if err != nil || id.Kind != attest.KindKubernetes || id.Issuer != k.Issuer || id.Tenant != uid || id.Subject != "system:serviceaccount:prod:reports" ||
					id.Attrs["pod_uid"][0] != podUID || id.Attrs["namespace"][0] != "prod" || id.Attrs["node"] == nil {
					t.Errorf("%+v, %v", id, err)
				}
			}
			if id, err := verify(k.Token("prod", "reports", []string{"other", "credbroker"}, time.Hour, "")); err == nil || id.Subject != "" {
				t.Errorf("two audiences without azp: %+v", id)
			}
			for name, token := range map[string]string{
				"the API server's audience": k.Token("prod", "reports", nil, time.Hour, ""),
				"another audience":          k.Token("prod", "reports", []string{"vault"}, time.Hour, ""),
				"a token from a secret":     k.LegacyToken("prod", "reports"),
				"another signature":         bound[:len(bound)-8] + "AAAAAAAA",
			} {
				if _, err := verify(token); err == nil {
					t.Errorf("%s: accepted", name)
				} else if !strings.Contains(err.Error(), "rejected") {
					t.Errorf("%s: %v", name, err)
				}
			}
			if s := v.Status(); len(s) > 0 {
				t.Error(s)
			}
		})
	}
	// Deleted and made anew, an account is another, and its former tokens are no good.
	v, err := jwtproof.New([]jwtproof.Issuer{reviewing}, jwtproof.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	former := k.Token("prod", "reports", []string{"credbroker"}, time.Hour, "")
	k.DeleteServiceAccount("prod", "reports")
	if _, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(former)}); err == nil || !strings.Contains(err.Error(), "not authenticated") {
		t.Errorf("a deleted account: %v", err)
	}
	if again := k.CreateServiceAccount("prod", "reports"); again == uid {
		t.Fatal("the same UID")
	}
	if _, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(former)}); err == nil || !strings.Contains(err.Error(), "not authenticated") {
		t.Errorf("an account made anew: %v", err)
	}
	id, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(k.Token("prod", "reports", []string{"credbroker"}, time.Hour, ""))})
	if err != nil || id.Tenant == uid {
		t.Errorf("%+v, %v: expected another tenant than %s", id, err, uid)
	}
	// A reviewer who may not review.
	powerless := clusterIssuer(k)
	powerless.Keys.BearerFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(powerless.Keys.BearerFile, []byte(k.Token("prod", "reports", nil, time.Hour, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if v, err = jwtproof.New([]jwtproof.Issuer{powerless}, jwtproof.Options{}); err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	_, err = v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(k.Token("prod", "reports", []string{"credbroker"}, time.Hour, ""))})
	mustBeUnavailable(t, err, "status 403")
	if s := v.Status(); len(s) != 1 || !strings.Contains(s[0], "403") {
		t.Error(s)
	}
}

func mustBeUnavailable(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), attest.ErrUnavailable.Error()) || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, expected unavailable with %q", err, want)
	}
}

// reviewServer is an API server that says what a test has it say.
type reviewServer struct {
	*httptest.Server
	mu     sync.Mutex
	answer string // the status of the review
	status int
	asked  int
	about  []string      // the audiences that the last question named
	hold   chan struct{} // closed, if answers needn't wait
}

func (s *reviewServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.asked++
	answer, status, hold := s.answer, s.status, s.hold
	s.mu.Unlock()
	<-hold
	var question struct {
		APIVersion, Kind string
		Spec             struct {
			Token     string
			Audiences []string
		}
	}
	if err := json.Unmarshal(body, &question); err != nil || r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" ||
		question.Kind != "TokenReview" || question.Spec.Token == "" || len(question.Spec.Audiences) != 1 || r.Header.Get("Authorization") != "Bearer reviewer" {
		http.Error(w, "no such thing", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.about = question.Spec.Audiences
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Location", "/elsewhere")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer)
}

// startReviews returns a fixture whose tokens are reviewed by a server that a test controls.
func startReviews(t *testing.T) (*fixture, platform, *reviewServer) {
	t.Helper()
	s := &reviewServer{status: http.StatusCreated, hold: make(chan struct{})}
	close(s.hold)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("reviewer\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := platforms()["kubernetes"]
	f := p.start(t)
	f.issuer.Keys = jwtproof.KeySource{ReviewURL: s.URL + "/", BearerFile: token}
	f.verifier = f.replace(t, nil)
	t.Cleanup(f.verifier.Close)
	return f, p, s
}

const goodReview = `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":true,"audiences":["credbroker"],"user":{` +
	`"username":"system:serviceaccount:prod:reports","uid":"` + accountUID + `","groups":["g"],"extra":{` +
	`"authentication.kubernetes.io/pod-name":["reports-0"],"authentication.kubernetes.io/pod-uid":["` + podUID + `"]}}}}`

func TestEachCheckOfAReview(t *testing.T) {
	f, p, s := startReviews(t)
	s.answer = goodReview
	f.expect(t, f.sign(p.with(nil)), nil, "")
	for name, tc := range map[string]struct{ old, new, want string }{
		"not authenticated":       {`"authenticated":true`, `"authenticated":false`, "not authenticated"},
		"nothing said":            {`"authenticated":true,`, ``, "not authenticated"},
		"authenticated, an error": {`"authenticated":true`, `"authenticated":true,"error":"e"`, "not authenticated: e"},
		"another audience":        {`["credbroker"]`, `["credbroker.evil"]`, "it is for audiences"},
		"no audiences":            {`"audiences":["credbroker"],`, ``, "it is for audiences"},
		"another account":         {`prod:reports`, `prod:admin`, "username is not"},
		"a user":                  {`system:serviceaccount:prod:reports`, `alice`, "username is not"},
		"another UID":             {accountUID, podUID, "uid is not"},
		"no UID":                  {`"uid":"` + accountUID + `",`, ``, "uid is not"},
		"another pod":             {`reports-0`, `reports-1`, "the pod is not"},
		"another pod's UID":       {podUID, accountUID, "the pod is not"},
		"no pod":                  {`"authentication.kubernetes.io/pod-name":["reports-0"],`, ``, "the pod is not"},
		"two pods":                {`["reports-0"]`, `["reports-0","reports-1"]`, "the pod is not"},
	} {
		s.answer = strings.Replace(goodReview, tc.old, tc.new, 1)
		if s.answer == goodReview {
			t.Fatal(name)
		}
		t.Run(name, func(t *testing.T) {
			f.expect(t, f.sign(p.with(map[string]any{"jti": name})), attest.ErrRejected, tc.want)
		})
	}
	// A token without a pod, about which the server says that it has one.
	inner := map[string]any{"namespace": "prod", "serviceaccount": map[string]any{"name": "reports", "uid": accountUID}}
	s.answer = goodReview
	f.expect(t, f.sign(p.with(map[string]any{"kubernetes.io": inner})), attest.ErrRejected, "the pod is not")
	for name, answer := range map[string]string{
		"nothing": "", "text": "no", "another kind": `{"kind":"Status","apiVersion":"v1"}`, "another version": strings.Replace(goodReview, "k8s.io/v1", "k8s.io/v1beta1", 1),
		"a name twice": strings.Replace(goodReview, `{"auth`, `{"authenticated":true,"auth`, 1), "more after it": goodReview + "{}", "authenticated as text": strings.Replace(goodReview, "true", `"true"`, 1),
		"kind alone": strings.Replace(goodReview, `"TokenReview"`, `"Review"`, 1),
	} {
		s.answer = answer
		t.Run(name, func(t *testing.T) {
			f.expect(t, f.sign(p.with(map[string]any{"jti": name})), attest.ErrUnavailable, "the answer is")
		})
	}
	s.answer = goodReview + strings.Repeat(" ", 256<<10)
	f.expect(t, f.sign(p.with(map[string]any{"jti": "a large answer"})), attest.ErrUnavailable, "larger than")
	s.answer, s.status = goodReview, http.StatusOK
	f.expect(t, f.sign(p.with(map[string]any{"jti": "200"})), nil, "")
	// One for a token that is bound to no pod, of which the server says so, too.
	s.answer = strings.Replace(goodReview, `"authentication.kubernetes.io/pod-name":["reports-0"],"authentication.kubernetes.io/pod-uid":["`+podUID+`"]`, "", 1)
	f.expect(t, f.sign(p.with(map[string]any{"kubernetes.io": inner})), nil, "")
	s.answer = goodReview
	for _, status := range []int{302, 307, 400, 401, 403, 404, 409, 500, 503} {
		s.status = status
		f.expect(t, f.sign(p.with(map[string]any{"jti": http.StatusText(status)})), attest.ErrUnavailable, "expected 201")
	}
	if reasons := f.verifier.Status(); len(reasons) != 1 || !strings.Contains(reasons[0], "503") {
		t.Error(reasons)
	}
	s.status = http.StatusCreated
	f.expect(t, f.sign(p.with(map[string]any{"jti": "again"})), nil, "")
	if reasons := f.verifier.Status(); len(reasons) != 0 {
		t.Error(reasons)
	}
	s.Close()
	f.expect(t, f.sign(p.with(map[string]any{"jti": "away"})), attest.ErrUnavailable, "refused")
	f.issuer.Keys.CAFile = f.issuer.Keys.BearerFile
	if _, err := jwtproof.New([]jwtproof.Issuer{f.issuer}, jwtproof.Options{}); err == nil || !strings.Contains(err.Error(), "token_review.ca_file: ") {
		t.Errorf("a CA file without a certificate: %v", err)
	}
	if err := os.Remove(f.issuer.Keys.BearerFile); err != nil {
		t.Fatal(err)
	}
	f.expect(t, f.sign(p.with(map[string]any{"jti": "without a token"})), attest.ErrUnavailable, "token_review.token_file: ")
}

func TestACallerWhoLeavesAReviewHasItsOwnError(t *testing.T) {
	f, p, s := startReviews(t)
	s.hold = make(chan struct{})
	defer close(s.hold)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	token := f.sign(p.with(nil))
	go func() {
		_, err := f.verifier.Verify(ctx, attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)})
		done <- err
	}()
	brokertest.Eventually(t, 10*time.Second, "the question is there", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.asked == 0 {
			return errors.New("not asked")
		}
		return nil
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, attest.ErrUnavailable) || len(f.verifier.Status()) != 0 {
		t.Errorf("%v, %v", err, f.verifier.Status())
	}
}

// A reload that names another audience asks about that one.
func TestReviewsAreForTheConfiguredAudience(t *testing.T) {
	f, p, s := startReviews(t)
	s.answer = goodReview
	f.expect(t, f.sign(p.with(nil)), nil, "")
	f.issuer.Audiences = []string{"renamed"}
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, f.sign(p.with(nil)), attest.ErrRejected, "aud")
	s.answer = strings.Replace(goodReview, `["credbroker"]`, `["renamed"]`, 1)
	f.expect(t, f.sign(p.with(map[string]any{"aud": "renamed"})), nil, "")
	if len(s.about) != 1 || s.about[0] != "renamed" {
		t.Errorf("asked about %q", s.about)
	}
}

// What the token says of itself is checked first, so that made-up tokens cost the API server nothing.
func TestHopelessTokensAreNotReviewed(t *testing.T) {
	f, p, s := startReviews(t)
	s.answer = goodReview
	for name, changes := range map[string]map[string]any{
		"audience": {"aud": "vault"}, "expired": {"exp": f.now().Add(-time.Hour).Unix(), "iat": f.now().Add(-2 * time.Hour).Unix()}, "subject": {"sub": "alice"}, "no claims": {"kubernetes.io": nil},
	} {
		if _, err := f.verify(f.sign(p.with(changes))); err == nil || errors.Is(err, attest.ErrExpired) { // nobody vouched for it
			t.Errorf("%s: accepted", name)
		}
	}
	if s.asked != 0 {
		t.Errorf("%d reviews", s.asked)
	}
}

func TestAReviewIsBelievedForTenSeconds(t *testing.T) {
	f, p, s := startReviews(t)
	s.answer = goodReview
	token := f.sign(p.with(nil))
	f.expect(t, token, nil, "")
	f.advance(10*time.Second - 1)
	f.expect(t, token, nil, "")
	if s.asked != 1 {
		t.Errorf("%d reviews", s.asked)
	}
	f.advance(1)
	s.answer = strings.Replace(goodReview, "true", "false", 1)
	f.expect(t, token, attest.ErrRejected, "not authenticated")
	// Nor for longer than the token lives.
	s.answer = goodReview
	token = f.sign(p.with(map[string]any{"exp": f.now().Add(5 * time.Second).Unix()}))
	f.expect(t, token, nil, "")
	asked := s.asked
	f.advance(5 * time.Second)
	f.expect(t, token, nil, "") // within the skew
	if s.asked != asked+1 {
		t.Errorf("%d reviews, expected another", s.asked)
	}
}

// TestManyCallsWithOneTokenAskLittle: who waits for its turn finds what the call before it learnt.
func TestManyCallsWithOneTokenAskLittle(t *testing.T) {
	f, p, s := startReviews(t)
	s.answer = goodReview
	s.hold = make(chan struct{})
	token := f.sign(p.with(nil))
	const callers = 200
	errs := make(chan error, 600)
	for range callers {
		go func() {
			_, err := f.verify(token)
			errs <- err
		}()
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		s.mu.Lock()
		asked := s.asked
		s.mu.Unlock()
		if asked == 16 || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	// No more wait than may.
	for range 600 - callers {
		go func() {
			_, err := f.verify(token)
			errs <- err
		}()
	}
	for range 600 - 16 - 512 {
		mustBeUnavailable(t, <-errs, "512 tokens wait")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.verifier.Verify(ctx, attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)}); err == nil {
		t.Error("waited with an ended context")
	}
	close(s.hold)
	for range 16 + 512 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if s.asked != 16 {
		t.Errorf("%d reviews, expected 16", s.asked)
	}
}
