package prove_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/prove"
)

func awsKeys(err error) aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "ASIAIOSFODNN7EXAMPLE", SecretAccessKey: "planted-secret", SessionToken: "planted-token"}, err
	})
}

// That AWS takes the signature, and a broker the proof, is tested with the broker (cmd/broker).
func TestAWS(t *testing.T) {
	seen := map[string]bool{}
	for region, host := range map[string]string{
		"eu-west-1": "https://sts.eu-west-1.amazonaws.com/", "cn-north-1": "https://sts.cn-north-1.amazonaws.com.cn/", "us-gov-west-1": "https://sts.us-gov-west-1.amazonaws.com/",
	} {
		p := prove.AWS(awsKeys(nil), region, "https://broker.example")
		for range 2 {
			proof, err := p.Prove(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var login struct {
				URL []byte `json:"iam_request_url"`
			}
			if err := json.Unmarshal([]byte(proof.Reveal()), &login); err != nil || string(login.URL) != host {
				t.Errorf("%s: %s, %v", region, login.URL, err)
			}
			if proof.Kind() != prove.AWSRequest || seen[proof.Reveal()] || strings.Contains(proof.Reveal(), "planted-secret") {
				t.Errorf("%s: kind %s, or the same proof again, or one with the secret key", region, proof.Kind())
			}
			seen[proof.Reveal()] = true
		}
	}
}

func TestAWSTellsWhatIsMissing(t *testing.T) {
	away := errors.New("no instance metadata")
	for name, p := range map[string]prove.Prover{
		"no credentials": prove.AWS(nil, "eu-west-1", "s"), "no region": prove.AWS(awsKeys(nil), "", "s"), "no server ID": prove.AWS(awsKeys(nil), "eu-west-1", ""),
		"a region that is none": prove.AWS(awsKeys(nil), "a b", "s"),
	} {
		if _, err := p.Prove(t.Context()); err == nil {
			t.Errorf("%s: proven", name)
		}
	}
	if _, err := prove.AWS(awsKeys(away), "eu-west-1", "s").Prove(t.Context()); !errors.Is(err, away) {
		t.Error(err)
	}
}
