package sigv4

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// Key is an access key that somebody holds for good, such as a Vault whose AWS engine asks the broker.
type Key struct {
	// Name is the subject of the identity that the key proves.
	Name            string
	AccessKeyID     string
	SecretAccessKey secret.Secret
	// Source is asked for ID and secret, which are empty then; nil if they are there.
	Source Source
}

// ReadKey reads a key of the given name from a file, as secret.ReadAccessKey does.
func ReadKey(name, path string) (Key, error) {
	id, key, err := secret.ReadAccessKey(path)
	return Key{Name: name, AccessKeyID: id, SecretAccessKey: key}, err
}

// Verifier takes requests that were signed with one of some keys. It is safe for concurrent use.
type Verifier struct {
	keys      map[string]Key
	elsewhere []*fetched
	now       func() time.Time
}

var _ attest.Verifier = (*Verifier)(nil)

// New returns a verifier by keys; now is the clock, time.Now if nil. An error is a key ID that two of them have; of those with a Source,
// which aren't asked yet, the first that has an ID counts, after those without.
func New(keys []Key, now func() time.Time) (*Verifier, error) {
	if now == nil {
		now = time.Now
	}
	v := &Verifier{keys: make(map[string]Key, len(keys)), now: now}
	for _, k := range keys {
		if k.Source != nil {
			v.elsewhere = append(v.elsewhere, newFetched(k))
			continue
		}
		if other, taken := v.keys[k.AccessKeyID]; taken {
			return nil, fmt.Errorf("%s and %s have the same access key ID", other.Name, k.Name)
		}
		v.keys[k.AccessKeyID] = k
	}
	return v, nil
}

// Verify implements attest.Verifier for attest.KindSigV4: Kind is attest.KindAccessKey, Issuer attest.IssuerAccessKeys, Subject the
// key's name; Expires is when the request could be shown no more. A request may be shown more than once until then: AWS's clients repeat
// one whose answer they didn't get.
func (v *Verifier) Verify(ctx context.Context, p attest.Proof) (attest.Identity, error) {
	if p.Kind != attest.KindSigV4 {
		return attest.Identity{}, fmt.Errorf("%w: kind %q", attest.ErrMalformed, p.Kind)
	}
	r, err := parse(p.Data.Reveal())
	if err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrMalformed, err)
	}
	key, known, err := v.find(ctx, r.accessKeyID) // one that isn't has no secret, and what that would have signed is verified all the same
	if err != nil {
		return attest.Identity{}, err
	}
	if !r.holds(key.SecretAccessKey) || !known {
		return attest.Identity{}, fmt.Errorf("%w: access key ID %.32q: not known, or another key has signed", attest.ErrRejected, r.accessKeyID)
	}
	if r.token != "" {
		return attest.Identity{}, fmt.Errorf("%w: a session token beside a key that has none", attest.ErrRejected)
	}
	if err := r.checkTime(v.now()); err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrRejected, err)
	}
	return attest.Identity{Kind: attest.KindAccessKey, Issuer: attest.IssuerAccessKeys, Subject: key.Name, Expires: r.at.Add(maxAge)}, nil
}

// find returns the key of that ID. The error is attest.ErrUnavailable if it may be one that couldn't be had, or ctx's.
func (v *Verifier) find(ctx context.Context, accessKeyID string) (key Key, known bool, err error) {
	if key, known = v.keys[accessKeyID]; known {
		return key, true, nil
	}
	for _, f := range v.elsewhere {
		key, failure := f.get(ctx, v.now)
		if failure == nil && key.AccessKeyID == accessKeyID {
			return key, true, nil
		}
		err = errors.Join(err, failure)
	}
	return Key{}, false, err
}
