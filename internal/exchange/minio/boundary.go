package minio

import "github.com/credbroker/credbroker/internal/policy"

// objectsOnly is the session policy of a grant that has none of its own. MinIO intersects it with the named policies, so it
// takes nothing away from what is done to objects and buckets. It takes away what MinIO lets every temporary credential
// do unless it is denied: make access keys for itself that never end (admin:CreateServiceAccount).
const objectsOnly = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::*"]}]}`

// boundary is the session policy to send for a grant. Only an exchanger that the configuration calls dangerous sends none:
// its credentials may administer MinIO.
func boundary(g policy.Grant, dangerous bool) string {
	if g.SessionPolicy == "" && !dangerous {
		return objectsOnly
	}
	return g.SessionPolicy
}
