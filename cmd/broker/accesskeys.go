package main

import (
	"context"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/sigv4"
	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/exchange/fromvault"
	"github.com/credbroker/credbroker/internal/redis"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/vault"
)

// accessKeys makes verifiers of what access keys sign.
type accessKeys struct {
	vault *vault.Client // nil if there is none
	// read is where in Vault keys are: it outlives a reload, and so does what is known while Vault is away.
	read map[config.VaultKey]*fromvault.AccessKey
}

func newAccessKeys(v *vault.Client) *accessKeys {
	return &accessKeys{vault: v, read: map[config.VaultKey]*fromvault.AccessKey{}}
}

// verifier takes requests that were signed with the configuration's keys, as they are in their files now, and in Vault then. It is called
// by one goroutine at a time.
func (a *accessKeys) verifier(list []config.AccessKey) (*sigv4.Verifier, error) {
	keys := make([]sigv4.Key, len(list))
	read := map[config.VaultKey]*fromvault.AccessKey{}
	for i, k := range list {
		if k.File != "" {
			var err error
			if keys[i], err = sigv4.ReadKey(k.Name, k.File); err != nil {
				return nil, fmt.Errorf("access_keys[%d].file: %w", i, err)
			}
			continue
		}
		if a.vault == nil {
			return nil, fmt.Errorf("access_keys[%d].vault: there was no vault when the broker started: restart it", i)
		}
		key := a.read[k.Vault]
		if key == nil {
			key = newVaultKey(a.vault, k.Vault.Path, k.Vault.Fields.AccessKeyID, k.Vault.Fields.SecretAccessKey)
		}
		read[k.Vault] = key
		keys[i] = sigv4.Key{Name: k.Name, Source: vaultKey{key}}
	}
	v, err := sigv4.New(keys, nil)
	if err != nil {
		return nil, fmt.Errorf("access_keys: %w", err)
	}
	a.read = read
	return v, nil
}

func newVaultKey(v *vault.Client, path, accessKeyID, secretAccessKey string) *fromvault.AccessKey {
	return fromvault.NewAccessKey(fromvault.AccessKeyConfig{Client: v, Path: path, AccessKeyID: accessKeyID, SecretAccessKey: secretAccessKey})
}

// vaultKey is a key in Vault as a sigv4.Source.
type vaultKey struct{ *fromvault.AccessKey }

func (k vaultKey) Key(ctx context.Context) (string, secret.Secret, error) {
	key, err := k.AccessKey.Key(ctx)
	return key.AccessKeyID, key.SecretAccessKey, err
}

// newMinted makes the memory of minted credentials and what verifies by it; both are nil if nothing is to be remembered.
func newMinted(wanted bool, client *redis.Client) (attest.MintedKeys, attest.Verifier) {
	if !wanted {
		return nil, nil
	}
	var keys attest.MintedKeys = attest.NewMintedMemory(time.Now)
	if client != nil {
		keys = client.Minted()
	}
	return keys, sigv4.NewMinted(keys, nil)
}
