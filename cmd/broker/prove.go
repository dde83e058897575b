package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker/prove"
)

// proofFlags say what to prove with. A kind of proof looks at those that it needs or takes, and no others.
type proofFlags struct {
	kind                                        string
	tokenFile, audience, awsServerID, awsRegion string
	certFile, keyFile                           string
}

// proofFlag is a flag that some kinds of proof have.
type proofFlag struct {
	name, env, usage string
	field            func(*proofFlags) *string
}

var (
	tokenFileFlag = &proofFlag{"token-file", "CREDBROKER_TOKEN_FILE", "file that holds the token; - reads it from standard input",
		func(f *proofFlags) *string { return &f.tokenFile }}
	audienceFlag = &proofFlag{"audience", "CREDBROKER_AUDIENCE", "the broker's audience, which the token is asked for: one that its configuration has for the issuer",
		func(f *proofFlags) *string { return &f.audience }}
	awsServerIDFlag = &proofFlag{"aws-server-id", "CREDBROKER_AWS_SERVER_ID", "with aws: the broker's aws.server_id, which is signed",
		func(f *proofFlags) *string { return &f.awsServerID }}
	certFileFlag = &proofFlag{"client-cert", "CREDBROKER_CLIENT_CERT", "with x509: PEM file of the client certificate, and of those between it and its root",
		func(f *proofFlags) *string { return &f.certFile }}
	keyFileFlag = &proofFlag{"client-key", "CREDBROKER_CLIENT_KEY", "with x509: PEM file of the certificate's private key",
		func(f *proofFlags) *string { return &f.keyFile }}
	awsRegionFlag = &proofFlag{"aws-region", "", "with aws and aws-token: the region of STS; as the AWS CLI finds it if not given, or else us-east-1",
		func(f *proofFlags) *string { return &f.awsRegion }}
)

func (p *proofFlag) register(c *cobra.Command, f *proofFlags) {
	if c.Flags().Lookup(p.name) != nil { // another kind has it too
		return
	}
	usage, value := p.usage, ""
	if p.env != "" {
		usage, value = usage+" [$"+p.env+"]", os.Getenv(p.env)
	}
	c.Flags().StringVar(p.field(f), p.name, value, usage)
}

// register adds --proof and the flags of all kinds.
func (f *proofFlags) register(c *cobra.Command) {
	names := append([]string{proofAuto}, kindNames()...)
	c.Flags().StringVar(&f.kind, "proof", cmp.Or(os.Getenv("CREDBROKER_PROOF"), proofAuto),
		"what to prove with: "+strings.Join(names, ", ")+"; auto finds what this machine has [$CREDBROKER_PROOF]")
	_ = c.RegisterFlagCompletionFunc("proof", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	for _, k := range proofKinds {
		k.register(c, f)
	}
}

func (k *proofKind) register(c *cobra.Command, f *proofFlags) {
	for _, flag := range slices.Concat(k.needs, k.takes) {
		flag.register(c, f)
	}
}

// check finds flags of --proof's kind that are needed and were not given.
func (f *proofFlags) check() (missing []string, err error) {
	if f.kind == proofAuto {
		return nil, nil
	}
	k := kindNamed(f.kind)
	if k == nil {
		return nil, fmt.Errorf("--proof is %.32q; expected auto, %s", f.kind, strings.Join(kindNames(), ", "))
	}
	return k.missing(f), nil
}

func (k *proofKind) missing(f *proofFlags) (flags []string) {
	for _, flag := range k.needs {
		if *flag.field(f) == "" {
			flags = append(flags, "--"+flag.name)
		}
	}
	return flags
}

// choose returns the kind that --proof says, and looks for one where it says auto. The flags were checked.
func (f *proofFlags) choose(c *cobra.Command) (*proofKind, error) {
	if f.kind != proofAuto {
		return kindNamed(f.kind), nil
	}
	k, why, err := here().find(c.Context(), f)
	if err != nil {
		return nil, &usageError{err, c.CommandPath()}
	}
	if why != "" {
		fmt.Fprintf(c.ErrOrStderr(), "broker: proving with %s: %s\n", k.name, why)
	}
	return k, nil
}

func (f *proofFlags) prover(c *cobra.Command) (prove.Prover, error) {
	k, err := f.choose(c)
	if err != nil {
		return nil, err
	}
	return k.prover(c, f)
}

// proveTimeout is as long as a client waits for its proof and the broker together.
const proveTimeout = 30 * time.Second

func newProveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "prove",
		Short: "Print a proof of the machine that this runs on",
		Long:  "Print a proof of the machine that this runs on, to look at or to send to a broker by other means. It is a secret while it lasts.",
		Args:  cobra.NoArgs,
		RunE:  help,
	}
	for _, k := range proofKinds {
		if k.short != "" {
			c.AddCommand(newProveKindCommand(&proofFlags{kind: k.name}, k.short, k))
		}
	}
	auto := newProveKindCommand(&proofFlags{kind: proofAuto}, "Find what this machine has, and print that", proofKinds...)
	auto.Long = autoHelp()
	c.AddCommand(auto)
	return c
}

// newProveKindCommand is the subcommand for f.kind, with the flags of some kinds.
func newProveKindCommand(f *proofFlags, short string, kinds ...*proofKind) *cobra.Command {
	c := &cobra.Command{Use: f.kind, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return f.print(c) }}
	for _, k := range kinds {
		k.register(c, f)
	}
	return c
}

func (f *proofFlags) print(c *cobra.Command) error {
	missing, err := f.check()
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &usageError{fmt.Errorf("needed and not given: %s", strings.Join(missing, ", ")), c.CommandPath()}
	}
	prover, err := f.prover(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), proveTimeout)
	defer cancel()
	proof, err := prover.Prove(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), proof.Reveal())
	return err
}
