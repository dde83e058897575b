package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAutoFindsTheFirstThatIsThere has the order of the documentation as its rows.
func TestAutoFindsTheFirstThatIsThere(t *testing.T) {
	const azureTag = "7783-7084-3265-9085-8269-3286-77"
	all := proofFlags{audience: "a", awsServerID: "s"}
	for name, c := range map[string]struct {
		flags  proofFlags
		env    string // names
		files  map[string]string
		google bool
		want   string // kind: why, or the end of the error
	}{
		"a token file":              {flags: proofFlags{tokenFile: "t"}, env: "SPIFFE_ENDPOINT_SOCKET", files: map[string]string{podToken: ""}, want: "file: "},
		"a pod":                     {flags: all, env: "SPIFFE_ENDPOINT_SOCKET AWS_WEB_IDENTITY_TOKEN_FILE", files: map[string]string{podToken: ""}, want: "kubernetes: " + podToken + " is there"},
		"SPIFFE":                    {flags: all, env: "SPIFFE_ENDPOINT_SOCKET AWS_CONTAINER_CREDENTIALS_FULL_URI", want: "spiffe: $SPIFFE_ENDPOINT_SOCKET is set"},
		"SPIFFE, no audience":       {flags: proofFlags{awsServerID: "s"}, env: "SPIFFE_ENDPOINT_SOCKET AWS_CONTAINER_CREDENTIALS_FULL_URI", want: "it needs --audience; --proof chooses another"},
		"ECS":                       {flags: all, env: "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI IDENTITY_ENDPOINT", want: "aws: $AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set"},
		"EKS":                       {flags: all, env: "AWS_WEB_IDENTITY_TOKEN_FILE", want: "aws: $AWS_WEB_IDENTITY_TOKEN_FILE is set"},
		"Lambda":                    {flags: all, env: "AWS_LAMBDA_FUNCTION_NAME", want: "aws: $AWS_LAMBDA_FUNCTION_NAME is set"},
		"AWS, audience alone":       {flags: proofFlags{audience: "a"}, env: "AWS_CONTAINER_CREDENTIALS_FULL_URI", want: "aws-token: $AWS_CONTAINER_CREDENTIALS_FULL_URI is set"},
		"AWS, neither":              {env: "AWS_CONTAINER_CREDENTIALS_FULL_URI", want: "it needs --aws-server-id (or --audience for aws-token); --proof chooses another"},
		"App Service":               {flags: all, env: "IDENTITY_ENDPOINT GCE_METADATA_HOST", want: "azure: $IDENTITY_ENDPOINT is set"},
		"AKS":                       {flags: all, env: "AZURE_FEDERATED_TOKEN_FILE IDENTITY_ENDPOINT", want: "azure: $AZURE_FEDERATED_TOKEN_FILE is set"},
		"a metadata server":         {flags: all, env: "GCE_METADATA_HOST", files: map[string]string{boardFiles + "sys_vendor": "Amazon EC2\n"}, want: "gcp: $GCE_METADATA_HOST is set"},
		"EC2":                       {flags: all, files: map[string]string{boardFiles + "sys_vendor": "Amazon EC2\n"}, google: true, want: "aws: /sys/class/dmi/id/sys_vendor says Amazon EC2"},
		"an Azure machine":          {flags: all, files: map[string]string{boardFiles + "chassis_asset_tag": azureTag + "\n"}, want: "azure: /sys/class/dmi/id/chassis_asset_tag says " + azureTag},
		"Compute Engine":            {flags: all, files: map[string]string{boardFiles + "product_name": "Google Compute Engine\n"}, want: "gcp: /sys/class/dmi/id/product_name says Google Compute Engine"},
		"Cloud Run":                 {flags: all, google: true, want: "gcp: Google's metadata server answers"},
		"other machines":            {flags: all, files: map[string]string{boardFiles + "sys_vendor": "Amazon EC2x", boardFiles + "product_name": "Not Google"}, want: "Google's metadata server, for 500ms"},
		"an object store's keys":    {flags: all, env: "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN", want: "Google's metadata server, for 500ms"},
		"nothing, and it is listed": {want: lookedFor()},
	} {
		root := t.TempDir()
		for path, text := range c.files {
			at := filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := &surroundings{
			env: func(name string) string {
				if strings.Contains(" "+c.env+" ", " "+name+" ") {
					return "x"
				}
				return ""
			},
			root: root,
			onGoogle: func(ctx context.Context) bool {
				if at, ok := ctx.Deadline(); !ok || time.Until(at) > time.Second {
					t.Errorf("%s: Google's metadata server may take its time", name)
				}
				return c.google
			},
		}
		k, why, err := s.find(t.Context(), &c.flags)
		if err != nil {
			if !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if got := k.name + ": " + why; got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// Each kind is looked for somewhere, and each flag is somebody's.
func TestKindsOfProofAreWhole(t *testing.T) {
	for _, k := range proofKinds {
		if k.name == proofAuto || (k.short == "") != (k.name == proofX509) || k.prover == nil || k.instead != "" && kindNamed(k.instead) == nil || kindNamed(k.name) != k {
			t.Errorf("%+v", k)
		}
		if (k.clues.board == "") != (len(k.clues.says) == 0) {
			t.Errorf("%s: %+v", k.name, k.clues)
		}
	}
}
