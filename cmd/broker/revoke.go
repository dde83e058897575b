package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/redis"
	"github.com/credbroker/credbroker/internal/revocation"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// newRevocations makes the list of what is revoked, which replicas share by Redis, if there is one.
func newRevocations(client *redis.Client, exchangers map[string]exchange.Exchanger, log *slog.Logger) *revocation.List {
	c := revocation.Config{Log: log, End: func(ctx context.Context, r revocation.Revocation) error {
		var failed []error
		for _, x := range exchangers {
			if x, ok := x.(exchange.Revoker); ok {
				failed = append(failed, x.Revoke(ctx, r))
			}
		}
		return errors.Join(failed...)
	}}
	if client != nil {
		c.Board = client.Revocations()
	}
	return revocation.New(c)
}

func newRevokeCommand(socket *string) *cobra.Command {
	var s revocation.Scope
	c := &cobra.Command{
		Use:   "revoke {--issuer ISSUER [--subject SUBJECT] | --role ROLE}",
		Short: "Hand out no more what was made until now for an identity, an issuer or a role",
		Long: `revoke sees to it that credentials which were made until now for a role, for all subjects of an issuer or for one of
them are handed out no more, by any replica, and ends the leases in Vault that stand behind them. Issuer and subject are
those of the audit log; whoever acts for somebody else counts as well.

It forbids nothing: whoever the rules allow gets new credentials at once. Change the rules first. What an object store's
own STS has given out works until it ends.

It exits with 1 if something of that is left: the output says what.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := s.Valid(); err != nil {
				return err
			}
			return onAdmin(c.Context(), *socket, func(ctx context.Context, admin brokerv1.AdminServiceClient) error {
				r, err := admin.Revoke(ctx, &brokerv1.RevokeRequest{Issuer: s.Issuer, Subject: s.Subject, Role: s.Role})
				if err != nil {
					return err
				}
				return printRevocation(c.OutOrStdout(), s, r)
			})
		},
	}
	c.Flags().StringVar(&s.Issuer, "issuer", "", "identity.issuer of the audit log")
	c.Flags().StringVar(&s.Subject, "subject", "", "identity.subject of the audit log; all of the issuer's if empty")
	c.Flags().StringVar(&s.Role, "role", "", "a role's name")
	return c
}

func printRevocation(w io.Writer, s revocation.Scope, r *brokerv1.RevokeResponse) error {
	what := fmt.Sprintf("of role %s", s.Role)
	switch {
	case s.Subject != "":
		what = fmt.Sprintf("for %q of %q", s.Subject, s.Issuer)
	case s.Issuer != "":
		what = fmt.Sprintf("for all of %q", s.Issuer)
	}
	fmt.Fprintf(w, "credentials %s from before %s are handed out no more\n", what, r.GetRevokedAt().AsTime().Format(time.RFC3339))
	var left []error
	for _, problem := range r.GetProblems() {
		left = append(left, errors.New(problem))
	}
	return errors.Join(left...)
}
