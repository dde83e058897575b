package conformance

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

const canary = "canary-token-of-the-caller"

// answers are what an endpoint says that takes everything: perfect credentials, whatever it is asked.
func answers(s Surface) (contentType, body string) {
	end := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	switch s {
	case STS:
		return "text/xml", `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>` +
			`<AccessKeyId>A</AccessKeyId><SecretAccessKey>canary</SecretAccessKey><SessionToken>canary</SessionToken><Expiration>` + end + `</Expiration></Credentials>` +
			`<AssumedRoleUser><Arn>a</Arn><AssumedRoleId>x:conformance</AssumedRoleId></AssumedRoleUser></AssumeRoleWithWebIdentityResult>` +
			`<ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>`
	case Container:
		return "application/json", `{"AccessKeyId":"A","SecretAccessKey":"canary","Token":"canary","Expiration":"` + end + `"}`
	default:
		return "application/json", `{"access_token":"canary","issued_token_type":"t","token_type":"N_A","expires_in":3600}`
	}
}

func target(t *testing.T, s Surface, h http.HandlerFunc) *Target {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL + "/v1/x/reports")
	if err != nil {
		t.Fatal(err)
	}
	return &Target{Endpoint: at, Surface: s, Token: canary, Role: "reports", Client: server.Client()}
}

func outcome(t *testing.T, target *Target) (passed, failed []string) {
	t.Helper()
	for _, r := range Run(t.Context(), target) {
		if strings.Contains(fmt.Sprint(r), "canary") {
			t.Errorf("%s prints a secret: %+v", r.ID, r)
		}
		if r.Expected == "" || r.Source == "" || r.Saw == "" {
			t.Errorf("%+v says too little", r)
		}
		if r.OK {
			passed = append(passed, strings.TrimPrefix(r.ID, string(target.Surface)+"."))
		} else {
			failed = append(failed, r.ID)
		}
	}
	return passed, failed
}

// An endpoint that gives credentials to everybody passes what is about credentials, and nothing else.
func TestAnEndpointThatTakesEverything(t *testing.T) {
	for s, want := range map[Surface][]string{
		STS:       {"success", "content-type", "namespace", "expiration", "life", "assumed-role-user", "request-id", "no-store", "charset"},
		Container: {"success", "content-type", "expiration", "life", "no-store"},
		OAuth:     {"success", "content-type", "no-store"},
	} {
		kind, body := answers(s)
		passed, _ := outcome(t, target(t, s, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "private, No-Store")
			fmt.Fprint(w, body)
		}))
		if !slices.Equal(passed, want) {
			t.Errorf("%s: %q passed", s, passed)
		}
	}
}

// One that refuses everything without a word passes only what asks for a status alone.
func TestAnEndpointThatRefusesEverything(t *testing.T) {
	for s, want := range map[Surface][]string{
		STS:       {"large-policy", "long-role-arn", "twice", "query-and-body", "query", "get", "json", "put"},
		Container: {"no-token", "bad-token", "escaped-path"},
		OAuth:     {"query-and-body", "query", "get", "json", "oversize"},
	} {
		passed, _ := outcome(t, target(t, s, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }))
		if !slices.Equal(passed, want) {
			t.Errorf("%s: %q passed", s, passed)
		}
	}
}

// One that is away, repeats what it is told, sends JSON where XML belongs, or wraps credentials in something else, passes nothing.
func TestEndpointsThatAreNone(t *testing.T) {
	sts, body := answers(STS)
	for name, h := range map[string]http.HandlerFunc{
		"away": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"parrot": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, canary)
		},
		"5xx": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"trailer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", sts+"x")
			fmt.Fprint(w, body+"<more/>")
		},
	} {
		for _, s := range Surfaces {
			if passed, failed := outcome(t, target(t, s, h)); len(passed) > 0 || len(failed) < 15 {
				t.Errorf("%s as %s: %q passed", name, s, passed)
			}
		}
	}
}

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]bool{
		"2026-01-02T04:04:05Z": true, "2026-01-02T04:04:05.5Z": true, "2026-01-02T03:04:05Z": false, "2026-01-02T04:04:05": false,
		"2026-01-02T05:04:05+01:00": false, "Fri, 02 Jan 2026 04:04:05 GMT": false, "": false, "1767326645": false,
	} {
		if got := expires(text, now) == ""; got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if left("2026-01-02T03:19:05Z", now) != "" || left("2026-01-02T03:19:04Z", now) == "" {
		t.Error("15 minutes are told wrongly")
	}
}
