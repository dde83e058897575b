package jwtproof

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

const (
	reviewTimeout = 3 * time.Second
	// reviewLife is how long the API server's word on a token is believed. The API server itself keeps its own for as long.
	reviewLife = 10 * time.Second
	// maxReviews bounds the questions to one API server at one time.
	maxReviews = 16
)

// reviewer asks an API server of Kubernetes about tokens.
type reviewer struct {
	name      string // of the issuer
	url       string
	tokenFile string
	client    *http.Client
	log       *slog.Logger

	slots   chan struct{}
	waiting atomic.Int32
	fault   atomic.Pointer[string] // why the last question had no answer; nil if it had one
}

func newReviewer(c *Issuer, roots []byte, log *slog.Logger) (*reviewer, error) {
	start, err := parseURL(c.Keys.ReviewURL, c.Keys.AllowPlaintext)
	if err != nil {
		return nil, fmt.Errorf("token_review.url: %w", err)
	}
	config, err := clientTLS(c.Keys.CAFile, roots)
	if err != nil {
		return nil, fmt.Errorf("token_review.%w", err)
	}
	return &reviewer{
		name: c.Name, tokenFile: c.Keys.BearerFile, log: log, slots: make(chan struct{}, maxReviews),
		url: strings.TrimSuffix(start.String(), "/") + "/apis/authentication.k8s.io/v1/tokenreviews",
		client: &http.Client{
			Timeout:       reviewTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{ // no proxy: what is sent is a token
				TLSClientConfig: config, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
				MaxIdleConnsPerHost: maxReviews, IdleConnTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
			},
		},
	}, nil
}

// reviewed verifies a token by asking the API server, once all that can be checked without it holds: a token that was made up
// costs no question unless it is a good imitation.
func (v *Verifier) reviewed(ctx context.Context, is *issuer, token string, t jws, name digestOf) (attest.Identity, error) {
	c, id, err := v.read(is, t)
	if errors.Is(err, attest.ErrExpired) { // nobody has vouched for it: the one who made it up isn't told how far it got
		return attest.Identity{}, fmt.Errorf("%w: %s", attest.ErrRejected, err.Error())
	}
	if err != nil {
		return attest.Identity{}, err
	}
	done, err := is.review.enter(ctx)
	if err != nil {
		return attest.Identity{}, err
	}
	defer done()
	if id, ok := v.recall(name); ok { // another call with this token was first
		return id, nil
	}
	asked := v.now()
	status, err := is.review.ask(ctx, token, is.config.Audiences)
	if err != nil {
		return attest.Identity{}, err
	}
	account, err := kubernetesClaims(&c)
	if err == nil {
		err = status.check(&account, is.config.Audiences)
	}
	if err != nil {
		return attest.Identity{}, fmt.Errorf("%w: TokenReview: %w", attest.ErrRejected, err)
	}
	until := asked.Add(reviewLife)
	if c.expires.Before(until) {
		until = c.expires
	}
	return v.accept(ctx, is, &c, id, name, keyIdentity{}, until)
}

// enter waits for its turn to ask.
func (r *reviewer) enter(ctx context.Context) (done func(), err error) {
	defer r.waiting.Add(-1)
	if r.waiting.Add(1) > maxWaiting {
		return nil, fmt.Errorf("%w: issuer %s: %d tokens wait for the API server already", attest.ErrUnavailable, r.name, maxWaiting)
	}
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reviewStatus is a TokenReviewStatus (https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1).
type reviewStatus struct {
	Authenticated bool     `json:"authenticated"`
	Audiences     []string `json:"audiences"`
	Error         string   `json:"error"`
	User          struct {
		Username string              `json:"username"`
		UID      string              `json:"uid"`
		Extra    map[string][]string `json:"extra"`
	} `json:"user"`
}

// ask asks the API server whether a token is good for one of the audiences. The error is attest.ErrUnavailable or the context's.
func (r *reviewer) ask(ctx context.Context, token string, audiences []string) (reviewStatus, error) {
	status, err := r.post(ctx, token, audiences)
	if err == nil {
		r.fault.Store(nil)
		return status, nil
	}
	if ctx.Err() != nil {
		return reviewStatus{}, ctx.Err()
	}
	text := excerpt(err.Error(), 512)
	if was := r.fault.Swap(&text); was == nil || *was != text {
		r.log.Warn("TokenReview not answered", "issuer", r.name, "error", text)
	}
	return reviewStatus{}, fmt.Errorf("%w: issuer %s: TokenReview: %s", attest.ErrUnavailable, r.name, text)
}

func (r *reviewer) post(ctx context.Context, token string, audiences []string) (reviewStatus, error) {
	reviewerToken, err := secret.ReadFile(r.tokenFile, maxBearer) // each time: Kubernetes replaces it within the hour
	if err != nil {
		return reviewStatus{}, fmt.Errorf("token_review.token_file: %w", err)
	}
	req, questionErr := r.question(ctx, token, audiences)
	if questionErr != nil {
		return reviewStatus{}, questionErr
	}
	req.Header.Set("Authorization", "Bearer "+reviewerToken.Reveal())
	resp, err := r.client.Do(req)
	if err != nil {
		return reviewStatus{}, err
	}
	defer resp.Body.Close() //nolint:errcheck // read-only
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return reviewStatus{}, fmt.Errorf("POST %s: status %d, expected 201; may the token of token_review.token_file create tokenreviews?", excerpt(r.url, 128), resp.StatusCode)
	}
	body, err := readBounded(resp.Body)
	if err != nil {
		return reviewStatus{}, err
	}
	return parseReview(body)
}

// question is the request without what the broker proves itself with. The answer repeats the token, so nothing of it is ever logged.
func (r *reviewer) question(ctx context.Context, token string, audiences []string) (*http.Request, error) {
	type spec struct {
		Token     string   `json:"token"`
		Audiences []string `json:"audiences"`
	}
	body, err := json.Marshal(struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       spec   `json:"spec"`
	}{"authentication.k8s.io/v1", "TokenReview", spec{token, audiences}})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "credbroker")
	// Not sent: it tells net/http that the question may be asked again on a new connection if the server closed the old one just now.
	req.Header["Idempotency-Key"] = nil
	return req, nil
}

func parseReview(body []byte) (reviewStatus, error) {
	var answer struct {
		APIVersion string       `json:"apiVersion"`
		Kind       string       `json:"kind"`
		Status     reviewStatus `json:"status"`
	}
	if err := decodeJSON(body, &answer); err != nil {
		return reviewStatus{}, errors.New("the answer is not the JSON that a TokenReview is") // what is wrong with it may quote the token
	}
	if answer.Kind != "TokenReview" || answer.APIVersion != "authentication.k8s.io/v1" {
		return reviewStatus{}, errors.New("the answer is no TokenReview of authentication.k8s.io/v1")
	}
	return answer.Status, nil
}

// check holds what the API server says of a token against what the token says of itself.
func (s *reviewStatus) check(a *kubernetesAccount, audiences []string) error {
	switch {
	case !s.Authenticated || s.Error != "":
		return fmt.Errorf("not authenticated: %s", excerpt(s.Error, 256))
	// A server that knows nothing of audiences answers with none, and has looked at none: the token may be for anybody.
	case !slices.ContainsFunc(s.Audiences, func(a string) bool { return slices.Contains(audiences, a) }):
		return fmt.Errorf("it is for audiences %.256q, expected one of %q", s.Audiences, audiences)
	case s.User.Username != a.username():
		return errors.New("username is not the token's sub")
	case s.User.UID != a.uid:
		return errors.New("uid is not that of the token's service account")
	case !isExtra(s.User.Extra["authentication.kubernetes.io/pod-name"], a.pod), !isExtra(s.User.Extra["authentication.kubernetes.io/pod-uid"], a.podUID):
		return errors.New("the pod is not the token's")
	}
	return nil
}

// isExtra says whether a value of `extra` is the one that the token has, or absent in both.
func isExtra(values []string, want string) bool {
	if want == "" {
		return len(values) == 0
	}
	return len(values) == 1 && values[0] == want
}

// status tells why tokens can't be verified; empty if there is no reason.
func (r *reviewer) status() string {
	if fault := r.fault.Load(); fault != nil {
		return fmt.Sprintf("issuer %s: TokenReview: %s", r.name, *fault)
	}
	return ""
}
