package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker/prove"
)

// Values of --proof.
const (
	proofFile = "file"
	proofAWS  = "aws"
)

// awsFlags say how to prove with AWS credentials.
type awsFlags struct{ serverID, region string }

func (f *awsFlags) register(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.serverID, "aws-server-id", os.Getenv("CREDBROKER_AWS_SERVER_ID"), "with aws: the broker's aws.server_id, which is signed [$CREDBROKER_AWS_SERVER_ID]")
	flags.StringVar(&f.region, "aws-region", "", "with aws: the region of STS; as the AWS CLI finds it if not given, or else us-east-1")
}

// prover finds the credentials as the AWS CLI does: environment, files, and what an instance, a task or a pod is given.
func (f *awsFlags) prover(ctx context.Context) (prove.Prover, error) {
	if f.serverID == "" {
		return nil, errors.New("--aws-server-id is needed")
	}
	options := []func(*config.LoadOptions) error{config.WithDefaultRegion("us-east-1")}
	if f.region != "" {
		options = append(options, config.WithRegion(f.region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("AWS credentials: %w", err)
	}
	return prove.AWS(cfg.Credentials, cfg.Region, f.serverID), nil
}

func newProveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "prove",
		Short: "Print a proof of the machine that this runs on",
		Long:  "Print a proof of the machine that this runs on, to look at or to send to a broker by other means. It is a secret while it lasts.",
		Args:  cobra.NoArgs,
		RunE:  help,
	}
	var f awsFlags
	aws := &cobra.Command{
		Use:   "aws",
		Short: "Sign a GetCallerIdentity request with this machine's AWS credentials",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.serverID == "" {
				return &usageError{errors.New("needed and not given: --aws-server-id"), c.CommandPath()}
			}
			prover, err := f.prover(c.Context())
			if err != nil {
				return err
			}
			proof, err := prover.Prove(c.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), proof.Reveal())
			return err
		},
	}
	f.register(aws)
	c.AddCommand(aws)
	return c
}
