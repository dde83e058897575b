package bench

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// sdkSurfaces is what a caller costs whose credentials are in memory, in the protocols that SDKs speak: against net/http with a handler that
// writes the same bytes, and against the same call at MinIO's own STS.
func sdkSurfaces(s *stage) []row {
	b := s.broker()
	token := s.token("cached")
	addr := strings.TrimPrefix(b.http, "http://")
	sts := stsRequest(addr, "/sts", url.Values{"RoleArn": {"arn:aws:iam::000000000000:role/bench"}, "RoleSessionName": {"bench"}, "WebIdentityToken": {token}})
	container := fmt.Appendf(nil, "GET /v1/container-credentials/bench HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n\r\n", addr, token)
	var rows []row
	for _, surface := range []struct {
		name    string
		request []byte
		body    string // as it comes once
		want    string
	}{
		{"STS query", sts, s.body(http.MethodPost, b.http+"/sts", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, string(sts[strings.Index(string(sts), "\r\n\r\n")+4:])), "</AccessKeyId>"},
		{"container", container, s.body(http.MethodGet, b.http+"/v1/container-credentials/bench", http.Header{"Authorization": {token}}, ""), `"AccessKeyId"`},
	} {
		dir, _ := s.answers(b, token)
		s.write(filepath.Join(dir, answerJSON), []byte(surface.body))
		peer := startPeer(s.t, dir)
		r := s.versus(
			load{call: httpLoad(s.t, addr, inFlight, surface.request, []byte(surface.want)), pid: b.pid()},
			load{call: httpLoad(s.t, peer.http, inFlight, surface.request, []byte(surface.want)), pid: peer.pid})
		s.profile(b, strings.ReplaceAll(surface.name, " ", "-"), httpLoad(s.t, addr, inFlight, surface.request, []byte(surface.want)))
		rows = append(rows, r.row("cached issue, "+surface.name+" / net/http handler", atLeast(0.40, 0.55)))
	}
	direct := s.startMinIO(s.idp.URL)
	forMinIO := s.idp.Token(map[string]any{"sub": "cached", "aud": brokertest.ClientID, "policy": "everything", "exp": time.Now().Add(time.Hour).Unix()})
	minio := strings.TrimPrefix(direct.Endpoint, "http://")
	r := s.versus(
		load{call: httpLoad(s.t, addr, inFlight, sts, []byte("</AccessKeyId>")), pid: b.pid()},
		load{call: httpLoad(s.t, minio, inFlight, stsRequest(minio, "/", url.Values{"WebIdentityToken": {forMinIO}}), []byte("</AccessKeyId>")), pid: direct.PID()})
	return append(rows, r.row("cached issue, STS query / MinIO's AssumeRoleWithWebIdentity", atLeast(40, 80)))
}

// stsRequest is AssumeRoleWithWebIdentity as it is on the wire.
func stsRequest(addr, path string, parameters url.Values) []byte {
	parameters.Set("Action", "AssumeRoleWithWebIdentity")
	parameters.Set("Version", "2011-06-15")
	body := parameters.Encode()
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", path, addr, len(body), body)
}

// body is that of one answer, which has to be 200.
func (s *stage) body(method, target string, header http.Header, text string) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, target, strings.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s %s: %s, %v: %s", method, target, resp.Status, err, data)
	}
	return string(data)
}
