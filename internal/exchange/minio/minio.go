// Package minio exchanges at a MinIO server, by each way of its STS that a grant can go: AssumeRoleWithWebIdentity with a token,
// AssumeRole with the key of a parent user, AssumeRoleWithCertificate with a client certificate.
package minio

import "time"

const (
	// sessionPolicyBytes is the largest `Policy` that MinIO takes, in bytes of compact JSON.
	sessionPolicyBytes = 2048
	// minDuration and maxTTL bound the life that MinIO gives (DurationSeconds).
	minDuration = 15 * time.Minute
	maxTTL      = 365 * 24 * time.Hour
)

// Server is the MinIO that an exchanger asks.
type Server struct {
	// Endpoint is MinIO's S3 URL, without a path.
	Endpoint string
	// CAFile is a PEM file of the roots to trust for Endpoint; the system's if empty.
	CAFile string
	// Timeout bounds one exchange with its retries.
	Timeout time.Duration
	// Observe is told of each exchange: ok, unavailable, refused, unsafe, bad_result, failed. Optional.
	Observe func(outcome string, took time.Duration)
}
