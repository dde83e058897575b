package main

import (
	"testing"

	"github.com/credbroker/credbroker/internal/config"
)

// Credentials that were made under a setting aren't found in a shared cache after it changed.
func TestTheTargetIsAllThatShapesCredentials(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range []config.Exchanger{
		{Kind: "minio-web-identity", Endpoint: "http://minio", ClientID: "a"},
		{Kind: "minio-web-identity", Endpoint: "http://minio", ClientID: "a", Dangerous: true},
		{Kind: "minio-web-identity", Endpoint: "http://minio", ClientID: "b"},
		{Kind: "minio-web-identity", Endpoint: "http://other", ClientID: "a"},
	} {
		if target := targetOf(e); seen[target] {
			t.Errorf("%q twice", target)
		} else {
			seen[target] = true
		}
	}
}
