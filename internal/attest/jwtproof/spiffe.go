package jwtproof

import (
	"errors"
	"fmt"
	"strings"

	"github.com/credbroker/credbroker/internal/attest"
)

// spiffeProfile is that of JWT-SVIDs (https://spiffe.io/docs/latest/spiffe-specs/jwt-svid). The issuer is the trust domain,
// spiffe://TRUST-DOMAIN, and its keys are those that the domain's bundle has for JWT-SVIDs. A token is of it by its `sub`, the SPIFFE
// ID; `iss` need not be there.
var spiffeProfile = profile{
	kind:       attest.KindSPIFFE,
	attributes: []string{"trust_domain", "path"},
	paths:      map[string]bool{"path": true},
	normalize: func(c *Issuer) error {
		if name, ok := strings.CutPrefix(c.Issuer, spiffeScheme); !ok || !attest.ValidTrustDomain(name) {
			return fmt.Errorf("issuer: is %q, expected spiffe://TRUST-DOMAIN", c.Issuer)
		}
		return nil
	},
	identify: func(is *Issuer, c *claims, id *attest.Identity) error {
		trustDomain, path, err := attest.ParseSPIFFEID(c.subject)
		if err != nil {
			return fmt.Errorf("sub: %w", err)
		}
		if spiffeScheme+trustDomain != is.Issuer {
			return errors.New("sub is of another trust domain than the one whose key verified the token")
		}
		id.Attrs["trust_domain"], id.Attrs["path"] = []string{trustDomain}, []string{path}
		return nil
	},
}

const spiffeScheme = "spiffe://"
