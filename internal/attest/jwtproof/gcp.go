package jwtproof

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/credbroker/credbroker/internal/attest"
)

// GCP says whose tokens of Google are taken. Google signs tokens for everybody with an account there, so at least one list has to
// have an entry.
type GCP struct {
	// ProjectNumbers are projects whose instances are accepted, by their tokens with format=full.
	ProjectNumbers []string
	// ServiceAccounts are e-mail addresses of service accounts that are accepted wherever they run, on an instance of another
	// project too.
	ServiceAccounts []string
}

// googleIssuer is the one `iss` of Google's identity tokens that is accepted; "accounts.google.com", without a scheme, is an older one.
const googleIssuer = "https://accounts.google.com"

// gcpProfile is that of identity tokens that Google signs for service accounts
// (https://cloud.google.com/compute/docs/instances/verifying-instance-identity). The identity's subject is the service account's
// unique ID; its tenant the number of the instance's project, if it's an instance.
var gcpProfile = profile{
	kind: attest.KindGCP,
	attributes: []string{
		"service_account", "project_id", "project_number", "zone", "instance_id", "instance_name",
	},
	normalize: normalizeGCP,
	identify:  identifyGCP,
}

func normalizeGCP(c *Issuer) error {
	if c.Issuer != googleIssuer {
		return fmt.Errorf("issuer: is %q, expected %s", c.Issuer, googleIssuer)
	}
	if len(c.GCP.ProjectNumbers)+len(c.GCP.ServiceAccounts) == 0 {
		return errors.New("gcp: neither project_numbers nor service_accounts has an entry, and Google signs tokens for everybody")
	}
	return nil
}

func identifyGCP(is *Issuer, c *claims, id *attest.Identity) error {
	email, _ := decodeString(c.all["email"])
	if !c.emailVerified([]string{email}) {
		email = ""
	}
	listed := email != "" && slices.Contains(is.GCP.ServiceAccounts, email)
	if email != "" {
		id.Attrs["service_account"] = []string{email}
	}
	instance, err := gcpInstance(c.all["google"])
	if err != nil {
		return err
	}
	if instance == nil {
		if !listed {
			return errors.New("google.compute_engine is missing, and the account is not among gcp.service_accounts")
		}
		return nil
	}
	for name, value := range instance {
		id.Attrs[name] = []string{value}
	}
	id.Tenant = instance["project_number"]
	if !listed && !slices.Contains(is.GCP.ProjectNumbers, id.Tenant) {
		return fmt.Errorf("project %s is not among gcp.project_numbers", id.Tenant)
	}
	return nil
}

// gcpInstance reads what a token says of an instance; nil if it says nothing of one.
func gcpInstance(google jsontext.Value) (map[string]string, error) {
	if google == nil {
		return nil, nil
	}
	outer, ok := object(google)
	if !ok {
		return nil, errors.New("google is no object")
	}
	if outer["compute_engine"] == nil {
		return nil, nil
	}
	members, ok := object(outer["compute_engine"])
	if !ok {
		return nil, errors.New("google.compute_engine is no object")
	}
	names := []string{"project_id", "zone", "instance_id", "instance_name"}
	texts, err := requireTexts(members, names...)
	if err != nil {
		return nil, fmt.Errorf("google.compute_engine: %w", err)
	}
	number := string(members["project_number"])
	if members["project_number"].Kind() != '0' || strings.Trim(number, "0123456789") != "" {
		return nil, errors.New("google.compute_engine: project_number is missing or no whole number")
	}
	out := map[string]string{"project_number": number}
	for i, name := range names {
		out[name] = texts[i]
	}
	return out, nil
}

// gcpServiceAccountProfile is that of JWTs that a service account had signed by its key at Google (projects.serviceAccounts.signJwt).
// What is in them is the caller's choice but for the signature: they prove the account and nothing else. The issuer is the
// account's e-mail address, in the configuration first.
var gcpServiceAccountProfile = profile{
	kind:       attest.KindGCP,
	attributes: []string{"service_account"},
	lifetime:   maxSignedJWT,
	normalize: func(c *Issuer) error {
		if !serviceAccountEmail.MatchString(c.Issuer) {
			return fmt.Errorf("issuer: %q is no e-mail address of a service account", c.Issuer)
		}
		if c.MaxLifetime > maxSignedJWT {
			return fmt.Errorf("max_lifetime: is %s, expected at most %s for what a service account signs", c.MaxLifetime, maxSignedJWT)
		}
		return nil
	},
	identify: func(_ *Issuer, c *claims, id *attest.Identity) error {
		if c.subject != c.issuer {
			return errors.New("sub is not the service account that signed")
		}
		if c.all["google"] != nil {
			return errors.New("google: a service account can't vouch for an instance")
		}
		id.Attrs["service_account"] = []string{c.issuer}
		return nil
	},
}

const maxSignedJWT = 15 * time.Minute

var serviceAccountEmail = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}@[a-z0-9][a-z0-9.-]{0,200}\.gserviceaccount\.com$`)
