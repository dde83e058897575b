package probe

import (
	"fmt"
	"strings"
)

// honoured is the size of session policies that the exchangers count on.
const honoured = 2048

// advise says which of the broker's exchangers that speak a store's STS are for this one.
func advise(r *Report) []Advice {
	state := map[string]Action{}
	for _, a := range r.Actions {
		state[a.Name] = a
	}
	limits := map[string]*Limits{}
	for i := range r.Limits {
		limits[r.Limits[i].Action] = &r.Limits[i]
	}
	return []Advice{
		about("minio-web-identity", state[webIdentity], limits[webIdentity], "a token that the store trusts (--token-file)",
			fmt.Sprintf("{kind: minio-web-identity, endpoint: %q, client_id: CLIENT-ID, allowed_policies: [POLICY]}", r.Endpoint)),
		about("minio-assume-role", state[assumeRole], limits[assumeRole], "a user's key (--parent-file)",
			fmt.Sprintf("{kind: minio-assume-role, endpoint: %q, parent_file: FILE}", r.Endpoint)),
		certificate(state[withCertificate]),
	}
}

func about(kind string, a Action, l *Limits, show, settings string) Advice {
	out := Advice{Kind: kind, Use: "no"}
	switch {
	case l == nil && a.State == Absent:
		out.Why = "the store doesn't have " + a.Name
	case l == nil:
		out.Use, out.Why = "unknown", "show it "+show+" to see; it said "+a.Said
	case !l.Works:
		out.Why = "no credentials came back: " + l.Said
	case len(l.Needs) > 0:
		out.Why = "the store wants " + strings.Join(l.Needs, " and ") + ", which this kind doesn't send"
	case l.Policy == Ignored:
		out.Why = "the store ignores session policies: what narrows credentials, by a role or a caller, would be lost"
	case l.Policy == Refused:
		out.Why = "the store takes no session policies: " + l.Said
	case l.PolicyBytes < honoured:
		out.Why = fmt.Sprintf("the store takes session policies of up to %d bytes, and this kind sends up to %d", l.PolicyBytes, honoured)
	case l.Policy == Taken:
		out.Use, out.Why = "unknown", "whether the store obeys session policies wasn't seen: show it a proof that may list buckets"
	default:
		out.Use, out.Why, out.Settings = "yes", "seen to work, and to obey session policies", settings
	}
	return out
}

// certificate is about what a probe without a certificate can see of certificates.
func certificate(a Action) Advice {
	out := Advice{Kind: "minio-certificate", Use: "unknown", Why: "no certificate is shown to the store here; it said " + a.Said}
	switch a.State {
	case Absent:
		out.Use, out.Why = "no", "the store doesn't have "+a.Name
	case Off:
		out.Use, out.Why = "no", "it is turned off (MINIO_IDENTITY_TLS_ENABLE=on turns MinIO's on, with TLS)"
	case Present, NeedsKey, Silent:
	}
	return out
}
