package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/policy"
)

func newCheckConfigCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:     "check-config",
		GroupID: "check",
		Short:   "Check a configuration: every fault at once, with line and key",
		Long: `check-config reads a configuration as 'broker serve' would, files that it names and CREDBROKER__ variables included, and
prints every fault with its line. It starts nothing and reaches nothing.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, rules, err := loadConfig(file)
			if err != nil {
				return err
			}
			for _, warning := range cfg.Warnings() {
				fmt.Fprintf(c.OutOrStdout(), "warning: %s\n", warning)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is sound: %d roles, %d issuers, %d exchangers, rule set %s\n",
				file, len(cfg.Roles), len(cfg.Issuers), len(cfg.Exchangers), rules.Version())
			return nil
		},
	}
	registerConfigFlag(c, &file)
	return c
}

func newCheckPolicyCommand() *cobra.Command {
	var file, as, role, narrowing string
	var ttl time.Duration
	c := &cobra.Command{
		Use:     "check-policy",
		GroupID: "check",
		Short:   "Say what an identity would get of a role, and why",
		Long: `check-policy decides as a broker with this configuration would, explains the decision, and exits with 1 if the role would
be refused. The identity is a JSON file:

  {"kind": "oidc", "issuer": "https://login.corp.example", "subject": "alice", "attrs": {"groups": ["finance"]}}`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if as == "" || role == "" {
				return &usageError{errors.New("--as and --role are needed"), c.CommandPath()}
			}
			_, rules, err := loadConfig(file)
			if err != nil {
				return err
			}
			now := time.Now()
			id, err := readIdentity(as, now)
			if err != nil {
				return err
			}
			var policyText string
			if narrowing != "" {
				data, err := os.ReadFile(narrowing)
				if err != nil {
					return err
				}
				policyText = string(data)
			}
			printFindings(c.OutOrStdout(), rules.Explain(id, role))
			grant, err := rules.Resolve(id, policy.Wanted{Role: role, Policy: policyText, TTL: ttl, Now: now})
			if err != nil {
				return fmt.Errorf("refused: %w", err)
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "allowed: for %s from %s, at least %s left when handed out\n", grant.TTL, grant.Exchanger, grant.Min)
			fmt.Fprintf(out, "policies: %s\n", strings.Join(grant.Policies, ", "))
			if grant.SessionPolicy != "" {
				fmt.Fprintf(out, "session policy: %s\n", grant.SessionPolicy)
			}
			return nil
		},
	}
	registerConfigFlag(c, &file)
	c.Flags().StringVar(&as, "as", "", "JSON file of the identity")
	c.Flags().StringVar(&role, "role", "", "role it asks for")
	c.Flags().StringVar(&narrowing, "policy-file", "", "narrowing policy (JSON) it asks for")
	c.Flags().DurationVar(&ttl, "ttl", 0, "life it asks for")
	return c
}

func registerConfigFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "config", "c", os.Getenv("CREDBROKER_CONFIG"), "configuration file; an empty configuration if not given [$CREDBROKER_CONFIG]")
	_ = c.MarkFlagFilename("config", "yaml", "yml")
}

// loadConfig reads and compiles a configuration without starting anything. The error holds every fault.
func loadConfig(file string) (*config.Config, *policy.Rules, error) {
	cfg, err := config.Load(file, os.Environ())
	if err != nil {
		return nil, nil, err
	}
	rules, err := compileRules(cfg, backends(cfg))
	if err != nil {
		return nil, nil, err
	}
	return cfg, rules, nil
}

// compileRules compiles the roles; its error names file and line of every fault.
func compileRules(cfg *config.Config, backends map[string]policy.Backend) (*policy.Rules, error) {
	rules, err := policy.Compile(cfg.Roles, backends)
	if faults, ok := errors.AsType[policy.Faults](err); ok {
		return nil, cfg.PolicyFaults(faults)
	}
	return rules, err
}

// readIdentity reads the JSON form of an identity. One without expires has an hour left.
func readIdentity(file string, now time.Time) (attest.Identity, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return attest.Identity{}, err
	}
	type identity struct {
		Kind      attest.Kind         `json:"kind"`
		Issuer    string              `json:"issuer"`
		Tenant    string              `json:"tenant"`
		Subject   string              `json:"subject"`
		Attrs     map[string][]string `json:"attrs"`
		PathAttrs []string            `json:"path_attrs"`
		Expires   time.Time           `json:"expires"`
	}
	var in identity
	if err := json.Unmarshal(data, &in, json.RejectUnknownMembers(true)); err != nil {
		return attest.Identity{}, fmt.Errorf("%s: %w", file, err)
	}
	id := attest.Identity{Kind: in.Kind, Issuer: in.Issuer, Tenant: in.Tenant, Subject: in.Subject, Attrs: in.Attrs, Expires: in.Expires, PathAttrs: map[string]bool{}}
	for _, name := range in.PathAttrs {
		id.PathAttrs[name] = true
	}
	if id.Expires.IsZero() {
		id.Expires = now.Add(time.Hour)
	}
	return id, nil
}

func printFindings(out io.Writer, e policy.Explanation) {
	for _, f := range e.Findings {
		mark := "no "
		if f.Passed {
			mark = "yes"
		}
		fmt.Fprintf(out, "%s  %s  %s\n", mark, f.Check, f.Detail)
	}
}
