package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker"
)

func newGetCommand() *cobra.Command {
	var (
		client     clientFlags
		format     string
		profile    string
		policyFile string
		ttl        time.Duration
	)
	c := &cobra.Command{
		Use:     "get",
		GroupID: "use",
		Short:   "Get credentials and print them",
		Long: `get shows a proof of identity to the broker - a token, or what this machine has by itself - and prints the credentials it gets.

Formats:
  env    shell commands that set AWS_ACCESS_KEY_ID and so on: eval "$(broker get --role reports)"
  json   one JSON object: access_key_id, secret_access_key, session_token, expires_at, role, request_id
  aws    a section of ~/.aws/credentials, named by --profile`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			write, ok := formats[format]
			if !ok {
				return &usageError{fmt.Errorf("--format is %q; it can be env, json or aws", format), c.CommandPath()}
			}
			if !profileName.MatchString(profile) {
				return &usageError{fmt.Errorf("--profile may hold letters, digits, '.', '_' and '-'"), c.CommandPath()}
			}
			var opts []credbroker.RoleOption
			if policyFile != "" {
				data, err := os.ReadFile(policyFile)
				if err != nil {
					return err
				}
				opts = append(opts, credbroker.WithPolicy(string(data)))
			}
			if ttl%time.Second != 0 || ttl < 0 {
				return &usageError{fmt.Errorf("--ttl is %s; whole seconds are expected, as in 900s or 15m", ttl), c.CommandPath()}
			}
			if ttl > 0 {
				opts = append(opts, credbroker.WithTTL(ttl))
			}
			got, err := client.issue(c, opts...)
			if err != nil {
				return err
			}
			return write(c.OutOrStdout(), got, profile)
		},
	}
	client.register(c)
	c.Flags().StringVar(&format, "format", "env", "env, json or aws")
	c.Flags().StringVar(&profile, "profile", "default", "profile name for --format aws")
	c.Flags().StringVar(&policyFile, "policy-file", "", "an IAM policy (JSON) that narrows the credentials")
	c.Flags().DurationVar(&ttl, "ttl", 0, "how long the credentials shall live; the role's default if not given")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"env", "json", "aws"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func newCredentialProcessCommand() *cobra.Command {
	var client clientFlags
	c := &cobra.Command{
		Use:     "credential-process",
		GroupID: "use",
		Short:   "Get credentials in the form that AWS SDKs read from a process",
		Long: `credential-process prints credentials as AWS SDKs and the AWS CLI expect them from a credential_process.
In ~/.aws/config:

  [profile reports]
  credential_process = broker credential-process --endpoint https://broker.internal:8443 --token-file /run/token --role reports`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			got, err := client.issue(c)
			if err != nil {
				return err
			}
			return json.NewEncoder(c.OutOrStdout()).Encode(struct {
				Version         int
				AccessKeyId     string //nolint:revive // the spelling of the protocol
				SecretAccessKey string
				SessionToken    string
				Expiration      string
			}{1, got.AccessKeyID, got.SecretAccessKey, got.SessionToken, got.ExpiresAt.UTC().Format(time.RFC3339)})
		},
	}
	client.register(c)
	return c
}

var profileName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// formats of `broker get`. The broker's answer was checked to hold no character that means something to a shell.
var formats = map[string]func(w io.Writer, got issued, profile string) error{
	"env": func(w io.Writer, got issued, _ string) error {
		_, err := fmt.Fprintf(w, "export AWS_ACCESS_KEY_ID='%s'\nexport AWS_SECRET_ACCESS_KEY='%s'\nexport AWS_SESSION_TOKEN='%s'\nexport AWS_CREDENTIAL_EXPIRATION='%s'\n",
			got.AccessKeyID, got.SecretAccessKey, got.SessionToken, got.ExpiresAt.UTC().Format(time.RFC3339))
		return err
	},
	"json": func(w io.Writer, got issued, _ string) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(got)
	},
	"aws": func(w io.Writer, got issued, profile string) error {
		_, err := fmt.Fprintf(w, "[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n# expires %s\n",
			profile, got.AccessKeyID, got.SecretAccessKey, got.SessionToken, got.ExpiresAt.UTC().Format(time.RFC3339))
		return err
	},
}
