package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker/internal/probe"
	"github.com/credbroker/credbroker/internal/secret"
)

func newProbeCommand() *cobra.Command {
	var f probeFlags
	c := &cobra.Command{
		Use:     "probe URL",
		GroupID: "check",
		Short:   "See what an S3 store's STS takes, and which exchangers are for it",
		Long: `probe asks an S3 store - MinIO or another one - which actions of the STS it has and, with a key or a token that it trusts, which parameters, how large a
session policy and how short a life it takes, and whether it obeys session policies. It says which kinds of exchanger are for this store.

  broker probe https://minio.internal:9000
  broker probe https://minio.internal:9000 --parent-file parent.json --token-file token

With each proof it makes some 15 credentials, which end after 15 minutes, or with the token. It prints none.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args[0]) },
	}
	flags := c.Flags()
	flags.StringVar(&f.parentFile, "parent-file", "", `JSON file of a user's key, as for minio-assume-role: {"access_key_id": ..., "secret_access_key": ...}`)
	flags.StringVar(&f.tokenFile, "token-file", "", "file of a JWT that the store trusts")
	flags.StringVar(&f.roleARN, "role-arn", "", "RoleArn to ask for if the store gives nothing without one")
	flags.StringVar(&f.region, "region", "us-east-1", "region to sign for")
	flags.StringVar(&f.caFile, "ca-file", "", "PEM file of the CA that the store's certificate comes from; the system's if not given")
	flags.StringVar(&f.format, "format", "table", "table or json")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

type probeFlags struct{ parentFile, tokenFile, roleARN, region, caFile, format string }

func (f *probeFlags) check(endpoint string) (*url.URL, error) {
	var faults []error
	at, err := url.Parse(endpoint)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Hostname() == "" || at.User != nil || at.RawQuery != "" || at.Fragment != "" {
		faults = append(faults, errors.New("what is probed must be a URL such as https://minio.internal:9000"))
	} else if at.Scheme == "http" && !loopback(at.Hostname()) && f.parentFile+f.tokenFile != "" {
		faults = append(faults, errors.New("the URL is http:// beyond this machine: whoever is on the way could read tokens and credentials"))
	}
	if f.format != "table" && f.format != "json" {
		faults = append(faults, fmt.Errorf("--format is %.32q; it can be table or json", f.format))
	}
	return at, errors.Join(faults...)
}

func (f *probeFlags) run(c *cobra.Command, endpoint string) error {
	at, err := f.check(endpoint)
	if err != nil {
		return &usageError{err, c.CommandPath()}
	}
	t := &probe.Target{Endpoint: at, Region: f.region, RoleARN: f.roleARN}
	if f.parentFile != "" {
		if t.AccessKeyID, t.SecretAccessKey, err = secret.ReadAccessKey(f.parentFile); err != nil {
			return fmt.Errorf("--parent-file: %w", err)
		}
	}
	if f.tokenFile != "" {
		token, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return err
		}
		if token = bytes.TrimRight(token, "\r\n"); len(token) == 0 {
			return fmt.Errorf("%s is empty", f.tokenFile)
		}
		t.Token = secret.New(string(token))
	}
	if t.Client, err = wireClient(f.caFile); err != nil {
		return err
	}
	defer t.Client.CloseIdleConnections()
	report := probe.Run(c.Context(), t)
	if c.Context().Err() != nil {
		return c.Context().Err()
	}
	if f.format == "json" {
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(report)
	} else {
		err = printReport(c.OutOrStdout(), report)
	}
	if err != nil {
		return err
	}
	for _, a := range report.Actions {
		if a.State != probe.Silent {
			return nil
		}
	}
	return fmt.Errorf("%s gave no answer that can be read: %s", endpoint, report.Actions[0].Said)
}

func printReport(w io.Writer, r *probe.Report) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "ACTION\tSTATE\tSAID")
	for _, a := range r.Actions {
		fmt.Fprintln(table, strings.Join([]string{a.Name, string(a.State), a.Said}, "\t"))
	}
	for _, l := range r.Limits {
		fmt.Fprintf(table, "\n%s\tSAW\n", strings.ToUpper(l.Action))
		if !l.Works {
			fmt.Fprintf(table, "credentials\tnone: %s\n", l.Said)
			continue
		}
		fmt.Fprintf(table, "besides what the broker sends\t%s\n", orNothing(strings.Join(l.Needs, ", ")))
		fmt.Fprintf(table, "session policy\t%s\n", l.Policy)
		if l.PolicyBytes > 0 {
			fmt.Fprintf(table, "largest session policy\t%d bytes (of %d that were tried)\n", l.PolicyBytes, probe.MaxPolicyBytes)
		}
		if l.ShortestSeconds > 0 {
			fmt.Fprintf(table, "shortest life\t%d s asked for, %d s given\n", l.ShortestSeconds, l.LivesSeconds)
		}
	}
	fmt.Fprintln(table, "\nEXCHANGER\tUSE\tWHY")
	for _, a := range r.Advice {
		fmt.Fprintln(table, strings.Join([]string{a.Kind, a.Use, a.Why}, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	heading := "\nexchangers:\n"
	for _, a := range r.Advice {
		if a.Settings != "" {
			fmt.Fprintf(w, "%s  %s: %s\n", heading, a.Kind, a.Settings)
			heading = ""
		}
	}
	return nil
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
