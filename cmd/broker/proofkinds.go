package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker/prove"
)

// proofAuto is the value of --proof that looks for a kind.
const proofAuto = "auto"

// proofX509 is the value of --proof for the client certificate.
const proofX509 = "x509"

// podToken is where a pod is to have its token for the broker (docs/go-client.md has the volume).
const podToken = "/var/run/secrets/tokens/credbroker" //nolint:gosec // a path

// proofKind is a value of --proof, and a subcommand of prove.
type proofKind struct {
	name string
	// short describes the subcommand; empty where there is nothing that could be printed.
	short string
	// needs are flags without which it can't be; takes are others that it looks at.
	needs, takes []*proofFlag
	// clues are what auto knows it by; a kind without any isn't looked for.
	clues clues
	// asks is set for those that ask a platform for each proof, which is good for more than one call.
	asks bool
	// instead is a kind that auto takes in its place, if what that one needs was given and what this one needs was not.
	instead string
	prover  func(c *cobra.Command, f *proofFlags) (prove.Prover, error)
}

// proofKinds are in the order in which auto looks for them.
var proofKinds = []*proofKind{
	{
		name: "file", short: "Print the token that a file holds, once it was seen to be one",
		needs:  []*proofFlag{tokenFileFlag},
		prover: func(c *cobra.Command, f *proofFlags) (prove.Prover, error) { return tokenProver(c, f.tokenFile) },
	},
	{
		name: "kubernetes", short: "Print this pod's projected service account token, of " + podToken + " unless --token-file says otherwise",
		takes: []*proofFlag{tokenFileFlag},
		clues: clues{file: podToken},
		prover: func(c *cobra.Command, f *proofFlags) (prove.Prover, error) {
			return tokenProver(c, cmp.Or(f.tokenFile, podToken))
		},
	},
	{
		name: "spiffe", short: "Get a JWT-SVID from the Workload API at $SPIFFE_ENDPOINT_SOCKET",
		asks: true, needs: []*proofFlag{audienceFlag},
		clues:  clues{env: []string{"SPIFFE_ENDPOINT_SOCKET"}},
		prover: func(_ *cobra.Command, f *proofFlags) (prove.Prover, error) { return prove.SPIFFE("", f.audience), nil },
	},
	{
		name: "aws", short: "Sign a GetCallerIdentity request with this machine's AWS credentials",
		needs: []*proofFlag{awsServerIDFlag}, takes: []*proofFlag{awsRegionFlag},
		// Not AWS_ACCESS_KEY_ID: what is there may be an object store's, such as `broker get` prints.
		clues: clues{
			env:   []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_LAMBDA_FUNCTION_NAME"},
			board: "sys_vendor", says: []string{"Amazon EC2"},
		},
		instead: "aws-token",
		prover: func(c *cobra.Command, f *proofFlags) (prove.Prover, error) {
			cfg, err := f.awsConfig(c.Context())
			return prove.AWS(cfg.Credentials, cfg.Region, f.awsServerID), err
		},
	},
	{
		name: "aws-token", short: "Get a token of AWS STS by this machine's AWS credentials (outbound identity federation)",
		asks: true, needs: []*proofFlag{audienceFlag}, takes: []*proofFlag{awsRegionFlag},
		prover: func(c *cobra.Command, f *proofFlags) (prove.Prover, error) {
			cfg, err := f.awsConfig(c.Context())
			return prove.AWSToken(sts.NewFromConfig(cfg), f.audience), err
		},
	},
	{
		name: "azure", short: "Get an access token of Microsoft Entra by this machine's managed identity, or by a pod's workload identity",
		asks: true, needs: []*proofFlag{audienceFlag},
		clues: clues{
			env:   []string{"AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "MSI_ENDPOINT"},
			board: "chassis_asset_tag", says: []string{"7783-7084-3265-9085-8269-3286-77"}, // of every virtual machine of Azure
		},
		prover: azureProver,
	},
	{
		name: "gcp", short: "Get an identity token of Google from this machine's metadata server",
		asks: true, needs: []*proofFlag{audienceFlag},
		clues: clues{
			env:   []string{"GCE_METADATA_HOST"},
			board: "product_name", says: []string{"Google", "Google Compute Engine"}, // as cloud.google.com/go/compute/metadata knows one
			googles: true,
		},
		prover: func(_ *cobra.Command, f *proofFlags) (prove.Prover, error) { return prove.GCP(f.audience), nil },
	},
	{
		name: proofX509, needs: []*proofFlag{certFileFlag, keyFileFlag},
		prover: func(*cobra.Command, *proofFlags) (prove.Prover, error) { return prove.ClientCertificate(), nil },
	},
}

func kindNamed(name string) *proofKind {
	for _, k := range proofKinds {
		if k.name == name {
			return k
		}
	}
	return nil
}

func kindNames() []string {
	var names []string
	for _, k := range proofKinds {
		names = append(names, k.name)
	}
	return names
}

func tokenProver(c *cobra.Command, path string) (prove.Prover, error) {
	if path != "-" {
		return prove.TokenFile(path), nil
	}
	const most = 16 << 10
	data, err := io.ReadAll(io.LimitReader(c.InOrStdin(), most+1))
	if err != nil {
		return nil, err
	}
	text := strings.TrimSpace(string(data))
	if text == "" || len(data) > most {
		return nil, errors.New("standard input holds no token, or more than 16 KiB")
	}
	return prove.Token(text), nil
}

// awsConfig finds the credentials as the AWS CLI does: environment, files, and what an instance, a task or a pod is given.
func (f *proofFlags) awsConfig(ctx context.Context) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{config.WithDefaultRegion("us-east-1")}
	if f.awsRegion != "" {
		options = append(options, config.WithRegion(f.awsRegion))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("AWS credentials: %w", err)
	}
	return cfg, nil
}

// azureProver takes a pod's workload identity where there is one: the managed identity is its node's then. AZURE_CLIENT_ID says which of
// several managed identities.
func azureProver(_ *cobra.Command, f *proofFlags) (prove.Prover, error) {
	if os.Getenv("AZURE_FEDERATED_TOKEN_FILE") != "" {
		// The cluster says which authority it is federated with: nobody else has to be asked about that.
		credential, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{DisableInstanceDiscovery: true})
		if err != nil {
			return nil, fmt.Errorf("azure workload identity: %w", err)
		}
		return prove.Azure(credential, f.audience), nil
	}
	var options azidentity.ManagedIdentityCredentialOptions
	if id := os.Getenv("AZURE_CLIENT_ID"); id != "" {
		options.ID = azidentity.ClientID(id)
	}
	credential, err := azidentity.NewManagedIdentityCredential(&options)
	if err != nil {
		return nil, fmt.Errorf("azure managed identity: %w", err)
	}
	return prove.Azure(credential, f.audience), nil
}
