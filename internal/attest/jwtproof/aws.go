package jwtproof

import (
	"errors"
	"fmt"
	"strings"

	"github.com/credbroker/credbroker/internal/attest"
)

// awsProfile is that of tokens that AWS STS gives a principal by GetWebIdentityToken
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound_token_claims.html). Each account has an issuer of
// its own. The identity's tenant is the account, its subject the ARN of the role or user.
var awsProfile = profile{
	kind:       attest.KindAWS,
	attributes: []string{"account", "arn", "source_region", "org_id"},
	identify:   identifyAWS,
}

// awsNamespace is the claim that holds those of AWS.
const awsNamespace = "https://sts.amazonaws.com/"

func identifyAWS(_ *Issuer, c *claims, id *attest.Identity) error {
	members, ok := object(c.all[awsNamespace])
	if !ok {
		return fmt.Errorf("%s is missing or no object", awsNamespace)
	}
	texts, err := requireTexts(members, "aws_account", "source_region")
	if err != nil {
		return err
	}
	account := texts[0]
	// arn:PARTITION:iam::ACCOUNT:role/NAME
	arn := strings.SplitN(c.subject, ":", 6)
	if len(arn) != 6 || arn[0] != "arn" || arn[2] != "iam" || arn[3] != "" || arn[4] != account ||
		len(account) != 12 || strings.Trim(account, "0123456789") != "" {
		return errors.New("sub is no ARN of IAM in the account that aws_account names")
	}
	if !strings.HasPrefix(arn[5], "role/") && !strings.HasPrefix(arn[5], "user/") {
		return errors.New("sub is neither a role nor a user")
	}
	id.Tenant = account
	id.Attrs["account"], id.Attrs["arn"], id.Attrs["source_region"] = []string{account}, []string{c.subject}, []string{texts[1]}
	if org, _ := decodeString(members["org_id"]); isText(org) {
		id.Attrs["org_id"] = []string{org}
	}
	return nil
}
