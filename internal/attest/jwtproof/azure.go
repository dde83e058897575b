package jwtproof

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/credbroker/credbroker/internal/attest"
)

// Azure narrows which service principals of a tenant are accepted.
type Azure struct {
	// ObjectIDs are those of service principals (`oid`); empty accepts any of the tenant.
	ObjectIDs []string
	// AppIDs are client IDs (`appid`, `azp`); empty accepts any of the tenant.
	AppIDs []string
}

// azureIssuers are the issuers of one tenant (https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference):
// version 1, which managed identities get as a rule, and version 2; of the public and the national clouds. A tenant is its ID,
// never "common".
var azureIssuers = regexp.MustCompile(
	`^https://(?:sts\.windows\.net|sts\.chinacloudapi\.cn|login\.microsoftonline\.(?:com|us)|login\.partner\.microsoftonline\.cn)/` +
		`([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(v2\.0)?$`)

// azureProfile is that of access tokens of Microsoft Entra for applications, managed identities among them. The identity's tenant is
// `tid`, its subject `oid`, the object ID of the service principal.
var azureProfile = profile{
	kind: attest.KindAzure,
	attributes: []string{
		"app_id", "object_id", "subscription_id", "resource_group", "resource_type", "resource_name",
	},
	lifetime: maxLifetime,
	normalize: func(c *Issuer) error {
		m := azureIssuers.FindStringSubmatch(c.Issuer)
		if m == nil || (m[2] == "") != strings.Contains(c.Issuer, "//sts.") {
			return fmt.Errorf("issuer: %q is neither https://sts.windows.net/TENANT-ID/ nor https://login.microsoftonline.com/TENANT-ID/v2.0, "+
				"nor one of a national cloud", c.Issuer)
		}
		return nil
	},
	identify: identifyAzure,
}

func identifyAzure(is *Issuer, c *claims, id *attest.Identity) error {
	m := azureIssuers.FindStringSubmatch(is.Issuer)
	app, version := "appid", "1.0"
	if m[2] != "" {
		app, version = "azp", "2.0"
	}
	texts, err := requireTexts(c.all, "tid", "oid", "ver", app)
	if err != nil {
		return err
	}
	switch {
	case texts[0] != m[1]:
		return errors.New("tid is not the tenant whose issuer it is")
	case texts[2] != version:
		return fmt.Errorf("ver is %q, expected %s of this issuer", excerpt(texts[2], 16), version)
	case c.all["scp"] != nil:
		return errors.New("scp: an app acts for a user with it")
	}
	if kind := c.all["idtyp"]; kind != nil {
		if s, _ := decodeString(kind); s != "app" {
			return errors.New("idtyp is not app")
		}
	}
	oid, appID := texts[1], texts[3]
	if !oneOf(is.Azure.ObjectIDs, oid) {
		return fmt.Errorf("oid %s is not among azure.object_ids", excerpt(oid, 64))
	}
	if !oneOf(is.Azure.AppIDs, appID) {
		return fmt.Errorf("%s %s is not among azure.app_ids", app, excerpt(appID, 64))
	}
	id.Tenant, id.Subject = texts[0], oid
	id.Attrs["object_id"], id.Attrs["app_id"] = []string{oid}, []string{appID}
	return azureResource(c, id)
}

// azureResource reads the resource that a managed identity belongs to. Without one there are no such attributes, and a role that asks
// for them says no.
func azureResource(c *claims, id *attest.Identity) error {
	claim := c.all["xms_mirid"]
	if claim == nil {
		return nil
	}
	// Names of resources are the same in any case.
	text, _ := decodeString(claim)
	parts := strings.Split(strings.ToLower(text), "/")
	// "", subscriptions, ID, resourcegroups, NAME, providers, NAMESPACE, TYPE, NAME; a part of something else has more.
	if len(parts) < 9 || len(parts)%2 != 1 || len(text) > 1024 || parts[0] != "" || parts[1] != "subscriptions" || parts[3] != "resourcegroups" || parts[5] != "providers" ||
		slices.ContainsFunc(parts[1:], func(p string) bool { return !azureName.MatchString(p) || p == "." || p == ".." }) {
		return errors.New("xms_mirid is not /subscriptions/ID/resourcegroups/NAME/providers/NAMESPACE/TYPE/NAME")
	}
	kind, name := []string{parts[6]}, []string{}
	for i := 7; i < len(parts); i += 2 {
		kind, name = append(kind, parts[i]), append(name, parts[i+1])
	}
	id.Attrs["subscription_id"], id.Attrs["resource_group"] = []string{parts[2]}, []string{parts[4]}
	id.Attrs["resource_type"], id.Attrs["resource_name"] = []string{strings.Join(kind, "/")}, []string{strings.Join(name, "/")}
	return nil
}

var azureName = regexp.MustCompile(`^[a-z0-9_.()-]{1,128}$`)
