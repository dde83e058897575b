package prove

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"cloud.google.com/go/compute/metadata"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// GCP proves with the identity token that the metadata server of Google Cloud gives an instance, signed by Google for the broker's
// audience (one of the issuer's audiences in its configuration) and with what Google knows of the instance (format=full). It is that of
// the default service account; elsewhere than on Compute Engine, such as in Cloud Run, it tells of the account alone.
//
// The metadata server is asked for each proof, at GCE_METADATA_HOST or 169.254.169.254; it keeps tokens itself and they last an hour
// at most. Prove returns its errors, which are those of cloud.google.com/go/compute/metadata, and fails without an audience.
func GCP(audience string) Prover {
	return platformToken("GCP", audience, func(ctx context.Context) (string, error) {
		return metadata.GetWithContext(ctx, "instance/service-accounts/default/identity?audience="+url.QueryEscape(audience)+"&format=full")
	})
}

// Azure proves with the access token that Microsoft Entra gives a managed identity, or another service principal, for the broker:
// audience is the Application ID URI or the client ID of the app registration that stands for it in the tenant. The credential is one of
// azidentity, such as ManagedIdentityCredential or, in AKS, WorkloadIdentityCredential; those keep tokens, which last 24 hours, and
// renew them in time. A user's is of no use: the broker takes applications' alone.
//
// Prove returns the credential's errors, and fails without a credential or an audience.
func Azure(credential azcore.TokenCredential, audience string) Prover {
	return platformToken("Azure", audience, func(ctx context.Context) (string, error) {
		if credential == nil {
			return "", errors.New("a credential is needed")
		}
		token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{audience + "/.default"}})
		return token.Token, err
	})
}

// SPIFFE proves with the JWT-SVID that a Workload API gives the workload for the broker's audience (one of the trust domain's audiences in
// its configuration); if it has several identities, the default one's. The address is unix:///PATH or tcp://IP:PORT; empty means
// that in SPIFFE_ENDPOINT_SOCKET.
//
// The Workload API is asked for each proof, on a connection of its own; SPIRE's agent keeps JWT-SVIDs itself. Prove returns go-spiffe's
// errors, those of gRPC among them, and fails without an audience.
func SPIFFE(address, audience string) Prover {
	return platformToken("SPIFFE", audience, func(ctx context.Context) (string, error) {
		var options []workloadapi.ClientOption
		if address != "" {
			options = append(options, workloadapi.WithAddr(address))
		}
		svid, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience}, options...)
		if err != nil {
			return "", err
		}
		return svid.Marshal(), nil
	})
}

// AWSToken proves with a token that AWS STS signs for whoever has AWS credentials, for the broker's audience (one of the issuer's
// audiences in its configuration). The account needs outbound identity federation turned on, and the caller the permission
// sts:GetWebIdentityToken; [AWS] needs neither. The client is for a region: the global endpoint of STS doesn't do it.
//
// STS is asked for each proof (GetWebIdentityToken): a token lasts five minutes, and a broker may take it once. Prove returns STS's
// errors, and fails without a client or an audience.
func AWSToken(client *sts.Client, audience string) Prover {
	return platformToken("AWS", audience, func(ctx context.Context) (string, error) {
		if client == nil {
			return "", errors.New("a client of STS is needed")
		}
		got, err := client.GetWebIdentityToken(ctx, &sts.GetWebIdentityTokenInput{Audience: []string{audience}, SigningAlgorithm: aws.String("RS256")})
		if err != nil {
			return "", err
		}
		return aws.ToString(got.WebIdentityToken), nil
	})
}

// platformToken proves with tokens of a platform, which are for an audience. It keeps none: all but AWS do so themselves, and know best
// when to replace one.
func platformToken(platform, audience string, get func(context.Context) (string, error)) Prover {
	return proverFunc(func(ctx context.Context) (Proof, error) {
		if audience == "" {
			return Proof{}, fmt.Errorf("%s proof: the broker's audience is needed", platform)
		}
		token, err := get(ctx)
		if err != nil {
			return Proof{}, fmt.Errorf("%s proof: %w", platform, err)
		}
		proof, err := tokenProof(token)
		if err != nil {
			return Proof{}, fmt.Errorf("%s proof: the token %w", platform, err)
		}
		return proof, nil
	})
}
