package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"time"
)

const (
	containerGuide = "AWS SDKs and Tools Reference Guide, container credentials"
	forgery        = "server-side request forgery"
)

// handed judges by the members of a successful answer, whose names are matched as JavaScript and Python do: exactly.
func handed(judge func(map[string]string) string) func(*Target, *answer) string {
	return func(_ *Target, a *answer) string {
		var got map[string]string
		if err := json.Unmarshal(a.body, &got); a.status != http.StatusOK || err != nil {
			return a.String() + ", and no JSON object of strings"
		}
		for _, name := range []string{"AccessKeyId", "SecretAccessKey", "Token", "Expiration"} {
			if got[name] == "" {
				return "no " + name
			}
		}
		return judge(got)
	}
}

// jsonShape wants an error as SDKs show it.
func jsonShape(members ...string) func(*Target, *answer) string {
	return func(_ *Target, a *answer) string {
		var got map[string]any
		if err := json.Unmarshal(a.body, &got); err != nil {
			return a.String() + ", and no JSON object"
		}
		for _, name := range members {
			if text, _ := got[name].(string); text == "" {
				return fmt.Sprintf("%s, and no text in %s", a, name)
			}
		}
		return ""
	}
}

func containerChecks(t *Target) []check {
	with := func(more ...string) http.Header {
		h := http.Header{"Authorization": {t.Token}, "Accept": {"application/json"}}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = append(h[more[i]], more[i+1])
		}
		return h
	}
	good, now := request{header: with()}, time.Now()
	refuses := func(what string, r request, source string) check {
		return check{"", "refused: " + what, source, r, all(refused(clientFault), jsonShape("code", "message"))}
	}
	named := func(id string, c check) check { c.id = id; return c }
	dir := path.Dir(t.Endpoint.Path)
	return []check{
		{"success", "200 with AccessKeyId, SecretAccessKey, Token, Expiration, spelt so", containerGuide, good, handed(func(map[string]string) string { return "" })},
		{"content-type", "application/json", containerGuide, good, contentType("application/json")},
		{"expiration", "Expiration in UTC and in the future, as 2006-01-02T15:04:05Z", containerGuide, good, handed(func(got map[string]string) string { return expires(got["Expiration"], now) })},
		{"life", "15 minutes or more left: SDKs ask again at each use below that", "botocore's advisory refresh", good, handed(func(got map[string]string) string { return left(got["Expiration"], now) })},
		{"no-store", "credentials with Cache-Control: no-store", "RFC 9111, 5.2.2.5", good, noStore},
		{"no-token", "401, 403 or 400 without Authorization", containerGuide, request{header: http.Header{}}, refused([]int{400, 401, 403})},
		{"bad-token", "401, 403 or 400 for another token", containerGuide, request{header: http.Header{"Authorization": {t.Token + "x"}}}, refused([]int{400, 401, 403})},
		{"error-shape", `{"code":"...","message":"..."} as application/json`, "aws-sdk-go-v2 endpointcreds", request{header: http.Header{"Authorization": {t.Token + "x"}}}, all(contentType("application/json"), jsonShape("code", "message"))},
		named("scheme", refuses("the token after a scheme, such as Bearer", request{header: http.Header{"Authorization": {"Bearer " + t.Token}}}, containerGuide)),
		named("token-twice", refuses("two Authorization headers", request{header: with("Authorization", t.Token)}, "RFC 9110, 5.3")),
		named("forwarded", refuses("Forwarded", request{header: with("Forwarded", "for=192.0.2.1")}, forgery)),
		named("x-forwarded-for", refuses("X-Forwarded-For", request{header: with("X-Forwarded-For", "192.0.2.1")}, forgery)),
		named("x-forwarded-host", refuses("x_forwarded_host", request{header: with("x_forwarded_host", "a.example")}, forgery)),
		named("via", refuses("Via", request{header: with("Via", "1.1 proxy")}, forgery)),
		named("absolute-uri", refuses("an absolute URI in the request line", request{header: with(), absolut: true}, forgery)),
		named("unknown-role", refuses("another role", request{header: with(), path: path.Join(dir, "conformance-no-such-role")}, containerGuide)),
		{"escaped-path", "refused: the role's first letter escaped", "one name for one role", request{header: with(), path: escapedRole(t.Endpoint.Path)}, refused(clientFault)},
		named("query", refuses("a query", request{header: with(), query: "role=other"}, "one place for one thing")),
		named("body", refuses("a body", request{header: with(), body: "role=other"}, "one place for one thing")),
		named("post", refuses("POST", request{header: with(), method: http.MethodPost}, containerGuide)),
	}
}

// escapedRole writes the first byte of a path's last segment as %XX.
func escapedRole(of string) string {
	dir, role := path.Split(of)
	if role == "" {
		return of + "%2f"
	}
	return fmt.Sprintf("%s%%%02x%s", dir, role[0], role[1:])
}
