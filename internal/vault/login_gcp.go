package vault

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"cloud.google.com/go/compute/metadata"
	"github.com/go-json-experiment/json"
)

// GCP logs in with a token of Google's (auth method gcp): an instance's identity token, or a JWT that a service account signs
// (https://developer.hashicorp.com/vault/docs/auth/gcp).
type GCP struct {
	Mount, Role string
	// ServiceAccount is the e-mail address of the account that signs (type iam). The machine's own account needs
	// iam.serviceAccounts.signJwt on it, or is it. Without one the instance's identity token is shown (type gce).
	ServiceAccount string
	// IAMCredentials is the URL of the IAM Service Account Credentials API; Google's own if empty.
	IAMCredentials string
}

// iamTokenLife is how long a signed JWT lasts; Vault takes 15 minutes at most, by default.
const iamTokenLife = 10 * time.Minute

func (l GCP) login(ctx context.Context, c *Client) (*session, error) {
	show := l.identityToken
	if l.ServiceAccount != "" {
		show = l.signJWT
	}
	token, err := show(ctx)
	if err != nil {
		return nil, fmt.Errorf("token of Google: %w", err)
	}
	return c.logIn(ctx, l.Mount, "login", map[string]any{"role": l.Role, "jwt": token})
}

func (l GCP) identityToken(ctx context.Context) (string, error) {
	return metadata.GetWithContext(ctx, "instance/service-accounts/default/identity?format=full&audience="+url.QueryEscape("http://vault/"+l.Role))
}

// signJWT asks the IAM Service Account Credentials API (projects.serviceAccounts.signJwt), as the machine's own account.
func (l GCP) signJWT(ctx context.Context) (string, error) {
	answer, err := metadata.GetWithContext(ctx, "instance/service-accounts/default/token")
	if err != nil {
		return "", err
	}
	var access struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(answer), &access); err != nil || access.Token == "" {
		return "", fmt.Errorf("the metadata server gave no access token")
	}
	claims, err := json.Marshal(map[string]any{"sub": l.ServiceAccount, "aud": "vault/" + l.Role, "exp": time.Now().Add(iamTokenLife).Unix()})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]string{"payload": string(claims)})
	if err != nil {
		return "", err
	}
	endpoint := cmp.Or(l.IAMCredentials, "https://iamcredentials.googleapis.com") + "/v1/projects/-/serviceAccounts/" + url.PathEscape(l.ServiceAccount) + ":signJwt"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+access.Token)
	req.Header.Set("Content-Type", "application/json")
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("signJwt: HTTP %d %q", resp.StatusCode, clip(string(data)))
	}
	var signed struct {
		JWT string `json:"signedJwt"`
	}
	if err := json.Unmarshal(data, &signed); err != nil || signed.JWT == "" || len(signed.JWT) > maxToken {
		return "", fmt.Errorf("signJwt gave no JWT of at most %d bytes", maxToken)
	}
	return signed.JWT, nil
}
