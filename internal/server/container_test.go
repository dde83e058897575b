package server

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

const containerURL = "/v1/container-credentials/reports"

func TestContainerCredentials(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	got := send(t, "GET", base+containerURL, http.Header{"Authorization": {"x.y.z"}}, "")
	const want = `{"AccessKeyId":"AKIATEST","SecretAccessKey":"s3cr3t/+key","Token":"t0k.en","Expiration":"2030-01-02T03:04:05Z"}`
	if got.status != 200 || got.body != want || got.header.Get("Content-Type") != "application/json" || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s %v", got.status, got.body, got.header)
	}
	if req, _ := b.asked(); req.Proof.Kind != attest.KindJWT || req.Proof.Data.Reveal() != "x.y.z" || req.Role != "reports" || req.Floor != 21*time.Minute || !req.Source.IsValid() {
		t.Errorf("%+v", req)
	}
	send(t, "GET", base+containerURL, nil, "")
	if req, n := b.asked(); n != 2 || !req.Proof.Data.IsZero() {
		t.Errorf("without a proof: %+v", req) // which the pipeline refuses
	}
	// A scheme is no part of a token: what comes with one is judged as it is.
	send(t, "GET", base+containerURL, http.Header{"Authorization": {"Bearer x.y.z"}}, "")
	if req, _ := b.asked(); req.Proof.Data.Reveal() != "Bearer x.y.z" {
		t.Errorf("with a scheme: %+v", req)
	}
}

func TestContainerCredentialsAreForTheAskerItself(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	for name, value := range map[string]string{
		"Forwarded": "for=10.0.0.1", "X-Forwarded-For": "10.0.0.1", "X-Forwarded-Host": "a", "x-forwarded-proto": "https", "X_Forwarded_For": "a", "X-Forwarded.Port": "1",
		"Via": "1.1 proxy", "X-Real-IP": "10.0.0.1", "X-Forwarded-Anything": "",
	} {
		header := http.Header{"Authorization": {"x.y.z"}}
		header[name] = []string{value}
		if got := send(t, "GET", base+containerURL, header, ""); got.status != 400 || !strings.Contains(got.body, `"code":"invalid_request"`) {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	address := strings.TrimPrefix(base, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET http://" + address + containerURL + " HTTP/1.1\r\nHost: " + address + "\r\nAuthorization: x.y.z\r\nConnection: close\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a whole URI as the target: %s", resp.Status)
	}
	if _, n := b.asked(); n != 0 {
		t.Errorf("%d of them reached the pipeline", n)
	}
}

func TestContainerRequestsWithoutTheDocumentedForm(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	token := http.Header{"Authorization": {"x.y.z"}}
	for name, tc := range map[string]struct {
		method, path string
		header       http.Header
		body         string
		status       int
	}{
		"a query":            {"GET", containerURL + "?role=a", token, "", 400},
		"an empty query":     {"GET", containerURL + "?", token, "", 400},
		"a body":             {"GET", containerURL, token, "a", 400},
		"two tokens":         {"GET", containerURL, http.Header{"Authorization": {"x.y.z", "x.y.z"}}, "", 400},
		"POST":               {"POST", containerURL, token, "", 405},
		"HEAD":               {"HEAD", containerURL, token, "", 405},
		"PUT for a token":    {"PUT", containerURL, token, "", 405},
		"a segment more":     {"GET", containerURL + "/a", token, "", 404},
		"a slash more":       {"GET", containerURL + "/", token, "", 404},
		"an escaped slash":   {"GET", "/v1/container-credentials/a%2fb", token, "", 404},
		"an escaped letter":  {"GET", "/v1/container-credentials/%72eports", token, "", 404},
		"dot segments":       {"GET", "/v1/container-credentials/../roles", token, "", 404},
		"no role":            {"GET", "/v1/container-credentials/", token, "", 200}, // which the policy denies, as any role that there isn't
		"what isn't a role":  {"GET", "/v1/container-credentials/..", token, "", 200},
		"the path's pattern": {"GET", "/v1/container-credentials/{role}", token, "", 200},
	} {
		if got := send(t, tc.method, base+tc.path, tc.header, tc.body); got.status != tc.status {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}
