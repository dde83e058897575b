package prove

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/go-json-experiment/json"
)

// AWSRequest is a GetCallerIdentity request of AWS STS that the caller signed: login data of Vault's AWS auth method as a JSON object,
// or the token that `aws eks get-token` prints; at most 8 KiB.
const AWSRequest Kind = "aws"

// AWS proves with AWS credentials, such as those that an instance, a task, a function or a pod has by itself: the Credentials of a
// config of aws-sdk-go-v2. It signs a GetCallerIdentity request of STS in a region, which the broker sends in its place to learn who
// signed it. The request is signed for the broker's server ID (aws.server_id in its configuration), so it's good at no other broker,
// and each has a nonce, so it's good once.
//
// Prove returns the error of the credentials' provider, and fails without a region or a server ID. It sends nothing.
func AWS(credentials aws.CredentialsProvider, region, serverID string) Prover {
	return proverFunc(func(ctx context.Context) (Proof, error) {
		if credentials == nil || region == "" || serverID == "" {
			return Proof{}, errors.New("AWS proof: credentials, a region and the broker's server ID are needed")
		}
		keys, err := credentials.Retrieve(ctx)
		if err != nil {
			return Proof{}, fmt.Errorf("AWS proof: %w", err)
		}
		return signGetCallerIdentity(ctx, keys, region, serverID, time.Now())
	})
}

func signGetCallerIdentity(ctx context.Context, keys aws.Credentials, region, serverID string, now time.Time) (Proof, error) {
	const body = "Action=GetCallerIdentity&Version=2011-06-15"
	suffix := "amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		suffix += ".cn"
	}
	url := "https://sts." + region + "." + suffix + "/"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return Proof{}, fmt.Errorf("AWS proof: the region %q: %w", region, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	req.Header.Set("Content-Length", strconv.Itoa(len(body)))
	req.Header.Set("X-Credbroker-Server-Id", serverID)
	req.Header.Set("X-Credbroker-Nonce", rand.Text())
	hash := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(ctx, keys, req, hex.EncodeToString(hash[:]), "sts", region, now); err != nil {
		return Proof{}, fmt.Errorf("AWS proof: %w", err)
	}
	headers, err := json.Marshal(req.Header)
	if err != nil {
		return Proof{}, fmt.Errorf("AWS proof: %w", err)
	}
	b64 := base64.StdEncoding.EncodeToString
	data, err := json.Marshal(struct {
		Method  string `json:"iam_http_request_method"`
		URL     string `json:"iam_request_url"`
		Body    string `json:"iam_request_body"`
		Headers string `json:"iam_request_headers"`
	}{http.MethodPost, b64([]byte(url)), b64([]byte(body)), b64(headers)})
	if err != nil {
		return Proof{}, fmt.Errorf("AWS proof: %w", err)
	}
	return NewProof(AWSRequest, string(data)), nil
}
