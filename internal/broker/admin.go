package broker

import (
	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy"
)

// Explained is an answer for operators. It holds what no caller may see.
type Explained struct {
	// Recorded is the decision that was asked about; nil if the question was about a given identity.
	Recorded *Recorded
	// Identity is nil if the proof of the recorded call did not pass; Explanation is then empty.
	Identity    *attest.Identity
	Role        string
	Explanation policy.Explanation
	// RuleSet is the version of the rules that Explanation is by.
	RuleSet string
}

// ExplainDecision explains a recent decision by the rules in force now. It returns ErrUnknownRequest for one that isn't
// remembered.
func (b *Broker) ExplainDecision(requestID string) (Explained, error) {
	rec, ok := b.recent.find(requestID)
	if !ok {
		return Explained{}, ErrUnknownRequest
	}
	rules := b.book.Load().Rules
	e := Explained{Recorded: &rec, Identity: rec.Identity, Role: rec.Role, RuleSet: rules.Version()}
	if rec.Identity != nil && rec.Role != "" {
		e.Explanation = rules.Explain(*rec.Identity, rec.Role)
	}
	return e, nil
}

// ExplainIdentity explains what the given identity would get.
func (b *Broker) ExplainIdentity(id attest.Identity, role string) Explained {
	rules := b.book.Load().Rules
	return Explained{Identity: &id, Role: role, Explanation: rules.Explain(id, role), RuleSet: rules.Version()}
}
