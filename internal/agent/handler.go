package agent

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/credbroker/credbroker"
)

// Paths. That of credentials is the broker's own.
const (
	rolesPath  = "/v1/container-credentials/"
	healthPath = "/healthz"
)

// Handler answers on one listener. Hosts are the values that a request's Host may have; nil for all, which only a Unix socket may have: a
// browser can be led to an address by a name of someone else's (DNS rebinding), and not to a file. Auth is nil if nothing is asked of
// callers.
func (a *Agent) Handler(hosts []string, auth *Authorization) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if f := a.answer(w, r, hosts, auth); f != nil {
			f.write(w)
		}
	})
}

// fault is an error as AWS's containers tell it.
type fault struct {
	status     int
	Code       string        `json:"code"`
	Message    string        `json:"message"`
	retryAfter time.Duration // zero for none
}

func (f *fault) write(w http.ResponseWriter) {
	if f.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.retryAfter.Seconds()))))
	}
	writeJSON(w, f.status, f)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, _ := json.Marshal(body) // strings alone
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

func (a *Agent) answer(w http.ResponseWriter, r *http.Request, hosts []string, auth *Authorization) *fault {
	if !ours(r.Host, hosts) {
		return &fault{status: http.StatusForbidden, Code: "wrong_host", Message: "the Host header is none of the agent's own addresses"}
	}
	if forwarded(r) {
		return &fault{status: http.StatusForbidden, Code: "forwarded", Message: "the request came through a proxy, or names an absolute URI; ask the agent itself"}
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		return &fault{status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: "only GET is answered"}
	}
	if r.ContentLength != 0 || r.URL.RawQuery != "" || r.URL.ForceQuery {
		return &fault{status: http.StatusBadRequest, Code: "invalid_request", Message: "a body or a query where none belongs"}
	}
	if r.RequestURI == healthPath {
		if !a.healthy(time.Now()) {
			return &fault{status: http.StatusServiceUnavailable, Code: "not_ready", Message: "a role has no valid credentials; the agent's log says why"}
		}
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	}
	if auth != nil && !auth.Accepts(r.Header["Authorization"]) {
		return &fault{status: http.StatusUnauthorized, Code: "unauthenticated", Message: "the Authorization header isn't what the agent's authorization file holds"}
	}
	name, ok := strings.CutPrefix(r.RequestURI, rolesPath) // as it was sent: nothing is decoded
	if !ok || a.roles[name] == nil {
		return &fault{status: http.StatusNotFound, Code: "not_found", Message: "not a path of the agent's; expected " + rolesPath + "<role> with one of its roles"}
	}
	got, err := a.source(r.Context(), name)
	if err != nil {
		return faultOf(err)
	}
	writeJSON(w, http.StatusOK, struct {
		AccessKeyID                        string `json:"AccessKeyId"`
		SecretAccessKey, Token, Expiration string
	}{
		got.AccessKeyID, got.SecretAccessKey.Reveal(), got.SessionToken.Reveal(), got.Expires.UTC().Format(time.RFC3339),
	})
	return nil
}

func ours(host string, hosts []string) bool {
	if hosts == nil {
		return true
	}
	for _, h := range hosts {
		if strings.EqualFold(host, h) {
			return true
		}
	}
	return false
}

// forwarded says whether a request came through a proxy, as far as it tells. Whoever can make a server fetch a URL would otherwise get
// what that server's machine gets.
func forwarded(r *http.Request) bool {
	if !strings.HasPrefix(r.RequestURI, "/") { // absolute-form (RFC 9112, section 3.2.2)
		return true
	}
	for name := range r.Header {
		switch name = strings.ReplaceAll(strings.ToLower(name), "_", "-"); {
		case name == "forwarded", name == "via", name == "x-real-ip", strings.HasPrefix(name, "x-forwarded"):
			return true
		}
	}
	return false
}

// faultOf is what a client hears when there are no credentials. SDKs try again after 429 and 5xx alone, so what the broker means for good
// is a 4xx.
func faultOf(err error) *fault {
	if refusal, ok := errors.AsType[*credbroker.Error](err); ok {
		f := &fault{status: http.StatusBadRequest, Code: string(refusal.Code), Message: refusal.Message + " (request " + refusal.RequestID + ")"}
		switch {
		case refusal.Retryable:
			f.status, f.retryAfter = http.StatusServiceUnavailable, refusal.RetryAfter
		case refusal.Code == credbroker.CodeUnauthenticated, refusal.Code == credbroker.CodeProofExpired, refusal.Code == credbroker.CodeProofAlreadyUsed:
			f.status = http.StatusUnauthorized
		case refusal.Code == credbroker.CodePermissionDenied:
			f.status = http.StatusForbidden
		}
		return f
	}
	if errors.Is(err, credbroker.ErrUnreachable) {
		return &fault{status: http.StatusServiceUnavailable, Code: "broker_unreachable", Message: "the broker can't be reached; the agent's log says more"}
	}
	return &fault{status: http.StatusInternalServerError, Code: "agent_error", Message: "the agent can't ask the broker; its log says why"}
}
