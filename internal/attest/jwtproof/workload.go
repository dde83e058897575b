package jwtproof

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// workloadAPI returns what fetches a trust domain's keys for JWT-SVIDs from the Workload API at an address
// (https://spiffe.io/docs/latest/spiffe-specs/spiffe_workload_api, section 6.2.2).
func workloadAPI(address, issuer string) (func(context.Context) (*keySet, error), error) {
	if err := workloadapi.ValidateAddress(address); err != nil {
		return nil, err
	}
	trustDomain, nameErr := spiffeid.TrustDomainFromString(strings.TrimPrefix(issuer, spiffeScheme))
	if nameErr != nil {
		return nil, nameErr
	}
	return func(ctx context.Context) (*keySet, error) {
		bundles, err := workloadapi.FetchJWTBundles(ctx, workloadapi.WithAddr(address))
		if err != nil {
			return nil, err
		}
		bundle, ok := bundles.Get(trustDomain)
		if !ok {
			return nil, fmt.Errorf("the Workload API has no bundle of %s", issuer)
		}
		return setOf(bundle.JWTAuthorities()), nil
	}, nil
}

// setOf leaves out, and counts, what parseJWKS would.
func setOf(authorities map[string]crypto.PublicKey) *keySet {
	set := &keySet{keys: make(map[string]*key, len(authorities))}
	for _, kid := range slices.Sorted(maps.Keys(authorities)) {
		k, err := authority(kid, authorities[kid])
		if err != nil {
			set.malformed = append(set.malformed, fmt.Sprintf("kid %q: %s", excerpt(kid, 64), err))
			continue
		}
		set.keys[kid] = k
	}
	return set
}

func authority(kid string, public crypto.PublicKey) (*key, error) {
	if len(kid) == 0 || len(kid) > maxKeyID {
		return nil, fmt.Errorf("kid is not of 1 to %d bytes", maxKeyID)
	}
	if err := checkPublic(public); err != nil {
		return nil, err
	}
	der, derErr := x509.MarshalPKIXPublicKey(public)
	if derErr != nil {
		return nil, derErr
	}
	return &key{public: public, identity: keyIdentity{kid: kid, thumbprint: sha256.Sum256(der)}}, nil
}
