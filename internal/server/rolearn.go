package server

import (
	"strings"

	"github.com/credbroker/credbroker/internal/policy"
)

// roleNamed reads a role's name, or an ARN arn:aws:iam::<12 digits>:role/<role>; the error is errRoleName. Whether there is such a
// role is for the policy to say: the account in the ARN is not looked at, since roles here have none.
func roleNamed(s string) (string, error) {
	const prefix, infix, digits = "arn:aws:iam::", ":role/", 12
	name := s
	if rest, ok := strings.CutPrefix(s, prefix); ok {
		if len(rest) < digits || !isAccount(rest[:digits]) {
			return "", errRoleName
		}
		if name, ok = strings.CutPrefix(rest[digits:], infix); !ok {
			return "", errRoleName
		}
	}
	if !policy.ValidRoleName(name) {
		return "", errRoleName
	}
	return name, nil
}

// isAccount reports whether s is the ID of an AWS account, as far as its form goes.
func isAccount(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789") == ""
}
