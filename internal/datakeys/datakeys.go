// Package datakeys has the keys that replicas seal with made by Vault, and keeps them wrapped where the replicas share what is sealed: a
// copy of that, without Vault, is noise.
//
// A data key comes from Vault's Transit engine together with itself wrapped under a key that never leaves Vault (transit/datakey). The
// wrapped form lies in Redis, for all replicas; who may ask Vault unwraps it. Sealing key and HMAC key are derived from it (HKDF, RFC 5869).
// A new data key is in use a minute after it was made, when all replicas have it, and the former opens what it sealed until all of
// that has ended.
package datakeys

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/vault"
)

const (
	// lookEvery is how often the shared document is looked at, lookAgain how soon after a failure.
	lookEvery = 10 * time.Second
	lookAgain = time.Second
	// spreadFor is how long a new key is known before it is used.
	spreadFor = time.Minute
	// keepFor is how long a key that isn't used any more opens what it sealed: longer than anything that is sealed lives.
	keepFor = 25 * time.Hour
	// MaxDocument bounds the shared document.
	MaxDocument = 4 << 10
	// format is the document's version.
	format = 1
)

// Store is where replicas share the document. It need not be trusted: who writes there can't make a key that Vault unwraps.
type Store interface {
	// Load returns the document, of at most MaxDocument bytes; nil if there is none.
	Load(ctx context.Context) ([]byte, error)
	// Swap puts a document in the place of a former one, nil for none, and says whether that was there still.
	Swap(ctx context.Context, former, document []byte) (bool, error)
}

// Config configures Keys.
type Config struct {
	Client *vault.Client
	// Mount is where the Transit engine is, and Key the name of the key that wraps (aes256-gcm96).
	Mount, Key string
	Store      Store
	// RotateEvery is how long a data key is used; more than two days.
	RotateEvery time.Duration
	// Apply puts keys in force, the first of each for what is made from now on. It is called by one goroutine.
	Apply func(sealing, names []secret.Secret) error
	Log   *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Keys keeps the keys of this replica those of all. Run must run.
type Keys struct {
	cfg     Config
	failure atomic.Pointer[string]

	// These are Run's alone.
	known   map[string]secret.Secret // unwrapped data keys, by their wrapped form
	last    []byte                   // the last document that was put in force
	applied string                   // which keys are in force, in their order
}

// New returns Keys. Nothing is asked yet.
func New(cfg Config) *Keys {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	k := &Keys{cfg: cfg, known: map[string]secret.Secret{}}
	k.fail(errors.New("not read yet"))
	return k
}

// document is what replicas share: one key or two, the older one first.
type document struct {
	Format int   `json:"format"`
	Keys   []key `json:"keys"`
}

type key struct {
	Wrapped string `json:"wrapped"` // vault:vN:...
	Made    int64  `json:"made"`    // Unix seconds
}

// Status tells in one line what is wrong; empty if the shared keys are in force.
func (k *Keys) Status() string {
	if why := k.failure.Load(); why != nil {
		return *why
	}
	return ""
}

func (k *Keys) fail(err error) {
	if err == nil {
		k.failure.Store(nil)
		return
	}
	why := "the keys that Vault wraps: " + err.Error()
	k.failure.Store(&why)
}

// Run keeps the keys until ctx ends.
func (k *Keys) Run(ctx context.Context) {
	for {
		err := k.look(ctx)
		wait := lookEvery
		if err != nil {
			wait = lookAgain
		}
		k.fail(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait + rand.N(wait/4)):
		}
	}
}

// look reads the document, makes or rotates it if it's time, and puts it in force.
func (k *Keys) look(ctx context.Context) error {
	raw, err := k.cfg.Store.Load(ctx)
	if err != nil {
		return err
	}
	if raw == nil && k.last != nil { // the store was emptied: what was there is put back
		if _, err := k.cfg.Store.Swap(ctx, nil, k.last); err != nil {
			return err
		}
		if raw, err = k.cfg.Store.Load(ctx); err != nil {
			return err
		}
	}
	doc, err := parse(raw)
	if err != nil {
		return err
	}
	for _, entry := range doc.Keys { // what isn't the replicas' own is neither used nor built upon
		if _, err := k.unwrap(ctx, entry.Wrapped); err != nil {
			return err
		}
	}
	if next, changed, err := k.rotate(ctx, doc); err != nil {
		if len(doc.Keys) == 0 {
			return err
		}
		k.cfg.Log.Warn("the sealing key is due for rotation, and Vault makes none", "error", err.Error())
	} else if changed {
		written, err := json.Marshal(next)
		if err != nil {
			return err
		}
		swapped, err := k.cfg.Store.Swap(ctx, raw, written)
		if err != nil {
			return err
		}
		if !swapped { // by another replica, which was quicker
			return k.look(ctx)
		}
		doc, raw = next, written
	}
	return k.apply(ctx, doc, raw)
}

// parse reads the document; an absent one has no keys.
func parse(raw []byte) (document, error) {
	if raw == nil {
		return document{Format: format}, nil
	}
	var doc document
	if err := json.Unmarshal(raw, &doc, json.RejectUnknownMembers(true)); err != nil || doc.Format != format {
		return document{}, errors.New("what the store holds isn't a document of this version; delete it to have new keys made")
	}
	if len(doc.Keys) == 0 || len(doc.Keys) > secret.MaxLiveKeys {
		return document{}, fmt.Errorf("the store's document has %d keys; expected one or two", len(doc.Keys))
	}
	return doc, nil
}

// rotate makes the first key, adds one to a key that is old enough, or takes away one that sealed nothing that still lives.
func (k *Keys) rotate(ctx context.Context, doc document) (next document, changed bool, err error) {
	now := k.cfg.Now()
	next = document{Format: format, Keys: slices.Clone(doc.Keys)}
	switch n := len(doc.Keys); {
	case n == 0 || n == 1 && now.After(time.Unix(doc.Keys[0].Made, 0).Add(k.cfg.RotateEvery)):
		made, err := k.make(ctx, now)
		if err != nil {
			return doc, false, err
		}
		next.Keys = append(next.Keys, made)
	case n == 2 && now.After(time.Unix(doc.Keys[1].Made, 0).Add(spreadFor+keepFor)):
		next.Keys = next.Keys[1:]
	default:
		return doc, false, nil
	}
	return next, true, nil
}

// make has Vault make a data key (POST /transit/datakey/plaintext/:name).
func (k *Keys) make(ctx context.Context, now time.Time) (key, error) {
	a, err := k.cfg.Client.Do(ctx, vault.Call{Write: true, Path: k.cfg.Mount + "/datakey/plaintext/" + k.cfg.Key, Body: map[string]any{"bits": 256}})
	if err != nil {
		return key{}, err
	}
	wrapped, err := a.Text("ciphertext", 1024)
	if err != nil {
		return key{}, err
	}
	plain, err := a.Text("plaintext", 1024)
	if err != nil {
		return key{}, err
	}
	if k.known[wrapped], err = dataKey(plain); err != nil {
		delete(k.known, wrapped)
		return key{}, err
	}
	return key{wrapped, now.Unix()}, nil
}

// unwrap has Vault unwrap a data key (POST /transit/decrypt/:name), once in the life of this process.
func (k *Keys) unwrap(ctx context.Context, wrapped string) (secret.Secret, error) {
	if known, ok := k.known[wrapped]; ok {
		return known, nil
	}
	a, err := k.cfg.Client.Do(ctx, vault.Call{Write: true, Path: k.cfg.Mount + "/decrypt/" + k.cfg.Key, Body: map[string]any{"ciphertext": wrapped}})
	if errors.Is(err, vault.ErrRefused) {
		return secret.Secret{}, fmt.Errorf("the store's key doesn't unwrap; delete the document to have new ones made: %w", err)
	}
	if err != nil {
		return secret.Secret{}, err
	}
	plain, err := a.Text("plaintext", 1024)
	if err != nil {
		return secret.Secret{}, err
	}
	data, err := dataKey(plain)
	if err != nil {
		return secret.Secret{}, err
	}
	k.known[wrapped] = data
	return data, nil
}

func dataKey(text string) (secret.Secret, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != secret.KeySize {
		return secret.Secret{}, fmt.Errorf("a data key of Vault's isn't %d bytes in base64", secret.KeySize)
	}
	return secret.New(string(raw)), nil
}

// apply puts the document's keys in force: the newest that all replicas know by now, and the other one.
func (k *Keys) apply(ctx context.Context, doc document, raw []byte) error {
	order := slices.Clone(doc.Keys)
	if last := order[len(order)-1]; len(order) == 2 && !k.cfg.Now().Before(time.Unix(last.Made, 0).Add(spreadFor)) {
		slices.Reverse(order)
	}
	var sealing, names []secret.Secret
	var wrapped []string
	for _, entry := range order {
		data, err := k.unwrap(ctx, entry.Wrapped)
		if err != nil {
			return err
		}
		seal, err := derive(data, "credbroker sealing key 1")
		if err != nil {
			return err
		}
		name, err := derive(data, "credbroker name HMAC key 1")
		if err != nil {
			return err
		}
		sealing, names, wrapped = append(sealing, seal), append(names, name), append(wrapped, entry.Wrapped)
	}
	k.last = raw
	if in := strings.Join(wrapped, " "); in != k.applied {
		if err := k.cfg.Apply(sealing, names); err != nil {
			return err
		}
		k.applied = in
		k.cfg.Log.Info("sealing keys put in force", "keys", len(sealing))
	}
	for known := range k.known {
		if !slices.Contains(wrapped, known) {
			delete(k.known, known)
		}
	}
	return nil
}

func derive(data secret.Secret, purpose string) (secret.Secret, error) {
	out, err := hkdf.Key(sha256.New, []byte(data.Reveal()), nil, purpose, secret.KeySize)
	return secret.New(string(out)), err
}
