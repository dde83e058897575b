package brokertest

import (
	"crypto/elliptic"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// AWSJWKSPath is where an issuer of web identity tokens has its keys.
const AWSJWKSPath = "/.well-known/jwks.json"

// AWSTokenIssuer is the issuer of the web identity tokens of an account: each account that turns outbound federation on has one.
func AWSTokenIssuer(account string) string {
	id := hexSHA256(account)
	return "https://" + id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:32] + ".tokens.sts.global.api.aws"
}

var awsTokenKeys = sync.OnceValue(func() map[string]*jwtKey {
	return map[string]*jwtKey{"RS256": rsaKey("aws"), "ES384": newECKey("EC384_0", elliptic.P384())}
})

// WebIdentityToken signs a token that STS gives a principal: iss is the account's issuer, aud, sub the ARN of the role or user, iat now,
// exp in five minutes, jti, and AWS's own claims. An override replaces or adds a claim, or removes it if it is nil; alg is RS256
// or ES384. (https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound_token_claims.html)
func (s *AWSSTS) WebIdentityToken(p AWSPrincipal, audience, alg string, overrides map[string]any) string {
	now := time.Now().Unix()
	return awsTokenKeys()[alg].sign(nil, merge(map[string]any{
		"iss": AWSTokenIssuer(p.Account), "aud": audience, "sub": roleARN(p.ARN), "iat": now, "exp": now + 300, "jti": random(16),
		"https://sts.amazonaws.com/": map[string]any{
			"aws_account": p.Account, "source_region": "eu-west-1", "org_id": "o-abc1234567", "ou_path": "o-abc1234567/r-ab12/ou-ab12-11111111/",
			"principal_tags": map[string]string{"team": "reports"},
		},
	}, overrides))
}

// roleARN is the role of an assumed role; other ARNs are as they are.
func roleARN(arn string) string {
	parts := strings.Split(arn, "/")
	if len(parts) != 3 || !strings.HasSuffix(parts[0], ":assumed-role") {
		return arn
	}
	return strings.NewReplacer(":sts:", ":iam:", ":assumed-role", ":role").Replace(parts[0]) + "/" + parts[1]
}

func (s *AWSSTS) keySet(w http.ResponseWriter) {
	var keys []any
	for alg, k := range awsTokenKeys() {
		keys = append(keys, k.jwk(map[string]any{"alg": alg, "use": "sig"}))
	}
	writeJSON(w, map[string]any{"keys": keys})
}

// getWebIdentityToken answers a request whose signature held (https://docs.aws.amazon.com/STS/latest/APIReference/API_GetWebIdentityToken.html).
func (s *AWSSTS) getWebIdentityToken(w http.ResponseWriter, host, body string, p AWSPrincipal) {
	form, err := url.ParseQuery(body)
	seconds := int64(300)
	if form.Has("DurationSeconds") {
		seconds, _ = strconv.ParseInt(form.Get("DurationSeconds"), 10, 32)
	}
	var audiences []string
	for n := 1; form.Has("Audience.member." + strconv.Itoa(n)); n++ {
		audiences = append(audiences, form.Get("Audience.member."+strconv.Itoa(n)))
	}
	alg := form.Get("SigningAlgorithm")
	switch {
	case host == "sts.amazonaws.com": // the global endpoint doesn't do it
		STSError(w, http.StatusBadRequest, "InvalidAction")
		return
	case err != nil || form.Get("Version") != "2011-06-15" || awsTokenKeys()[alg] == nil || seconds < 60 || seconds > 3600 ||
		len(audiences) < 1 || len(audiences) > 10 || slices.ContainsFunc(audiences, func(a string) bool { return a == "" || len(a) > 1000 }):
		STSError(w, http.StatusBadRequest, "ValidationError")
		return
	}
	now := time.Now()
	expires := now.Add(time.Duration(seconds) * time.Second)
	overrides := map[string]any{"iat": now.Unix(), "exp": expires.Unix()}
	if len(audiences) > 1 {
		overrides["aud"] = audiences
	}
	token := s.WebIdentityToken(p, audiences[0], alg, overrides)
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprint(w, `<GetWebIdentityTokenResponse xmlns="`+STSNamespace+`"><GetWebIdentityTokenResult><WebIdentityToken>`)
	_ = xml.EscapeText(w, []byte(token))
	fmt.Fprintf(w, `</WebIdentityToken><Expiration>%s</Expiration></GetWebIdentityTokenResult>`+
		`<ResponseMetadata><RequestId>00000000-0000-0000-0000-000000000000</RequestId></ResponseMetadata></GetWebIdentityTokenResponse>`,
		expires.UTC().Format(time.RFC3339))
}
