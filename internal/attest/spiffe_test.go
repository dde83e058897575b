package attest_test

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/credbroker/credbroker/internal/attest"
)

func TestParseSPIFFEID(t *testing.T) {
	for id, want := range map[string]string{
		"spiffe://prod.example/a": "prod.example /a", "spiffe://a-b_c.9/A/b.c-d_e/...": "a-b_c.9 /A/b.c-d_e/...",
		"spiffe://a/" + strings.Repeat("b", 2048-11): "a /" + strings.Repeat("b", 2048-11), "spiffe://" + strings.Repeat("a", 255) + "/b": strings.Repeat("a", 255) + " /b",
	} {
		trustDomain, path, err := attest.ParseSPIFFEID(id)
		if err != nil || trustDomain+" "+path != want {
			t.Errorf("%.64q: %.64q %.64q, %v", id, trustDomain, path, err)
		}
	}
	for _, id := range []string{
		"", "a/b", "spiffe:", "spiffe://", "spiffe:///a", "spiffe://a", "spiffe://a/", "SPIFFE://a/b", "http://a/b", " spiffe://a/b", "spiffe://A/b", "spiffe://a b/c", "spiffe://a:1/b",
		"spiffe://u@a/b", "spiffe://a//b", "spiffe://a/b/", "spiffe://a/./b", "spiffe://a/..", "spiffe://a/b%2fc", "spiffe://a/b?c", "spiffe://a/b#c", "spiffe://a/b c", "spiffe://a/b\n",
		"spiffe://a/é", "spiffe://é/a", "spiffe://a/b*", "spiffe://a/b@c", "spiffe://a/[b", "spiffe://a/b`", "spiffe://a/{", "spiffe://a/b:c",
		"spiffe://a/" + strings.Repeat("b", 2048-10), "spiffe://" + strings.Repeat("a", 256) + "/b",
	} {
		if trustDomain, path, err := attest.ParseSPIFFEID(id); err == nil || trustDomain != "" || path != "" {
			t.Errorf("%.64q: %q %q, %v", id, trustDomain, path, err)
		}
	}
}

// FuzzParseSPIFFEID holds the parser against go-spiffe's.
func FuzzParseSPIFFEID(f *testing.F) {
	for _, seed := range []string{"spiffe://prod.example/ns/a", "spiffe://a", "spiffe://a/../b", "spiffe://a/b%2f", "SPIFFE://a/b", "spiffe://a:1/b", "spiffe://u@a/b?c#d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		trustDomain, path, err := attest.ParseSPIFFEID(id)
		theirs, theirErr := spiffeid.FromString(id)
		if err != nil {
			if theirErr == nil && theirs.Path() != "" && len(id) <= 2048 && len(theirs.TrustDomain().Name()) <= 255 { // it bounds neither
				t.Errorf("%q: refused (%v), and go-spiffe takes it", id, err)
			}
			return
		}
		if theirErr != nil || theirs.TrustDomain().Name() != trustDomain || theirs.Path() != path || "spiffe://"+trustDomain+path != id {
			t.Errorf("%q: %q %q; go-spiffe: %v, %v", id, trustDomain, path, theirs, theirErr)
		}
	})
}
