package brokertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// AWSRole is a role of AWS and whom it trusts.
type AWSRole struct {
	// ARN is arn:aws:iam::ACCOUNT:role/NAME.
	ARN string
	// Principal is the ARN that may assume it, with ExternalID if that isn't empty.
	Principal, ExternalID string
	// Issuer is the OIDC issuer whose tokens for Audience may assume it.
	Issuer, Audience string
	// MaxDuration is MaxSessionDuration; an hour if zero.
	MaxDuration time.Duration
}

// AWSSession is what an AssumeRole came to.
type AWSSession struct {
	AWSKey
	Role, Name, SourceIdentity, Policy string
	Tags                               map[string]string
	Expires                            time.Time
}

// AddRole makes roles known.
func (s *AWSSTS) AddRole(roles ...AWSRole) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range roles {
		s.roles[r.ARN] = r
	}
}

// Session is that of an access key that AssumeRole gave; the zero value if there is none.
func (s *AWSSTS) Session(accessKeyID string) AWSSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[accessKeyID]
}

var (
	awsSessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	awsTagKey      = regexp.MustCompile(`^[\w .:/=+@-]{1,128}$`)
	awsTagValue    = regexp.MustCompile(`^[\w .:/=+@-]{0,256}$`)
)

// assumeRole answers a request whose signature held (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html).
func (s *AWSSTS) assumeRole(w http.ResponseWriter, body string, p AWSPrincipal) {
	form, err := url.ParseQuery(body)
	if err != nil {
		STSError(w, http.StatusBadRequest, "MalformedQueryString")
		return
	}
	role := s.role(form)
	if role.Principal == "" || role.Principal != p.ARN || role.ExternalID != form.Get("ExternalId") {
		STSError(w, http.StatusForbidden, "AccessDenied")
		return
	}
	s.begin(w, "AssumeRole", role, form)
}

// assumeRoleWithWebIdentity fetches the keys of the role's issuer and verifies the token, as AWS does
// (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html).
func (s *AWSSTS) assumeRoleWithWebIdentity(w http.ResponseWriter, body string) {
	form, err := url.ParseQuery(body)
	if err != nil {
		STSError(w, http.StatusBadRequest, "MalformedQueryString")
		return
	}
	role := s.role(form)
	if role.Issuer == "" {
		STSError(w, http.StatusForbidden, "AccessDenied")
		return
	}
	var discovery struct {
		JWKSURI string `json:"jwks_uri"`
	}
	var keys jose.JSONWebKeySet
	if fetchJSON(role.Issuer+"/.well-known/openid-configuration", &discovery) != nil || fetchJSON(discovery.JWKSURI, &keys) != nil {
		STSError(w, http.StatusBadRequest, "IDPCommunicationError")
		return
	}
	token, err := jwt.ParseSigned(form.Get("WebIdentityToken"), []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	var claims jwt.Claims
	if err == nil {
		err = token.Claims(&keys, &claims)
	}
	if err == nil {
		err = claims.ValidateWithLeeway(jwt.Expected{Issuer: role.Issuer, AnyAudience: jwt.Audience{role.Audience}, Time: time.Now()}, 0)
	}
	if err != nil || claims.Subject == "" {
		STSError(w, http.StatusBadRequest, "InvalidIdentityToken")
		return
	}
	s.begin(w, "AssumeRoleWithWebIdentity", role, form)
}

func fetchJSON(address string, into any) error {
	resp, err := http.Get(address)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

func (s *AWSSTS) role(form url.Values) AWSRole {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roles[form.Get("RoleArn")]
}

// begin checks what both actions have in common, and gives credentials.
func (s *AWSSTS) begin(w http.ResponseWriter, action string, role AWSRole, form url.Values) {
	seconds := int64(3600)
	if form.Has("DurationSeconds") {
		seconds, _ = strconv.ParseInt(form.Get("DurationSeconds"), 10, 32)
	}
	longest := role.MaxDuration
	if longest == 0 {
		longest = time.Hour
	}
	policy, source, tags := form.Get("Policy"), form.Get("SourceIdentity"), map[string]string{}
	sound := form.Get("Version") == "2011-06-15" && awsSessionName.MatchString(form.Get("RoleSessionName")) && (source == "" || awsSessionName.MatchString(source))
	for n := 1; form.Has(fmt.Sprintf("Tags.member.%d.Key", n)); n++ {
		key, value := form.Get(fmt.Sprintf("Tags.member.%d.Key", n)), form.Get(fmt.Sprintf("Tags.member.%d.Value", n))
		sound = sound && n <= 50 && awsTagKey.MatchString(key) && awsTagValue.MatchString(value) && action == "AssumeRole"
		tags[key] = value
	}
	for _, values := range form {
		sound = sound && len(values) == 1
	}
	d := time.Duration(seconds) * time.Second
	switch {
	case !sound, d < 15*time.Minute, d > longest, len(policy) > 2048:
		STSError(w, http.StatusBadRequest, "ValidationError")
		return
	case policy != "" && !json.Valid([]byte(policy)):
		STSError(w, http.StatusBadRequest, "MalformedPolicyDocument")
		return
	case len(policy)+40*len(tags) > 2000: // AWS packs what it gets; how is its own affair
		STSError(w, http.StatusBadRequest, "PackedPolicyTooLarge")
		return
	}
	account := strings.Split(role.ARN, ":")[4]
	name := form.Get("RoleSessionName")
	session := AWSSession{
		AWSKey: AWSKey{
			ID: "ASIA" + strings.ToUpper(random(8)), Secret: random(20), SessionToken: random(64),
			Principal: AWSPrincipal{Account: account, ARN: strings.NewReplacer(":iam:", ":sts:", ":role/", ":assumed-role/").Replace(role.ARN) + "/" + name, UserID: "AROA" + strings.ToUpper(hexSHA256(role.ARN)[:16]) + ":" + name},
		},
		Role: role.ARN, Name: name, SourceIdentity: source, Policy: policy, Tags: tags, Expires: time.Now().Add(d).UTC().Truncate(time.Second),
	}
	s.mu.Lock()
	if s.sessions == nil {
		s.sessions = map[string]AWSSession{}
	}
	s.sessions[session.ID] = session
	s.keys[session.ID] = session.AWSKey
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, `<%[1]sResponse xmlns="%[2]s"><%[1]sResult><Credentials><AccessKeyId>%[3]s</AccessKeyId><SecretAccessKey>%[4]s</SecretAccessKey>`+
		`<SessionToken>%[5]s</SessionToken><Expiration>%[6]s</Expiration></Credentials>`+
		`<AssumedRoleUser><Arn>%[7]s</Arn><AssumedRoleId>%[8]s</AssumedRoleId></AssumedRoleUser></%[1]sResult>`+
		`<ResponseMetadata><RequestId>00000000-0000-0000-0000-000000000000</RequestId></ResponseMetadata></%[1]sResponse>`,
		action, STSNamespace, session.ID, session.Secret, session.SessionToken, session.Expires.Format(time.RFC3339),
		session.Principal.ARN, session.Principal.UserID)
}
