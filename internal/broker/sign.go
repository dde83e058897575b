package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/policy/iam"
	"github.com/credbroker/credbroker/internal/s3"
)

// MaxSignatures is how many requests one call may have signed.
const MaxSignatures = 16

// SignRequest asks for signatures instead of credentials. Policy and TTL of its Request are not looked at.
type SignRequest struct {
	Request
	// Presign puts signatures into the query.
	Presign bool
	// Window is how long they shall be good: whole seconds, 1 s to s3.MaxWindow; zero for that.
	Window time.Duration
	// Items are 1 to MaxSignatures.
	Items []SignItem
}

// SignItem is one request to be signed.
type SignItem struct {
	s3.Input
	// Endpoint is one of the exchanger's; empty for its first. VirtualHost puts the bucket's name before the host.
	Endpoint    string
	VirtualHost bool
}

// SignedRequests is what Sign hands out. The secret key isn't part of it.
type SignedRequests struct {
	// Requests are in the order of the items.
	Requests    []s3.Signed
	AccessKeyID string
	// Expires is when the first of the signatures ends.
	Expires time.Time
	Role    string
}

// Sign signs S3 requests with credentials of a role, all of them or none. Each has to be allowed by the role's session policy or its
// operations. What is signed is what was looked at: see package s3.
//
// Its errors are those of Issue, and s3.ErrInvalid and s3.ErrUnsupported, which come as an s3.InputError to callers who may use the role.
func (b *Broker) Sign(ctx context.Context, req SignRequest) (SignedRequests, error) {
	var out SignedRequests
	event := eventSign
	if req.Presign {
		event = eventPresign
	}
	err := b.decide(req.Request, event, func(book *Rulebook, d *decision) error {
		if err := b.identify(ctx, book, req.Request, d); err != nil {
			return err
		}
		wanted, err := b.wanted(req)
		if err != nil {
			return err
		}
		grant, err := book.Rules.Resolve(*d.Identity, policy.Wanted{Role: req.Role, Signing: true, Now: b.cfg.Now()})
		if err != nil {
			return err
		}
		d.Rule = grant.Rule
		target, err := b.signsFor(grant)
		if err != nil {
			return err
		}
		for i, item := range req.Items {
			if wanted[i].Operation, err = s3.Parse(item.Input); err != nil {
				return err
			}
			d.Operations = append(d.Operations, auditable(wanted[i].Operation))
			if req.Presign {
				if err := wanted[i].Operation.Presignable(); err != nil {
					return err
				}
			}
			if wanted[i].Endpoint, err = target.Endpoint(item.Endpoint); err != nil {
				return err
			}
			wanted[i].Region = target.Region
		}
		for i := range wanted {
			if err := permitted(grant, &wanted[i].Operation); err != nil {
				return err
			}
		}
		creds, hit, err := b.credentials(ctx, d, grant, req.Request)
		if err != nil {
			return err
		}
		key := s3.Key{AccessKeyID: creds.AccessKeyID, SecretAccessKey: creds.SecretAccessKey, SessionToken: creds.SessionToken, Expires: creds.Expires}
		signed := make([]s3.Signed, len(wanted))
		for i, w := range wanted {
			if signed[i], err = b.signer.Sign(ctx, key, w); err != nil {
				return err
			}
		}
		d.granted(creds, hit)
		d.Expires = signed[0].Expires
		out = SignedRequests{Requests: signed, AccessKeyID: creds.AccessKeyID, Expires: d.Expires, Role: grant.Role}
		return nil
	})
	if err != nil {
		return SignedRequests{}, err
	}
	return out, nil
}

// signsFor is where the grant's credentials are good, whichever of its exchangers made them.
func (b *Broker) signsFor(grant policy.Grant) (s3.Target, error) {
	target := b.cfg.Exchangers[grant.Exchanger].S3
	switch fallback := b.cfg.Exchangers[grant.Fallback].S3; {
	case len(target.Endpoints) == 0:
		return s3.Target{}, fmt.Errorf("%w: exchanger %s has no endpoint to sign for", policy.ErrDenied, grant.Exchanger)
	case grant.Fallback != "" && (!slices.Equal(target.Endpoints, fallback.Endpoints) || target.Region != fallback.Region):
		return s3.Target{}, fmt.Errorf("%w: %s and its fall-back %s have different endpoints to sign for", policy.ErrDenied, grant.Exchanger, grant.Fallback)
	}
	return target, nil
}

// wanted is what the items share.
func (b *Broker) wanted(req SignRequest) ([]s3.Wanted, error) {
	window := req.Window
	if window == 0 {
		window = s3.MaxWindow
	}
	switch {
	case len(req.Items) == 0 || len(req.Items) > MaxSignatures:
		return nil, fmt.Errorf("%w: %d requests to sign, expected 1 to %d", ErrInvalidRequest, len(req.Items), MaxSignatures)
	case window < time.Second || window > s3.MaxWindow || window%time.Second != 0:
		return nil, fmt.Errorf("%w: signatures shall be good for %s, expected whole seconds, %s at most", ErrInvalidRequest, window, s3.MaxWindow)
	}
	wanted := make([]s3.Wanted, len(req.Items))
	for i, item := range req.Items {
		wanted[i] = s3.Wanted{VirtualHost: item.VirtualHost, Presign: req.Presign, Window: window}
	}
	return wanted, nil
}

func permitted(grant policy.Grant, op *s3.Operation) error {
	values := iam.Values{Known: s3.ConditionKeys, Of: op.Values}
	for _, need := range op.Needs {
		if !grant.Permits(need.Action, need.Resource, values) {
			return fmt.Errorf("%w: role %s doesn't allow %s on %q, which %s takes", policy.ErrDenied, grant.Role, need.Action, need.Resource, op.Name)
		}
	}
	return nil
}

func auditable(op s3.Operation) audit.Operation {
	return audit.Operation{Name: op.Name, Bucket: op.Bucket, Key: op.Key, Source: strings.TrimPrefix(op.Headers["x-amz-copy-source"], "/")}
}
