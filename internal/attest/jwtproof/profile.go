package jwtproof

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/credbroker/credbroker/internal/attest"
)

// Profile names a platform whose tokens say more than any JWT.
type Profile string

// The profiles. ProfileOIDC is that of any OpenID Connect issuer: `iss` and `sub` are all of the identity.
const (
	ProfileOIDC              Profile = "oidc"
	ProfileAWS               Profile = "aws"
	ProfileGCP               Profile = "gcp"
	ProfileGCPServiceAccount Profile = "gcp_service_account"
	ProfileAzure             Profile = "azure"
	ProfileKubernetes        Profile = "kubernetes"
	ProfileSPIFFE            Profile = "spiffe"
)

// profile is what a platform adds to the checks of any JWT.
type profile struct {
	kind attest.Kind
	// attributes are the names of those that identify sets; paths those among them that are paths.
	attributes []string
	paths      map[string]bool
	// lifetime is the default of MaxLifetime; zero means that of all.
	lifetime time.Duration
	// normalize checks what the issuer's configuration has of the platform. Optional.
	normalize func(*Issuer) error
	// identify checks the claims of a token that passed all other checks, and completes the identity.
	identify func(*Issuer, *claims, *attest.Identity) error
}

var profiles = map[Profile]profile{
	ProfileOIDC:              {kind: attest.KindOIDC, identify: func(*Issuer, *claims, *attest.Identity) error { return nil }},
	ProfileAWS:               awsProfile,
	ProfileGCP:               gcpProfile,
	ProfileGCPServiceAccount: gcpServiceAccountProfile,
	ProfileAzure:             azureProfile,
	ProfileKubernetes:        kubernetesProfile,
	ProfileSPIFFE:            spiffeProfile,
}

// Attributes are the names of the attributes that a profile sets by itself, in order; nil for one that there isn't.
func (p Profile) Attributes() []string { return slices.Sorted(slices.Values(profiles[p].attributes)) }

func (p Profile) check(c *Issuer) error {
	known, ok := profiles[p]
	if !ok {
		return fmt.Errorf("profile: %q is not one of %q", p, slices.Sorted(maps.Keys(profiles)))
	}
	for _, name := range known.attributes {
		if _, taken := c.Attributes[name]; taken {
			return fmt.Errorf("attributes.%s: the profile sets it", name)
		}
	}
	if known.normalize == nil {
		return nil
	}
	return known.normalize(c)
}

// identity is whom the claims, all of which were verified, are about.
func (is *issuer) identity(c *claims) (attest.Identity, error) {
	id := attest.Identity{
		Kind: is.profile.kind, Issuer: is.config.Issuer, Subject: c.subject, Expires: c.expires,
		Attrs: c.attributes(is.claims), PathAttrs: is.pathAttrs,
	}
	if len(is.profile.attributes) > 0 && id.Attrs == nil {
		id.Attrs = make(map[string][]string, len(is.profile.attributes))
	}
	return id, is.profile.identify(&is.config, c, &id)
}

// object returns the members of a claim that is an object; ok is false for anything else, an absent claim among it.
func object(v jsontext.Value) (members map[string]jsontext.Value, ok bool) {
	if v.Kind() != '{' {
		return nil, false
	}
	_ = decodeJSON(v, &members) // it is part of what was decoded before
	return members, true
}

// requireTexts returns the members of the given names, each of which must be a string that can be a name: 1 to 255 bytes of
// printable ASCII without spaces.
func requireTexts(members map[string]jsontext.Value, names ...string) ([]string, error) {
	out := make([]string, len(names))
	for i, name := range names {
		s, _ := decodeString(members[name])
		if !isText(s) {
			return nil, fmt.Errorf("%s is missing or no text of 1 to %d printable ASCII characters", name, maxText)
		}
		out[i] = s
	}
	return out, nil
}

const maxText = 255

func isText(s string) bool {
	return s != "" && len(s) <= maxText && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// oneOf says whether list names value, or names nothing, which allows all.
func oneOf(list []string, value string) bool { return len(list) == 0 || slices.Contains(list, value) }
