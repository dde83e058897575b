// Package probe asks an S3 store's STS what it takes: which actions, which parameters, how large a session policy, and whether it obeys one. It
// knows no store by name: an action that no store has tells what "there is no such action" looks like at this one.
package probe

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/credbroker/credbroker/internal/secret"
)

// Target is the store that is asked, and what it may be shown.
type Target struct {
	// Endpoint is the store's URL; the STS is asked at its path.
	Endpoint *url.URL
	// Client makes the calls. It mustn't follow redirects.
	Client *http.Client
	// AccessKeyID and SecretAccessKey are a user's key, for AssumeRole. Without it only what needs no key is asked.
	AccessKeyID     string
	SecretAccessKey secret.Secret
	// Region is what requests are signed for.
	Region string
	// Token is a JWT that the store trusts, for AssumeRoleWithWebIdentity; none if it is empty.
	Token secret.Secret
	// RoleARN is a role to ask for if the store gives nothing without one; none if it is empty.
	RoleARN string
}

// State is what became of an action.
type State string

// The states.
const (
	// Present: the store has the action, or it answered as to nothing that it doesn't have.
	Present State = "present"
	// Off: the store has the action and can't do it now, or wasn't told how.
	Off State = "off"
	// Absent: the store answers as it does to an action that no store has.
	Absent State = "absent"
	// NeedsKey: without a key the store answers as to an action that no store has; with one it may have it.
	NeedsKey State = "needs a key"
	// Silent: there was no answer that can be read.
	Silent State = "no answer"
)

// Action is what the store made of an action.
type Action struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Said is the store's status, code and words, cut to a line.
	Said string `json:"said"`
}

// Limits are what an action takes when it is given a proof that holds.
type Limits struct {
	Action string `json:"action"`
	// Works says that credentials came back. Said is what the store said if not.
	Works bool   `json:"works"`
	Said  string `json:"said,omitempty"`
	// Needs are the parameters without which it doesn't work, and which the broker's exchangers don't send.
	Needs []string `json:"needs,omitempty"`
	// Policy is what becomes of a session policy.
	Policy Policy `json:"session_policy"`
	// PolicyBytes is the largest session policy that was taken, up to MaxPolicyBytes; 0 if none was.
	PolicyBytes int `json:"session_policy_bytes"`
	// ShortestSeconds is the shorter DurationSeconds of 60 and 900 that was taken, and LivesSeconds how long the store says that those
	// credentials live. Both are 0 where the token sets the end.
	ShortestSeconds int `json:"shortest_duration_seconds,omitempty"`
	LivesSeconds    int `json:"lives_seconds,omitempty"`
}

// Policy is what becomes of a session policy.
type Policy string

// What becomes of session policies.
const (
	// Obeyed: credentials list buckets without a policy, and can't with one that allows nothing.
	Obeyed Policy = "obeyed"
	// Ignored: they list buckets with a policy that allows nothing, or what is no policy was taken for one.
	Ignored Policy = "ignored"
	// Refused: the store gives no credentials with one.
	Refused Policy = "refused"
	// Taken: the store refuses what is no policy, and whether it obeys one couldn't be seen: the credentials can't list buckets without one either.
	Taken Policy = "taken, not seen to be obeyed"
)

// MaxPolicyBytes is the largest session policy that is tried.
const MaxPolicyBytes = 16 << 10

// Advice is whether a kind of exchanger is for this store.
type Advice struct {
	Kind string `json:"kind"`
	// Use is yes, no or unknown.
	Use string `json:"use"`
	Why string `json:"why"`
	// Settings are the exchanger's, in YAML's flow style; empty unless Use is yes.
	Settings string `json:"settings,omitempty"`
}

// Report is what a probe found.
type Report struct {
	Endpoint string   `json:"endpoint"`
	Actions  []Action `json:"actions"`
	Limits   []Limits `json:"limits,omitempty"`
	Advice   []Advice `json:"exchangers"`
}

const (
	assumeRole      = "AssumeRole"
	webIdentity     = "AssumeRoleWithWebIdentity"
	withCertificate = "AssumeRoleWithCertificate"
	noSuchAction    = "CredbrokerProbeNoSuchAction"
)

// how is the way in which an action is asked for: parameters in a form or in the query, signed or not.
type how struct{ inQuery, signed bool }

// actions are those that are asked for. MinIO takes those by query nowhere else. GetCallerIdentity is what Vault's AWS engine asks first.
var actions = []struct {
	name string
	how
}{
	{assumeRole, how{signed: true}},
	{webIdentity, how{}},
	{withCertificate, how{inQuery: true}},
	{"AssumeRoleWithCustomToken", how{inQuery: true}},
	{"AssumeRoleWithLDAPIdentity", how{}},
	{"AssumeRoleWithClientGrants", how{}},
	{"GetCallerIdentity", how{signed: true}},
}

// Run asks the store some 14 questions, and some 20 more for each proof if it is shown a key or a token that holds. Credentials that it makes end after 15 minutes, or
// with the token; all but one for each proof have a session policy that allows nothing. They are forgotten when Run returns.
func Run(ctx context.Context, t *Target) *Report {
	r := &Report{Endpoint: t.Endpoint.String()}
	for _, a := range actions {
		r.Actions = append(r.Actions, t.look(ctx, a.name, a.how))
	}
	if t.AccessKeyID != "" {
		r.Limits = append(r.Limits, t.limits(ctx, assumeRole))
	}
	if !t.Token.IsZero() {
		r.Limits = append(r.Limits, t.limits(ctx, webIdentity))
	}
	r.Advice = advise(r)
	return r
}

// look asks for an action with nothing that could hold, and compares the answer with that to an action that there isn't.
func (t *Target) look(ctx context.Context, name string, how how) Action {
	junk := url.Values{"Policy": {notAPolicy}, "WebIdentityToken": {"x"}, "Token": {"x"}, "LDAPUsername": {"x"}, "LDAPPassword": {"x"}}
	got, control := t.ask(ctx, name, junk, how), t.ask(ctx, noSuchAction, junk, how)
	a := Action{Name: name, State: Present, Said: got.said()}
	switch {
	case got.err != nil || control.err != nil:
		a.State = Silent
	case got.like(control) && how.signed && t.AccessKeyID == "":
		a.State = NeedsKey
	case got.like(control):
		a.State = Absent
	case got.status >= http.StatusInternalServerError:
		a.State = Off
	}
	return a
}

// notAPolicy is what no store that reads session policies takes for one.
const notAPolicy = `{"no policy`

// limits finds what an action takes from whoever may use it.
func (t *Target) limits(ctx context.Context, action string) Limits {
	l := Limits{Action: action}
	base := url.Values{}
	if action == webIdentity {
		base.Set("WebIdentityToken", t.Token.Reveal())
	} else {
		base.Set("DurationSeconds", "900")
	}
	bare, needs := t.bare(ctx, action, base)
	if !bare.ok() {
		l.Said, l.Policy = bare.said(), Refused
		return l
	}
	l.Works, l.Needs = true, needs
	t.policies(ctx, action, base, bare, &l)
	if action == assumeRole {
		t.durations(ctx, base, &l)
	}
	return l
}

// bare asks as the broker's exchangers do, and then with more and more of what stores want besides. It leaves in base what worked.
func (t *Target) bare(ctx context.Context, action string, base url.Values) (answer, []string) {
	got := t.ask(ctx, action, base, how{signed: action == assumeRole})
	if got.ok() || got.err != nil {
		return got, nil
	}
	base.Set("RoleSessionName", "credbroker-probe")
	if again := t.ask(ctx, action, base, how{signed: action == assumeRole}); again.ok() || t.RoleARN == "" {
		if !again.ok() {
			return got, nil
		}
		return again, []string{"RoleSessionName"}
	}
	base.Set("RoleArn", t.RoleARN)
	return t.ask(ctx, action, base, how{signed: action == assumeRole}), []string{"RoleArn", "RoleSessionName"}
}

// policies finds what becomes of session policies, by credentials that could do something without.
func (t *Target) policies(ctx context.Context, action string, base url.Values, bare answer, l *Limits) {
	with := func(policy string) answer {
		form := copied(base)
		form.Set("Policy", policy)
		return t.ask(ctx, action, form, how{signed: action == assumeRole})
	}
	small := with(denyAll(0))
	switch {
	case !small.ok():
		l.Policy, l.Said = Refused, small.said()
		return
	case with(notAPolicy).ok():
		l.Policy = Ignored
		return
	}
	switch could, can := t.listsBuckets(ctx, bare), t.listsBuckets(ctx, small); {
	case can:
		l.Policy = Ignored
		return
	case could:
		l.Policy = Obeyed
	default:
		l.Policy = Taken
	}
	low, high := len(denyAll(0)), MaxPolicyBytes+1
	if with(denyAll(MaxPolicyBytes)).ok() {
		low = MaxPolicyBytes
	}
	for low+1 < high {
		middle := (low + high) / 2
		if with(denyAll(middle)).ok() {
			low = middle
		} else {
			high = middle
		}
	}
	l.PolicyBytes = low
}

// durations finds how short credentials may live.
func (t *Target) durations(ctx context.Context, base url.Values, l *Limits) {
	for _, d := range []int{60, 900} {
		form := copied(base)
		form.Set("DurationSeconds", strconv.Itoa(d))
		if l.Policy != Refused {
			form.Set("Policy", denyAll(0))
		}
		asked := time.Now()
		if got := t.ask(ctx, assumeRole, form, how{signed: true}); got.ok() {
			l.ShortestSeconds = d
			if !got.expires.IsZero() {
				l.LivesSeconds = int(got.expires.Sub(asked).Round(time.Minute) / time.Second)
			}
			return
		}
	}
}
