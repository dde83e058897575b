package awsiam

import (
	"errors"
	"strings"
)

// principal is who signed, by the Arn, UserId and Account of GetCallerIdentity
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html).
type principal struct {
	partition, account string
	kind               string // user or role
	name               string // of the user or role
	path               string // of a user, "/" or "/a/b/"; "/" for a role: its session's ARN lacks it
	session            string // of a role
	uniqueID           string // AIDA... or AROA..., never given twice
}

// arn is the principal's: of the role, not of its session.
func (p *principal) arn() string {
	return "arn:" + p.partition + ":iam::" + p.account + ":" + p.kind + p.path + p.name
}

// parsePrincipal takes an IAM user, or a session of an assumed role, and nobody else: an account's root has no bounds, and a
// federated user's name is its maker's to choose.
func parsePrincipal(arn, userID, account string) (*principal, error) {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || parts[3] != "" || len(arn) > 2048 {
		return nil, errors.New("the ARN isn't arn:PARTITION:SERVICE::ACCOUNT:RESOURCE")
	}
	p := &principal{partition: parts[1], account: parts[4]}
	if regions[p.partition] == nil {
		return nil, errors.New("the ARN's partition isn't one of AWS")
	}
	if !isAccount(p.account) || p.account != account {
		return nil, errors.New("the ARN's account isn't the account's 12 digits")
	}
	resource := strings.Split(parts[5], "/")
	for _, name := range resource[1:] {
		if !isName(name) {
			return nil, errors.New("the ARN's resource holds what IAM's names don't")
		}
	}
	id, session, hasSession := strings.Cut(userID, ":")
	switch {
	case parts[2] == "iam" && resource[0] == "user" && len(resource) >= 2 && !hasSession:
		p.kind, p.name = "user", resource[len(resource)-1]
		p.path = strings.TrimSuffix(parts[5][len("user"):], p.name)
	case parts[2] == "sts" && resource[0] == "assumed-role" && len(resource) == 3 && session == resource[2]: // which isn't empty
		p.kind, p.path, p.name, p.session = "role", "/", resource[1], resource[2]
	default:
		return nil, errors.New("neither an IAM user nor a session of an assumed role with its unique ID")
	}
	if !isUniqueID(id) {
		return nil, errors.New("the user ID holds no unique ID")
	}
	p.uniqueID = id
	return p, nil
}

func isAccount(s string) bool { return len(s) == 12 && strings.Trim(s, "0123456789") == "" }

// isName says whether s can be a name of IAM or a part of a path.
func isName(s string) bool {
	if s == "" || len(s) > 512 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == ':' || c == '*' || c == '?' {
			return false
		}
	}
	return true
}
