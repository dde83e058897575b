package main

import (
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/sigv4"
	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/redis"
)

// newSigV4Verifier takes requests that were signed with the configuration's keys, as they are in their files now.
func newSigV4Verifier(list []config.AccessKey) (*sigv4.Verifier, error) {
	keys := make([]sigv4.Key, len(list))
	for i, k := range list {
		var err error
		if keys[i], err = sigv4.ReadKey(k.Name, k.File); err != nil {
			return nil, fmt.Errorf("access_keys[%d].file: %w", i, err)
		}
	}
	v, err := sigv4.New(keys, nil)
	if err != nil {
		return nil, fmt.Errorf("access_keys: %w", err)
	}
	return v, nil
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
