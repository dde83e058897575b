package issuer

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/vault"
)

const (
	// publishFor is how long a version of a Transit key is published before it signs, by the time that Vault says it was made: so all
	// replicas go over to it together, and each has looked several times by then.
	publishFor = time.Minute
	// lookEvery is how often versions are looked for, and lookAgain the least time between two looks when the JWK set is asked for.
	lookEvery = 10 * time.Second
	lookAgain = time.Second
	// maxVersions is how many versions are published: the newest.
	maxVersions = 8
)

// TransitConfig names a key of Vault's Transit engine, of type ecdsa-p256.
type TransitConfig struct {
	Client *vault.Client
	// Mount is where the engine is, and Key the key's name.
	Mount, Key string
}

// transit is an issuer's key in Vault: nobody but Vault ever holds it, and whoever rotates it there rotates the issuer.
type transit struct {
	cfg        TransitConfig
	publishFor time.Duration
	set        atomic.Pointer[transitSet] // nil until the first look that succeeded
	failure    atomic.Pointer[string]     // why the last look failed; nil if it didn't
	turn       chan struct{}              // held by who looks
	looked     time.Time                  // guarded by turn
}

// transitSet never changes once it is there.
type transitSet struct {
	versions []transitKey // newest first
	least    int          // the oldest version that Vault lets sign (min_encryption_version)
	jwks     []byte
}

type transitKey struct {
	*key
	public  *ecdsa.PublicKey
	version int
	made    time.Time
}

func newTransit(cfg TransitConfig) *transit {
	return &transit{cfg: cfg, publishFor: publishFor, turn: make(chan struct{}, 1)}
}

// signing is the version that signs: the newest that was published for long enough, or else the oldest that may.
func (s *transitSet) signing(now time.Time, publishFor time.Duration) transitKey {
	chosen := s.versions[0]
	for _, k := range s.versions {
		if k.version < s.least {
			break
		}
		if chosen = k; !now.Before(k.made.Add(publishFor)) {
			break
		}
	}
	return chosen
}

func (t *transit) status() string {
	if failure := t.failure.Load(); failure != nil {
		if t.set.Load() == nil {
			return "the key in Vault was never read: " + *failure
		}
		return "the key in Vault is not read, the last known versions are served: " + *failure
	}
	if t.set.Load() == nil {
		return "the key in Vault was not read yet"
	}
	return ""
}

// run looks for versions until ctx ends.
func (t *transit) run(ctx context.Context) {
	for {
		_ = t.look(ctx, lookAgain) // it is in the status
		wait := lookEvery
		if t.failure.Load() != nil {
			wait = lookAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// look reads the versions, unless somebody did so within a time. Others who come meanwhile wait for the same look.
func (t *transit) look(ctx context.Context, within time.Duration) error {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if time.Since(t.looked) < within {
		return nil
	}
	// Others wait for what this look finds: it doesn't end with whoever began it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), boardTimeout)
	defer cancel()
	set, err := t.read(ctx)
	t.looked = time.Now()
	if err != nil {
		failure := err.Error()
		t.failure.Store(&failure)
		return err
	}
	t.set.Store(set)
	t.failure.Store(nil)
	return nil
}

func (t *transit) read(ctx context.Context) (*transitSet, error) {
	path := t.cfg.Mount + "/keys/" + t.cfg.Key
	a, err := t.cfg.Client.Do(ctx, vault.Call{Path: path})
	if err != nil {
		return nil, err
	}
	if kind, _ := a.Data["type"].(string); kind != "ecdsa-p256" {
		return nil, fmt.Errorf("%s is of type %.32q; expected ecdsa-p256", path, kind)
	}
	listed, _ := a.Data["keys"].(map[string]any)
	if len(listed) == 0 {
		return nil, fmt.Errorf("%s has no versions", path)
	}
	set := &transitSet{}
	if least, err := a.Number("min_encryption_version"); err == nil {
		set.least = int(least)
	}
	for version, v := range listed {
		k, err := parseTransitKey(version, v)
		if err != nil {
			return nil, fmt.Errorf("%s: version %.16q: %w", path, version, err)
		}
		set.versions = append(set.versions, k)
	}
	slices.SortFunc(set.versions, func(a, b transitKey) int { return cmp.Compare(b.version, a.version) })
	set.versions = set.versions[:min(len(set.versions), maxVersions)]
	public := make([]*key, len(set.versions))
	for n, k := range set.versions {
		public[n] = k.key
	}
	set.jwks, err = marshalJWKS(public)
	return set, err
}

// parseTransitKey reads a version as Transit lists it (GET /transit/keys/:name).
func parseTransitKey(version string, listed any) (transitKey, error) {
	n, err := strconv.Atoi(version)
	if err != nil || n < 1 {
		return transitKey{}, errors.New("it isn't a number")
	}
	fields, _ := listed.(map[string]any)
	text, _ := fields["public_key"].(string)
	created, _ := fields["creation_time"].(string)
	made, err := time.Parse(time.RFC3339Nano, created)
	if err != nil {
		return transitKey{}, errors.New("it has no creation_time")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return transitKey{}, errors.New("it has no public_key in PEM")
	}
	parsed, _ := x509.ParsePKIXPublicKey(block.Bytes) // nil of what it can't read
	public, ok := parsed.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return transitKey{}, errors.New("its public_key isn't one of P-256")
	}
	point, err := public.Bytes() // as newKey has it
	if err != nil {
		return transitKey{}, err
	}
	x, y := encode(point[1:33]), encode(point[33:])
	return transitKey{key: &key{id: thumbprint(x, y), x: x, y: y}, public: public, version: n, made: made}, nil
}

// noKeys is the JWK set before the first look that succeeded.
var noKeys = []byte(`{"keys":[]}`)

func (t *transit) jwks(ctx context.Context) []byte {
	_ = t.look(ctx, lookAgain) // it is in the status
	if set := t.set.Load(); set != nil {
		return set.jwks
	}
	return noKeys
}

// keyIDs are those of the versions, the signing one first.
func (t *transit) keyIDs(now time.Time) []string {
	set := t.set.Load()
	if set == nil {
		return nil
	}
	ids := []string{set.signing(now, t.publishFor).id}
	for _, k := range set.versions {
		if k.id != ids[0] {
			ids = append(ids, k.id)
		}
	}
	return ids
}

// current is the version that signs now.
func (t *transit) current(ctx context.Context, now time.Time) (transitKey, error) {
	if t.set.Load() == nil {
		_ = t.look(ctx, lookAgain) // it is in the status
	}
	set := t.set.Load()
	if set == nil {
		return transitKey{}, fmt.Errorf("%w: %s", exchange.ErrUnavailable, t.status())
	}
	return set.signing(now, t.publishFor), nil
}

// sign has Vault sign input with a version of the key: ES256 as JWS has it (RFC 7518, section 3.4). What comes back is verified: MinIO
// would take a signature that doesn't hold for a reason to read the JWK set again.
func (t *transit) sign(ctx context.Context, k transitKey, input string) (signature string, err error) {
	a, err := t.cfg.Client.Do(ctx, vault.Call{Write: true, Path: t.cfg.Mount + "/sign/" + t.cfg.Key + "/sha2-256", Body: map[string]any{
		"input": base64.StdEncoding.EncodeToString([]byte(input)), "key_version": k.version, "marshaling_algorithm": "jws",
	}})
	switch {
	case errors.Is(err, vault.ErrRefused):
		return "", fmt.Errorf("%w: sign: %w", exchange.ErrRefused, err)
	case err != nil:
		return "", fmt.Errorf("%w: sign: %s", exchange.ErrUnavailable, err.Error())
	}
	said, _ := a.Text("signature", 256) // what there isn't is no signature
	signature, ok := strings.CutPrefix(said, fmt.Sprintf("vault:v%d:", k.version))
	raw, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	digest := sha256.Sum256([]byte(input))
	if !ok || err != nil || len(raw) != 64 || !ecdsa.Verify(k.public, digest[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])) {
		return "", fmt.Errorf("%w: Vault's signature isn't one of version %d of the key", exchange.ErrBadResult, k.version)
	}
	return signature, nil
}
