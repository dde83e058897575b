// Package credbroker gets short-lived S3 credentials from a credbroker and keeps them fresh.
//
// A [Client] shows the broker a proof of who the program is (package prove) and gets credentials of a role. For an S3 client,
// hand it a provider:
//
//	client, err := credbroker.New("https://broker.internal:8443", prove.TokenFile("/var/run/secrets/tokens/credbroker"))
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//
//	cfg.Credentials = client.AWS("reports")                           // an aws.Config of aws-sdk-go-v2
//	options.Creds = credentials.New(client.MinIO("reports"))          // minio.Options of minio-go v7
//
// # Renewal
//
// Providers of one client for the same role, policy and TTL share credentials, and one call to the broker gets them for all.
// Once the last quarter of their life has begun (a little earlier or later, so that a fleet doesn't move in step), the next
// request for them starts a renewal in the background and is served what is there, as is every request until the new ones
// come. While the broker is away, the last credentials are served until they end, and the broker is asked again with growing
// pauses, or when it said it may be. Credentials that have ended are never served: whoever asks then waits for new ones, for 15
// seconds at most, and gets an error that says why there are none. A program that asks for nothing causes no calls.
//
// A caller that gives up, by its context, leaves the call to the broker to go on for the others.
//
// # Endpoints
//
// The endpoint's scheme says which of the broker's listeners is meant; both answer alike.
//
//	https://host:8443    the HTTP API; passes most proxies and gateways, and may stand under a path
//	grpcs://host:9443    the gRPC API
//	http://  grpc://     the same without TLS: on loopback, or with [WithInsecurePlaintext]
//
// # Errors
//
// What the broker refuses is an [*Error] with a code of docs/errors.md and the ID to give to whoever runs the broker. What is no
// broker's answer wraps [ErrUnreachable]. A failing [prove.Prover]'s error is wrapped as it is.
package credbroker
