package jwtproof

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The vectors are data in a module that nothing imports, so go.mod doesn't hold it; the sum pins it instead.
const (
	wycheproofModule = "github.com/c2sp/wycheproof@v0.0.0-20260902155932-3fa63dd0344a"
	wycheproofSum    = "h1:pNbL2nztRsWfW/ispAwsvcDFxs9Id38uIsR2/Up5G2c="
)

// mislabelled are the four valid cases whose key names another `alg` than the token: two keys say PS256 for a token of
// PS384, two say "ES521", which is no algorithm. RFC 7520, where they are from, has no `alg` in these keys. Accepting them
// as they are would mean accepting cases 332 to 340, in which nothing but the key's `alg` is wrong.
var mislabelled = map[int]bool{346: true, 347: true, 350: true, 351: true}

type wycheproofGroup struct {
	Comment string                    `json:"comment"`
	Public  map[string]jsontext.Value `json:"public"`
	Private map[string]jsontext.Value `json:"private"`
	Tests   []struct {
		ID      int    `json:"tcId"`
		Comment string `json:"comment"`
		JWS     string `json:"jws"`
		Result  string `json:"result"`
	} `json:"tests"`
}

func TestWycheproofJSONWebSignature(t *testing.T) {
	cases, validHS, accepted, repaired, refused := 0, 0, 0, 0, 0
	for _, g := range wycheproofGroups(t) {
		symmetric := g.Public == nil
		jwk := g.Public
		if symmetric {
			jwk = g.Private
		}
		for _, tc := range g.Tests {
			cases++
			err := verifyAlone(jwk, tc.JWS)
			switch {
			case tc.Result == "valid" && symmetric:
				validHS++
				if err == nil {
					t.Errorf("%d %s: HMAC was accepted", tc.ID, tc.Comment)
				}
			case tc.Result == "valid" && mislabelled[tc.ID]:
				if err == nil {
					t.Errorf("%d %s: a key was used with another alg than its own", tc.ID, tc.Comment)
				}
				unlabelled := maps.Clone(jwk)
				delete(unlabelled, "alg")
				if err := verifyAlone(unlabelled, tc.JWS); err != nil {
					t.Errorf("%d %s: %v", tc.ID, tc.Comment, err)
				}
				repaired++
			case tc.Result == "valid":
				accepted++
				if err != nil {
					t.Errorf("%d %s: %v", tc.ID, tc.Comment, err)
				}
			default:
				refused++
				if err == nil {
					t.Errorf("%d %s (%s): accepted", tc.ID, tc.Comment, g.Comment)
				}
			}
		}
	}
	if cases != 401 || validHS != 10 || accepted != 32 || repaired != 4 || refused != 355 {
		t.Errorf("%d cases: %d valid HMAC, %d accepted, %d accepted without the key's alg, %d refused; expected 401: 10, 32, 4, 355",
			cases, validHS, accepted, repaired, refused)
	}
}

// verifyAlone verifies a token against a set of one key, with every algorithm on.
func verifyAlone(jwk map[string]jsontext.Value, token string) error {
	data, err := json.Marshal(map[string]any{"keys": []any{jwk}})
	if err != nil {
		return err
	}
	set, err := parseJWKS(data, "sig")
	if err != nil {
		return err
	}
	parsed, err := parseJWS(token)
	if err != nil {
		return err
	}
	k := set.keys[parsed.kid]
	if k == nil {
		return errors.New("no such key")
	}
	return k.verifySignature(parsed)
}

func wycheproofGroups(t *testing.T) []wycheproofGroup {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", wycheproofModule)
	cmd.Dir = t.TempDir() // outside the module, so that go.sum stays as it is
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	var diagnostics strings.Builder
	cmd.Stderr = &diagnostics
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod download %s: %v\n%s%s", wycheproofModule, err, out, diagnostics.String())
	}
	var module struct{ Dir, Sum string }
	if err := json.Unmarshal(out, &module); err != nil || module.Sum != wycheproofSum {
		t.Fatalf("sum is %q, expected %q: %v", module.Sum, wycheproofSum, err)
	}
	data, err := os.ReadFile(filepath.Join(module.Dir, "testvectors_v1", "json_web_signature_test.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []wycheproofGroup `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.Groups
}
