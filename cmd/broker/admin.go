package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

func newAdminCommand() *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use:     "admin",
		GroupID: "run",
		Short:   "Ask a running broker: why a decision came out as it did, how it is, to reload, or to revoke",
		Args:    cobra.NoArgs,
		RunE:    help,
	}
	c.PersistentFlags().StringVar(&socket, "socket", "/run/credbroker/admin.sock", "the broker's admin socket")
	c.AddCommand(
		newRevokeCommand(&socket),
		&cobra.Command{
			Use:   "explain REQUEST-ID",
			Short: "Say why a recent request got the answer it got",
			Args:  cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return onAdmin(c.Context(), socket, func(ctx context.Context, admin brokerv1.AdminServiceClient) error {
					resp, err := admin.Explain(ctx, &brokerv1.ExplainRequest{Question: &brokerv1.ExplainRequest_RequestId{RequestId: args[0]}})
					if err != nil {
						return err
					}
					printExplanation(c.OutOrStdout(), resp)
					return nil
				})
			},
		},
		&cobra.Command{
			Use:   "status",
			Short: "Say what the broker has loaded and what is wrong with its surroundings",
			Args:  cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				return onAdmin(c.Context(), socket, func(ctx context.Context, admin brokerv1.AdminServiceClient) error {
					s, err := admin.GetStatus(ctx, &brokerv1.GetStatusRequest{})
					if err != nil {
						return err
					}
					printStatus(c.OutOrStdout(), s)
					return nil
				})
			},
		},
		&cobra.Command{
			Use:   "reload",
			Short: "Read the configuration again, as SIGHUP does",
			Args:  cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				return onAdmin(c.Context(), socket, func(ctx context.Context, admin brokerv1.AdminServiceClient) error {
					r, err := admin.ReloadRules(ctx, &brokerv1.ReloadRulesRequest{})
					if err != nil {
						return err
					}
					for _, setting := range r.GetNeedsRestart() {
						fmt.Fprintf(c.OutOrStdout(), "changed, but takes effect at a restart only: %s\n", setting)
					}
					if faults := r.GetFaults(); len(faults) > 0 {
						return fmt.Errorf("the configuration was refused, rule set %s stays in force:\n%s", r.GetRuleSet(), strings.Join(faults, "\n"))
					}
					fmt.Fprintf(c.OutOrStdout(), "rule set %s is in force\n", r.GetRuleSet())
					return nil
				})
			},
		},
	)
	return c
}

func onAdmin(ctx context.Context, socket string, do func(context.Context, brokerv1.AdminServiceClient) error) error {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing more to do with it
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := do(ctx, brokerv1.NewAdminServiceClient(conn)); err != nil {
		if s, ok := status.FromError(err); ok {
			return errors.New(s.Message())
		}
		return err
	}
	return nil
}

func printExplanation(out io.Writer, e *brokerv1.ExplainResponse) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush() //nolint:errcheck // a terminal
	if r := e.GetRecorded(); r != nil {
		fmt.Fprintf(w, "decided\t%s\t%s %s\n", r.GetTime().AsTime().Format(time.RFC3339), r.GetDecision(), r.GetCode())
		if r.GetCause() != "" {
			fmt.Fprintf(w, "cause\t%q\n", r.GetCause())
		}
	}
	if id := e.GetIdentity(); id != nil {
		fmt.Fprintf(w, "identity\t%s %q of %q\n", id.GetKind(), id.GetSubject(), id.GetIssuer())
		for name, values := range id.GetAttributes() {
			fmt.Fprintf(w, "  %s\t%q\n", name, values.GetValues())
		}
	}
	fmt.Fprintf(w, "role\t%q\n", e.GetRole())
	if e.GetRule() != "" {
		fmt.Fprintf(w, "rule\t%s\n", e.GetRule())
	}
	if e.GetIdentity() != nil {
		fmt.Fprintf(w, "allowed by the rules in force now\t%v\n", e.GetAllowed())
	}
	for _, f := range e.GetFindings() {
		mark := "no"
		if f.GetPassed() {
			mark = "yes"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", mark, f.GetCheck(), f.GetDetail())
	}
	if len(e.GetPolicies()) > 0 {
		fmt.Fprintf(w, "policies\t%s\n", strings.Join(e.GetPolicies(), ", "))
	}
	if e.GetSessionPolicy() != "" {
		fmt.Fprintf(w, "session policy\t%s\n", e.GetSessionPolicy())
	}
	fmt.Fprintf(w, "rule set\t%s\n", e.GetRuleSet())
}

func printStatus(out io.Writer, s *brokerv1.GetStatusResponse) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush() //nolint:errcheck // a terminal
	fmt.Fprintf(w, "version\t%s\n", s.GetVersion())
	fmt.Fprintf(w, "running since\t%s\n", s.GetStartedAt().AsTime().Format(time.RFC3339))
	fmt.Fprintf(w, "ready\t%v\n", s.GetReady())
	for _, reason := range s.GetReasons() {
		fmt.Fprintf(w, "\t- %s\n", reason)
	}
	fmt.Fprintf(w, "rule set\t%s (%d roles, loaded %s)\n", s.GetRuleSet(), s.GetRoles(), s.GetRulesLoadedAt().AsTime().Format(time.RFC3339))
	fmt.Fprintf(w, "signing keys\t%s\n", strings.Join(s.GetKeyIds(), ", "))
	fmt.Fprintf(w, "cache\t%d entries, %d bytes\n", s.GetCacheEntries(), s.GetCacheBytes())
	fmt.Fprintf(w, "revoked\t%d roles, issuers and subjects\n", s.GetRevocations())
}
