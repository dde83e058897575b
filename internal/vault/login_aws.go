package vault

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/go-json-experiment/json"
)

// AWS logs in with a signed GetCallerIdentity request of AWS STS (auth method aws, type iam), which Vault sends to learn who signed it
// (https://developer.hashicorp.com/vault/docs/auth/aws#iam-auth-method). The broker itself sends STS nothing, but for AssumeRole.
type AWS struct {
	Mount, Role string
	// Region is that of the STS whose name is signed, and that Vault's role or configuration expects.
	Region string
	// ServerID is the value of X-Vault-AWS-IAM-Server-ID, as in the auth method's iam_server_id_header_value; without one a request that
	// was signed for another Vault is as good.
	ServerID string
	// AssumeRole is the ARN of a role to assume first; none if empty.
	AssumeRole string
	// STS is the URL of the STS that is signed for, and where the role is assumed, such as a VPC endpoint's; AWS's own for Region if empty.
	STS string
}

func (l AWS) login(ctx context.Context, c *Client) (*session, error) {
	keys, err := l.keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("AWS credentials: %w", err)
	}
	fields, err := l.sign(ctx, keys, time.Now())
	if err != nil {
		return nil, err
	}
	return c.logIn(ctx, l.Mount, "login", fields)
}

// keys finds credentials as the AWS CLI does: environment, files, and what an instance, a task or a pod is given.
func (l AWS) keys(ctx context.Context) (aws.Credentials, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(l.Region))
	if err != nil {
		return aws.Credentials{}, err
	}
	provider := cfg.Credentials
	if l.AssumeRole != "" {
		client := sts.NewFromConfig(cfg, func(o *sts.Options) {
			if l.STS != "" {
				o.BaseEndpoint = aws.String(l.STS)
			}
		})
		provider = stscreds.NewAssumeRoleProvider(client, l.AssumeRole, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName, o.Duration = "credbroker", 15*time.Minute // the least that there is: it's used once
		})
	}
	return provider.Retrieve(ctx)
}

// sign makes the fields of a login: a request that isn't sent, in base64.
func (l AWS) sign(ctx context.Context, keys aws.Credentials, now time.Time) (map[string]any, error) {
	const body = "Action=GetCallerIdentity&Version=2011-06-15"
	suffix := "amazonaws.com"
	if strings.HasPrefix(l.Region, "cn-") {
		suffix += ".cn"
	}
	url := cmp.Or(l.STS, "https://sts."+l.Region+"."+suffix) + "/"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("the AWS region %q: %w", l.Region, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	req.Header.Set("Content-Length", strconv.Itoa(len(body)))
	if l.ServerID != "" {
		req.Header.Set("X-Vault-AWS-IAM-Server-ID", l.ServerID)
	}
	hash := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(ctx, keys, req, hex.EncodeToString(hash[:]), "sts", l.Region, now); err != nil {
		return nil, fmt.Errorf("sign for AWS: %w", err)
	}
	headers, err := json.Marshal(req.Header)
	if err != nil {
		return nil, err
	}
	b64 := base64.StdEncoding.EncodeToString
	return map[string]any{
		"role": l.Role, "iam_http_request_method": http.MethodPost, "iam_request_url": b64([]byte(url)),
		"iam_request_body": b64([]byte(body)), "iam_request_headers": b64(headers),
	}, nil
}
