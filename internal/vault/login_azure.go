package vault

import (
	"context"
	"fmt"
	"os"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// Azure logs in with an access token of Microsoft Entra (auth method azure) that a managed identity or a pod's workload identity gets,
// and with where the machine is in Azure (https://developer.hashicorp.com/vault/docs/auth/azure).
type Azure struct {
	Mount, Role string
	// Resource is what the token is for: the auth method's `resource`, such as https://management.azure.com/.
	Resource string
	// SubscriptionID, ResourceGroup and either VM, ScaleSet or ResourceID say where the machine is, for roles that are bound to that;
	// none of them otherwise.
	SubscriptionID, ResourceGroup, VM, ScaleSet, ResourceID string
}

func (l Azure) login(ctx context.Context, c *Client) (*session, error) {
	credential, err := azureCredential()
	if err != nil {
		return nil, fmt.Errorf("azure identity: %w", err)
	}
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{l.Resource + "/.default"}})
	if err != nil {
		return nil, fmt.Errorf("token of Entra: %w", err)
	}
	fields := map[string]any{"role": l.Role, "jwt": token.Token}
	for name, value := range map[string]string{
		"subscription_id": l.SubscriptionID, "resource_group_name": l.ResourceGroup, "vm_name": l.VM, "vmss_name": l.ScaleSet, "resource_id": l.ResourceID,
	} {
		if value != "" {
			fields[name] = value
		}
	}
	return c.logIn(ctx, l.Mount, "login", fields)
}

// azureCredential is a pod's workload identity where there is one: the managed identity is its node's then. AZURE_CLIENT_ID says which
// of several managed identities.
func azureCredential() (azcore.TokenCredential, error) {
	if os.Getenv("AZURE_FEDERATED_TOKEN_FILE") != "" {
		// The cluster says which authority it is federated with: nobody else has to be asked about that.
		return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{DisableInstanceDiscovery: true})
	}
	var options azidentity.ManagedIdentityCredentialOptions
	if id := os.Getenv("AZURE_CLIENT_ID"); id != "" {
		options.ID = azidentity.ClientID(id)
	}
	return azidentity.NewManagedIdentityCredential(&options)
}
