package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
)

const (
	eventIssue   = "issue_credentials"
	eventExplain = "explain_access"
	eventList    = "list_roles"
	eventRenew   = "renew_credentials"
	eventGateway = "open_gateway_session"
	eventWhoIs   = "who_is"
	eventSign    = "sign_request"
	eventPresign = "presign_url"
)

var errNoProof = fmt.Errorf("%w: no proof, or of a kind that isn't configured", attest.ErrMalformed)

// decision is an audit entry in the making.
type decision struct{ audit.Entry }

func (d *decision) granted(c exchange.Credentials, hit bool) {
	d.AccessKeyID, d.Expires, d.Result, d.Exchanger = c.AccessKeyID, c.Expires, "mint", c.Exchanger
	if hit {
		d.Result, d.Exchanger = "hit", ""
	}
}

// decide runs one decision and sees to it that it is audited, remembered and counted, whatever it comes to. What was
// allowed but not audited fails with audit.ErrUnavailable: the caller of decide must then hand out nothing.
func (b *Broker) decide(req Request, event string, work func(*Rulebook, *decision) error) error {
	select {
	case b.inFlight <- struct{}{}:
		defer func() { <-b.inFlight }()
	default:
		b.cfg.Observe(Outcome{Event: event, Decision: audit.Failed, Code: b.cfg.Code(ErrBusy)})
		if now := b.cfg.Now().Unix(); b.busyLogged.Swap(now) != now { // once a second: it comes in thousands
			b.cfg.Log.Warn("calls are refused: too many are in hand", "max_in_flight", b.cfg.MaxInFlight)
		}
		return ErrBusy
	}
	start := b.cfg.Now()
	book := b.book.Load()
	d := &decision{audit.Entry{
		Time:          start,
		Event:         event,
		RequestID:     req.Correlation.RequestID,
		KongRequestID: req.Correlation.KongRequestID,
		TraceParent:   req.Correlation.TraceParent,
		ProofKind:     req.Proof.Kind,
		RuleSet:       book.Rules.Version(),
	}}
	if req.Actor != nil {
		d.ActorProofKind = req.Actor.Kind
	}
	if req.Source.IsValid() {
		d.SourceAddress = req.Source.String()
	}
	if policy.ValidRoleName(req.Role) {
		d.Role = req.Role
	}

	err := guarded(work, book, d)
	d.Decision = outcome(err)
	if err != nil {
		d.Code = b.cfg.Code(err)
		d.AccessKeyID, d.Expires, d.Result, d.Exchanger = "", time.Time{}, "", ""
	}
	d.Latency = b.cfg.Now().Sub(start)

	// The caller's own context must not decide whether its decision is recorded.
	if auditErr := b.cfg.Audit.Record(context.Background(), d.Entry); auditErr != nil {
		b.cfg.Log.Error("audit entry not written", "request_id", d.RequestID, "decision", string(d.Decision), "error", auditErr)
		if err == nil {
			err = auditErr
			d.Decision, d.Code, d.Result = outcome(err), b.cfg.Code(err), ""
		}
	}
	b.recent.add(d.Entry, err)
	b.cfg.Observe(Outcome{Event: event, Decision: d.Decision, Code: d.Code, Result: d.Result, Latency: d.Latency})
	if err != nil {
		b.cfg.Log.LogAttrs(context.Background(), slog.LevelInfo, "refused",
			slog.String("event", event), slog.String("request_id", d.RequestID), slog.String("kong_request_id", d.KongRequestID),
			slog.String("traceparent", d.TraceParent), slog.String("decision", string(d.Decision)), slog.String("code", d.Code),
			slog.String("role", d.Role), slog.String("cause", clip(err.Error())))
	}
	return err
}

// guarded turns a panic into an error, so that what happened is audited like any other failure. The value's text isn't kept:
// it may quote a caller's input.
func guarded(work func(*Rulebook, *decision) error, book *Rulebook, d *decision) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic (%T):\n%s", p, debug.Stack())
		}
	}()
	return work(book, d)
}

// outcome sorts an error into the audit log's decisions.
func outcome(err error) audit.Decision {
	switch {
	case err == nil:
		return audit.Allowed
	case errors.Is(err, attest.ErrMalformed), errors.Is(err, attest.ErrRejected), errors.Is(err, policy.ErrDenied):
		return audit.Denied
	default:
		return audit.Failed
	}
}

// clip bounds what a cause, which may quote its input, takes in logs and memory.
func clip(s string) string {
	const most = 1024
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
