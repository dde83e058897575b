package probe

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
)

const everything = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::*"]}]}`

func target(t *testing.T, endpoint string) *Target {
	t.Helper()
	at, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return &Target{Endpoint: at, Client: client, Region: "us-east-1"}
}

func withKey(t *Target) *Target {
	t.AccessKeyID, t.SecretAccessKey = "parent", secret.New("parents-secret-key")
	return t
}

func states(r *Report) map[string]State {
	out := map[string]State{}
	for _, a := range r.Actions {
		out[a.Name] = a.State
	}
	return out
}

func uses(r *Report) string {
	var out []string
	for _, a := range r.Advice {
		out = append(out, a.Use)
	}
	return strings.Join(out, " ")
}

func expectStates(t *testing.T, r *Report, want map[string]State) {
	t.Helper()
	got := states(r)
	for name, state := range want {
		if got[name] != state {
			t.Errorf("%s: %s, expected %s (%+v)", name, got[name], state, r.Actions)
		}
	}
}

func TestMinIO(t *testing.T) {
	idp := brokertest.NewIDP(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: idp.URL})
	server.MakeBucket("reports")
	server.PutPolicy("everything", everything)
	server.AddUser("parent", "parents-secret-key", "everything")

	r := Run(t.Context(), target(t, server.Endpoint))
	expectStates(t, r, map[string]State{
		assumeRole: NeedsKey, webIdentity: Present, withCertificate: Off, "AssumeRoleWithCustomToken": Off, "AssumeRoleWithLDAPIdentity": Present, "GetCallerIdentity": NeedsKey,
	})
	if uses(r) != "unknown unknown no" || len(r.Limits) != 0 {
		t.Errorf("without a proof: %+v", r)
	}

	shown := withKey(target(t, server.Endpoint))
	token := idp.Token(map[string]any{"aud": brokertest.ClientID, "policy": "everything", "exp": time.Now().Add(time.Hour).Unix()})
	shown.Token = secret.New(token)
	r = Run(t.Context(), shown)
	expectStates(t, r, map[string]State{assumeRole: Present, webIdentity: Present, "GetCallerIdentity": Absent})
	want := []Limits{
		{Action: assumeRole, Works: true, Policy: Obeyed, PolicyBytes: 2048, ShortestSeconds: 900, LivesSeconds: 900},
		{Action: webIdentity, Works: true, Policy: Obeyed, PolicyBytes: 2048},
	}
	if !slices.EqualFunc(r.Limits, want, func(a, b Limits) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
		t.Errorf("limits %+v", r.Limits)
	}
	if uses(r) != "yes yes no" {
		t.Errorf("advice %+v", r.Advice)
	}
	printed, err := json.Marshal(r)
	if err != nil || strings.Contains(string(printed), token) || strings.Contains(string(printed), "parents-secret-key") {
		t.Errorf("%v: %s", err, printed)
	}

	shown.SecretAccessKey, shown.Token = secret.New("another-secret-key"), secret.New("x.y.z")
	if r = Run(t.Context(), shown); uses(r) != "no no no" || r.Limits[0].Works || r.Limits[1].Works {
		t.Errorf("with proofs that don't hold: %+v", r)
	}
}

// store is a stand-in for a store's STS that answers as the store's documentation or source says. It checks that calls are what they should be, not
// signatures.
type store struct {
	t *testing.T
	// unknown is the answer to an action that there isn't.
	unknown func(action string) (int, string, string)
	// needs are the parameters that AssumeRole wants.
	needs []string
	// maxPolicy bounds session policies; 0 is no bound. ignores has the store take anything for one and obey none.
	maxPolicy int
	ignores   bool
	// shortest is the least DurationSeconds; clamps has it taken for less.
	shortest int
	clamps   bool
	oidc     func() (int, string, string)
	disobeys bool // takes policies alone for policies, and obeys none
	limited  bool // the parent may not list buckets
	caller   bool // GetCallerIdentity is there
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		token := r.Header.Get("X-Amz-Security-Token")
		if r.URL.Path != "/" || token == "" || token == "denied" && !s.ignores && !s.disobeys || s.limited {
			say(w, 403, "AccessDenied", "no")
		}
		return
	}
	if err := r.ParseForm(); err != nil || r.Form.Get("Version") != "2011-06-15" {
		s.t.Errorf("%v: %v", err, r.Form)
	}
	action, policy := r.Form.Get("Action"), r.PostForm.Get("Policy")
	signed := strings.Contains(r.Header.Get("Authorization"), "/us-east-1/sts/aws4_request")
	switch {
	case action == webIdentity && s.oidc != nil:
		status, code, message := s.oidc()
		say(w, status, code, message)
	case action == "GetCallerIdentity" && s.caller && !signed, action == assumeRole && !signed:
		say(w, 403, "AccessDenied", "invalid AWS signature")
	case action == "GetCallerIdentity" && s.caller:
	case action == assumeRole:
		s.assume(w, r, policy)
	default:
		status, code, message := s.unknown(action)
		say(w, status, code, message)
	}
}

func (s *store) assume(w http.ResponseWriter, r *http.Request, policy string) {
	for _, name := range s.needs {
		if r.PostForm.Get(name) == "" {
			say(w, 400, "MissingParameter", name+" is required")
			return
		}
	}
	seconds, _ := strconv.Atoi(r.PostForm.Get("DurationSeconds"))
	switch {
	case !s.ignores && policy != "" && !json.Valid([]byte(policy)):
		say(w, 400, "MalformedPolicyDocument", "not a policy")
		return
	case s.maxPolicy > 0 && len(policy) > s.maxPolicy:
		say(w, 400, "InvalidRequest", "policy too large")
		return
	case seconds < s.shortest && !s.clamps:
		say(w, 400, "InvalidParameterValue", "too short")
		return
	}
	token := "session"
	if policy != "" {
		token = "denied"
	}
	fmt.Fprintf(w, `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>S</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`,
		token, time.Now().Add(time.Duration(max(seconds, s.shortest))*time.Second).UTC().Format(time.RFC3339))
}

func say(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<ErrorResponse><Error><Code>%s</Code><Message>", code)
	_ = xml.EscapeText(w, []byte(message))
	fmt.Fprint(w, "</Message></Error></ErrorResponse>")
}

func TestOtherStores(t *testing.T) {
	const arn = "arn:aws:iam:::role/probe"
	unsupported := func(code, message string) func(string) (int, string, string) {
		return func(action string) (int, string, string) {
			return 400, code, strings.ReplaceAll(message, "ACTION", action)
		}
	}
	for name, c := range map[string]struct {
		store  store
		role   string
		want   Limits
		states map[string]State
		use    string
	}{
		// Ceph's documentation of STS: RoleArn and RoleSessionName are required, policies have up to 2048 characters, durations at least 900 s.
		"Ceph RGW": {
			store{unknown: func(string) (int, string, string) { return 405, "MethodNotAllowed", "" }, needs: []string{"RoleArn", "RoleSessionName"}, maxPolicy: 2048, shortest: 900,
				oidc: func() (int, string, string) { return 403, "AccessDenied", "" }},
			arn,
			Limits{Works: true, Needs: []string{"RoleArn", "RoleSessionName"}, Policy: Obeyed, PolicyBytes: 2048, ShortestSeconds: 900, LivesSeconds: 900},
			map[string]State{assumeRole: Present, webIdentity: Present, withCertificate: Absent, "GetCallerIdentity": Absent},
			"unknown no no",
		},
		"Ceph RGW, no role given": {
			store{unknown: func(string) (int, string, string) { return 405, "MethodNotAllowed", "" }, needs: []string{"RoleArn", "RoleSessionName"}, maxPolicy: 2048, shortest: 900},
			"",
			Limits{Said: "400 MissingParameter: RoleArn is required", Policy: Refused},
			map[string]State{assumeRole: Present, webIdentity: Absent},
			"no no no",
		},
		// SeaweedFS's s3api_sts.go: RoleSessionName is required, RoleArn isn't; policies are parsed and have no bound there.
		"SeaweedFS": {
			store{unknown: unsupported("InvalidAction", "unsupported action: ACTION"), needs: []string{"RoleSessionName"}, shortest: 900, caller: true,
				oidc: func() (int, string, string) { return 503, "ServiceUnavailable", "STS service not initialized" }},
			"",
			Limits{Works: true, Needs: []string{"RoleSessionName"}, Policy: Obeyed, PolicyBytes: MaxPolicyBytes, ShortestSeconds: 900, LivesSeconds: 900},
			map[string]State{assumeRole: Present, webIdentity: Off, withCertificate: Absent, "GetCallerIdentity": Present},
			"unknown no no",
		},
		// RustFS's admin/handlers/sts.rs: shorter durations than 900 s are taken for 900 s.
		"RustFS": {
			store{unknown: unsupported("InvalidArgument", "unsupported Action"), maxPolicy: 2048, shortest: 900, clamps: true,
				oidc: func() (int, string, string) { return 500, "InternalError", "OIDC not initialized" }},
			"",
			Limits{Works: true, Policy: Obeyed, PolicyBytes: 2048, ShortestSeconds: 60, LivesSeconds: 900},
			map[string]State{assumeRole: Present, webIdentity: Off, withCertificate: Absent, "GetCallerIdentity": Absent},
			"unknown yes no",
		},
		"one that ignores policies": {
			store{unknown: unsupported("InvalidAction", ""), ignores: true, limited: true}, "",
			Limits{Works: true, Policy: Ignored, ShortestSeconds: 60, LivesSeconds: 60},
			map[string]State{assumeRole: Present}, "no no no",
		},
		"one that disobeys policies": {
			store{unknown: unsupported("InvalidAction", ""), disobeys: true}, "",
			Limits{Works: true, Policy: Ignored, ShortestSeconds: 60, LivesSeconds: 60},
			map[string]State{assumeRole: Present}, "no no no",
		},
		"one whose policies are small": {
			store{unknown: unsupported("InvalidAction", ""), maxPolicy: 2047}, "",
			Limits{Works: true, Policy: Obeyed, PolicyBytes: 2047, ShortestSeconds: 60, LivesSeconds: 60},
			map[string]State{assumeRole: Present}, "no no no",
		},
		"one whose parent sees nothing": {
			store{unknown: unsupported("InvalidAction", ""), maxPolicy: 2048, limited: true}, "",
			Limits{Works: true, Policy: Taken, PolicyBytes: 2048, ShortestSeconds: 60, LivesSeconds: 60},
			map[string]State{assumeRole: Present}, "no unknown no",
		},
		"one with long lives alone": {
			store{unknown: unsupported("InvalidAction", ""), shortest: 3600}, "",
			Limits{Said: "400 InvalidParameterValue: too short", Policy: Refused},
			map[string]State{assumeRole: Present}, "no no no",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.store.t = t
			server := httptest.NewServer(&c.store)
			defer server.Close()
			shown := withKey(target(t, server.URL))
			shown.RoleARN = c.role
			r := Run(t.Context(), shown)
			expectStates(t, r, c.states)
			c.want.Action = assumeRole
			if len(r.Limits) != 1 || fmt.Sprint(r.Limits[0]) != fmt.Sprint(c.want) {
				t.Errorf("limits %+v,\nexpected %+v", r.Limits, c.want)
			}
			if c.want.Policy == Ignored && !strings.Contains(r.Advice[1].Why, "ignores session policies") {
				t.Errorf("says nothing of ignored policies: %+v", r.Advice[1])
			}
			if uses(r) != c.use {
				t.Errorf("advice %+v", r.Advice)
			}
		})
	}
}

func TestWhatIsNoSTS(t *testing.T) {
	for name, body := range map[string]string{
		"no XML": "<html><p>hello", "too much": strings.Repeat(" ", maxBody+1), "JSON": `{"a":`,
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
			defer server.Close()
			r := Run(t.Context(), withKey(target(t, server.URL)))
			if r.Limits[0].Works || strings.Contains(uses(r), "yes") {
				t.Errorf("%+v", r)
			}
		})
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	r := Run(t.Context(), target(t, closed.URL))
	for name, state := range states(r) {
		if state != Silent {
			t.Errorf("%s: %s", name, state)
		}
	}
	if strings.Contains(fmt.Sprint(r.Actions), "WebIdentityToken") {
		t.Errorf("repeats the URL: %v", r.Actions)
	}
}

func TestAStoresWordsAreCutAndShowNothing(t *testing.T) {
	token := "header.claims.signature"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		say(w, 400, "Odd", "you said "+r.Form.Get("WebIdentityToken")+"\x1b\u202e"+strings.Repeat("x", 500))
	}))
	defer server.Close()
	shown := target(t, server.URL)
	shown.Token = secret.New(token)
	r := Run(t.Context(), shown)
	said := r.Limits[0].Said
	if strings.Contains(said, token) || strings.ContainsAny(said, "\x1b\u202e") || len(said) > maxSaid+3 || !strings.Contains(said, "[hidden]") {
		t.Errorf("%q", said)
	}
}

func TestDenyAllHasItsSize(t *testing.T) {
	for _, n := range []int{200, 2048, MaxPolicyBytes} {
		if p := denyAll(n); len(p) != n || !json.Valid([]byte(p)) {
			t.Errorf("%d bytes: %d", n, len(p))
		}
	}
}
