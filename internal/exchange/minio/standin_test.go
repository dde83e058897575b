package minio_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/exchange"
	minioexchange "github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/issuer"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const closedAnswer = `<?xml version="1.0" encoding="UTF-8"?>
<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type></Type><Code>InvalidParameterValue</Code><Message>signature is invalid</Message></Error><RequestId>1</RequestId></ErrorResponse>`

func answer(expiration string) string {
	return fmt.Sprintf(`<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
		`<AccessKeyId>AK</AccessKeyId><SecretAccessKey>SK</SecretAccessKey><SessionToken>ST</SessionToken><Expiration>%s</Expiration>`+
		`</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, expiration)
}

// standIn is an STS that refuses forged tokens as MinIO does, and answers everything else with exchange.
func standIn(t *testing.T, exchange http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if forged(r) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, closedAnswer)
			return
		}
		exchange(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// forged says whether the token is HS256: its header then begins with {"alg":"HS256".
func forged(r *http.Request) bool {
	return strings.HasPrefix(r.FormValue("WebIdentityToken"), "eyJhbGciOiJIUzI1NiI")
}

func standInExchanger(t *testing.T, endpoint string, timeout time.Duration) *minioexchange.WebIdentity {
	t.Helper()
	iss, err := issuer.New(issuer.Config{URL: "https://broker.example", RotateEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return newExchanger(t, iss, minioexchange.WebIdentityConfig{Server: minioexchange.Server{Endpoint: endpoint, Timeout: timeout}})
}

func in(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }

func TestAnswersThatAreNoCredentials(t *testing.T) {
	endless := func(status int, start string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, err := io.WriteString(w, start)
			for err == nil {
				_, err = io.WriteString(w, "<a/>")
			}
		}
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	redirect := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, status) }
	}
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		want   error
	}{
		"expired":            {say(200, answer(in(-time.Second))), exchange.ErrBadResult},
		"no expiry":          {say(200, answer("")), exchange.ErrBadResult},
		"year 9999":          {say(200, answer("9999-12-31T23:59:59Z")), exchange.ErrBadResult},
		"outlives the grant": {credentialsFor(63 * time.Second), exchange.ErrBadResult},
		"no access key":      {say(200, strings.Replace(answer(in(time.Minute)), "AK", "", 1)), exchange.ErrBadResult},
		"no secret key":      {say(200, strings.Replace(answer(in(time.Minute)), "SK", "", 1)), exchange.ErrBadResult},
		"no session token":   {say(200, strings.Replace(answer(in(time.Minute)), "ST", "", 1)), exchange.ErrBadResult},
		"empty":              {say(200, ""), exchange.ErrBadResult},
		"HTML":               {say(200, "<html><body>Welcome"), exchange.ErrBadResult},
		"JSON":               {say(200, `{"AccessKeyId":"AK"}`), exchange.ErrBadResult},
		"other namespace":    {say(200, strings.Replace(answer(in(time.Minute)), "sts.amazonaws.com", "evil.example", 1)), exchange.ErrBadResult},
		"endless":            {endless(200, "<AssumeRoleWithWebIdentityResponse>"), exchange.ErrBadResult},
		"endless error":      {endless(400, "<ErrorResponse>"), exchange.ErrRefused},
		"packed zeros":       {zeros, exchange.ErrBadResult},
		"a key with a space": {say(200, strings.Replace(answer("2999-01-01T00:00:00Z"), "AK", "A K", 1)), exchange.ErrBadResult},
		"redirect":           {redirect(302), exchange.ErrBadResult},
		"redirect 307":       {redirect(307), exchange.ErrBadResult},
		"refused":            {say(403, closedAnswer), exchange.ErrRefused},
		"the token, echoed":  {echo("signature is invalid"), exchange.ErrRefused},
		"the token as code":  {echo("InvalidParameterValue"), exchange.ErrRefused},
		"not found":          {say(404, "no"), exchange.ErrRefused},
		"broken":             {say(500, "no"), exchange.ErrUnavailable},
		"starting":           {say(503, closedAnswer), exchange.ErrUnavailable},
		"throttled":          {say(429, "slow down"), exchange.ErrUnavailable},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "<Assume")
		}, exchange.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			x := standInExchanger(t, standIn(t, c.answer), 15*time.Second)
			got, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
			if !errors.Is(err, c.want) || got.AccessKeyID != "" {
				t.Errorf("got %q, %v; want %v", got.AccessKeyID, err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "eyJ") || len(err.Error()) > 1000) {
				t.Errorf("the error holds a token, or too much: %v", err)
			}
		})
	}
}

func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// echo refuses with the token itself in place of a word of the error document.
func echo(word string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		say(400, strings.Replace(closedAnswer, word, "not "+r.FormValue("WebIdentityToken"), 1))(w, r)
	}
}

// credentialsFor answers with credentials that live so long from the moment they are asked for.
func credentialsFor(life time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { say(200, answer(in(life)))(w, r) }
}

// zeros is a body of some 30 KiB that says of itself to be gzip and unpacks to 32 MiB.
func zeros(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	packer := gzip.NewWriter(w)
	block := make([]byte, 1<<20)
	for range 32 {
		if _, err := packer.Write(block); err != nil {
			return
		}
	}
	_ = packer.Close()
}

func TestExpiryUpToTheGrantIsTaken(t *testing.T) {
	x := standInExchanger(t, standIn(t, credentialsFor(time.Minute)), 2*time.Second)
	c, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
	if err != nil || c.AccessKeyID != "AK" || c.SecretAccessKey.Reveal() != "SK" || c.SessionToken.Reveal() != "ST" {
		t.Errorf("got %q, %v", c.AccessKeyID, err)
	}
}

func TestWhatIsSentToMinIO(t *testing.T) {
	var seen *http.Request
	x := standInExchanger(t, standIn(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		credentialsFor(time.Minute)(w, r)
	}), 2*time.Second)
	req := request(time.Minute, `{"Version":"2012-10-17"}`, "readonly")
	req.Correlation = exchange.Correlation{RequestID: "r1", KongRequestID: "k1", TraceParent: "00-x-y-01"}
	if _, err := x.Exchange(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if seen.Method != http.MethodPost || seen.URL.RawQuery != "" || seen.FormValue("Action") != "AssumeRoleWithWebIdentity" || seen.FormValue("Policy") != req.Grant.SessionPolicy {
		t.Errorf("%s %s %v", seen.Method, seen.URL, seen.Form["Action"])
	}
	for _, never := range []string{"DurationSeconds", "RoleArn"} {
		if seen.Form.Has(never) {
			t.Errorf("%s is sent", never)
		}
	}
	for name, want := range map[string]string{"X-Request-Id": "r1", "X-Kong-Request-Id": "k1", "Traceparent": "00-x-y-01", "User-Agent": "credbroker"} {
		if got := seen.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
