package broker

import (
	"context"
	"errors"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/revocation"
)

const eventRevoke = "revoke"

// Revoke sees to it that what was made for a scope until now is handed out no more, and has it audited with who asked for it. Unlike what
// hands something out, it is done also if it can't be audited.
//
// Its errors are those of revocation.List.Revoke, and audit.ErrUnavailable. The revocation is zero if nothing was revoked.
func (b *Broker) Revoke(ctx context.Context, s revocation.Scope, requestID, by string) (revocation.Revocation, error) {
	start := b.cfg.Now()
	r, err := b.cfg.Revoked.Revoke(ctx, s)
	entry := audit.Entry{
		Time: start, Event: eventRevoke, Decision: audit.Allowed, RequestID: requestID, RuleSet: b.book.Load().Rules.Version(),
		SourceAddress: by, Latency: b.cfg.Now().Sub(start),
	}
	if s.Issuer != "" {
		entry.Identity = &attest.Identity{Issuer: s.Issuer, Subject: s.Subject}
	}
	if policy.ValidRoleName(s.Role) {
		entry.Role = s.Role
	}
	if err != nil {
		entry.Decision, entry.Code = audit.Failed, b.cfg.Code(err)
	}
	if auditErr := b.cfg.Audit.Record(context.WithoutCancel(ctx), entry); auditErr != nil {
		err = errors.Join(err, auditErr)
	}
	b.cfg.Observe(Outcome{Event: eventRevoke, Decision: entry.Decision, Code: entry.Code, Latency: entry.Latency})
	return r, err
}
