package attest

import (
	"errors"
	"strings"
)

// maxSPIFFEID is the most bytes of a SPIFFE ID (https://spiffe.io/docs/latest/spiffe-specs/spiffe-id, section 2.3).
const maxSPIFFEID = 2048

// ParseSPIFFEID splits the SPIFFE ID of a workload, spiffe://TRUST-DOMAIN/PATH, into its trust domain and its path, which begins
// with a slash. It takes the one form that the specification allows and nothing that would have to be normalized: the scheme
// and the trust domain in lower case, no port, user, query, fragment or escape, no empty segment, "." or "..", and no slash
// at the end. The ID of a trust domain alone is none of a workload.
func ParseSPIFFEID(id string) (trustDomain, path string, err error) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok || len(id) > maxSPIFFEID {
		return "", "", errors.New("no SPIFFE ID: it doesn't begin with spiffe://, or is longer than 2048 bytes")
	}
	slash := strings.IndexByte(rest, '/')
	if slash < 0 {
		return "", "", errors.New("SPIFFE ID without a path, which is none of a workload")
	}
	trustDomain, path = rest[:slash], rest[slash:]
	if !ValidTrustDomain(trustDomain) {
		return "", "", errors.New("SPIFFE ID whose trust domain isn't 1 to 255 of a-z, 0-9, '.', '-' and '_'")
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", "", errors.New("SPIFFE ID whose path has an empty segment or a dot segment")
		}
		for i := range len(segment) {
			if c := segment[i]; (c < 'A' || c > 'Z') && !trustDomainByte(c) {
				return "", "", errors.New("SPIFFE ID whose path holds something else than A-Z, a-z, 0-9, '.', '-' and '_'")
			}
		}
	}
	return trustDomain, path, nil
}

// ValidTrustDomain says whether name is a SPIFFE trust domain's.
func ValidTrustDomain(name string) bool {
	for i := range len(name) {
		if !trustDomainByte(name[i]) {
			return false
		}
	}
	return name != "" && len(name) <= 255
}

func trustDomainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}
