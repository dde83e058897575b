package s3

import (
	"net/http"
	"slices"
	"strings"
)

type level int

const (
	service level = iota
	bucket
	object
)

func levelOf(in Input) level {
	switch {
	case in.Bucket == "":
		return service
	case in.Key == "":
		return bucket
	default:
		return object
	}
}

// kind is an operation of the S3 API. A request is of the one kind whose method, level and parameters it has.
type kind struct {
	name   string
	method string
	level  level
	// flags are sub-resources: parameters without a value that must be there. given must be there with a value, of which list-type is
	// always "2". params may be there.
	flags, given, params []string
	// copies says that x-amz-copy-source is there; for every other kind it must not be.
	copies bool
	// body says that a streamed payload is taken.
	streams bool
	// headers are those that the operation takes besides everyHeader; meta says that it takes x-amz-meta-*.
	headers []string
	meta    bool
	// needs are the actions that it takes, versioned those if it names a version as well.
	needs, versioned []string
}

var (
	listParams     = []string{"prefix", "delimiter", "max-keys", "encoding-type"}
	versionParam   = []string{"versionId"}
	responseParams = []string{
		"versionId", "partNumber", "response-cache-control", "response-content-disposition", "response-content-encoding", "response-content-language",
		"response-content-type", "response-expires",
	}
)

// kinds are all operations that are signed. https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
// and, for the actions, https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html. Where MinIO asks for another
// action than AWS does, AWS's is here: MinIO asks for its own by itself.
var kinds = []kind{
	{name: "ListBuckets", method: http.MethodGet, level: service, params: []string{"max-buckets", "continuation-token", "prefix", "bucket-region"}, needs: []string{"s3:ListAllMyBuckets"}},

	{name: "ListObjectsV2", method: http.MethodGet, level: bucket, given: []string{"list-type"}, params: slices.Concat(listParams, []string{"continuation-token", "fetch-owner", "start-after"}), headers: listHeaders, needs: []string{"s3:ListBucket"}},
	{name: "ListObjects", method: http.MethodGet, level: bucket, params: slices.Concat(listParams, []string{"marker"}), headers: listHeaders, needs: []string{"s3:ListBucket"}},
	{name: "ListObjectVersions", method: http.MethodGet, level: bucket, flags: []string{"versions"}, params: slices.Concat(listParams, []string{"key-marker", "version-id-marker"}), headers: listHeaders, needs: []string{"s3:ListBucketVersions"}},
	{name: "ListMultipartUploads", method: http.MethodGet, level: bucket, flags: []string{"uploads"}, params: []string{"prefix", "delimiter", "max-uploads", "encoding-type", "key-marker", "upload-id-marker"}, needs: []string{"s3:ListBucketMultipartUploads"}},
	{name: "HeadBucket", method: http.MethodHead, level: bucket, needs: []string{"s3:ListBucket"}},
	{name: "GetBucketLocation", method: http.MethodGet, level: bucket, flags: []string{"location"}, needs: []string{"s3:GetBucketLocation"}},
	{name: "GetBucketVersioning", method: http.MethodGet, level: bucket, flags: []string{"versioning"}, needs: []string{"s3:GetBucketVersioning"}},
	{name: "PutBucketVersioning", method: http.MethodPut, level: bucket, flags: []string{"versioning"}, headers: bodyHeaders, needs: []string{"s3:PutBucketVersioning"}},
	{name: "CreateBucket", method: http.MethodPut, level: bucket, headers: bodyHeaders, needs: []string{"s3:CreateBucket"}},
	{name: "DeleteBucket", method: http.MethodDelete, level: bucket, needs: []string{"s3:DeleteBucket"}},

	{name: "GetObject", method: http.MethodGet, level: object, params: responseParams, headers: readHeaders, needs: []string{"s3:GetObject"}, versioned: []string{"s3:GetObjectVersion"}},
	{name: "HeadObject", method: http.MethodHead, level: object, params: responseParams, headers: readHeaders, needs: []string{"s3:GetObject"}, versioned: []string{"s3:GetObjectVersion"}},
	{name: "GetObjectAttributes", method: http.MethodGet, level: object, flags: []string{"attributes"}, params: versionParam, headers: attributesHeaders, needs: []string{"s3:GetObject", "s3:GetObjectAttributes"}, versioned: []string{"s3:GetObjectVersion", "s3:GetObjectVersionAttributes"}},
	{name: "PutObject", method: http.MethodPut, level: object, streams: true, headers: writeHeaders, meta: true, needs: []string{"s3:PutObject"}},
	{name: "CopyObject", method: http.MethodPut, level: object, copies: true, headers: copyHeaders, meta: true, needs: []string{"s3:PutObject"}},
	{name: "DeleteObject", method: http.MethodDelete, level: object, params: versionParam, headers: deleteHeaders, needs: []string{"s3:DeleteObject"}, versioned: []string{"s3:DeleteObjectVersion"}},

	{name: "CreateMultipartUpload", method: http.MethodPost, level: object, flags: []string{"uploads"}, headers: writeHeaders, meta: true, needs: []string{"s3:PutObject"}},
	{name: "UploadPart", method: http.MethodPut, level: object, streams: true, given: []string{"partNumber", "uploadId"}, headers: partHeaders, needs: []string{"s3:PutObject"}},
	{name: "UploadPartCopy", method: http.MethodPut, level: object, copies: true, given: []string{"partNumber", "uploadId"}, headers: partCopyHeaders, needs: []string{"s3:PutObject"}},
	{name: "CompleteMultipartUpload", method: http.MethodPost, level: object, given: []string{"uploadId"}, headers: completeHeaders, needs: []string{"s3:PutObject"}},
	{name: "AbortMultipartUpload", method: http.MethodDelete, level: object, given: []string{"uploadId"}, needs: []string{"s3:AbortMultipartUpload"}},
	{name: "ListParts", method: http.MethodGet, level: object, given: []string{"uploadId"}, params: []string{"max-parts", "part-number-marker"}, headers: customerKey, needs: []string{"s3:ListMultipartUploadParts"}},

	{name: "GetObjectTagging", method: http.MethodGet, level: object, flags: []string{"tagging"}, params: versionParam, needs: []string{"s3:GetObjectTagging"}, versioned: []string{"s3:GetObjectVersionTagging"}},
	{name: "PutObjectTagging", method: http.MethodPut, level: object, flags: []string{"tagging"}, params: versionParam, headers: bodyHeaders, needs: []string{"s3:PutObjectTagging"}, versioned: []string{"s3:PutObjectVersionTagging"}},
	{name: "DeleteObjectTagging", method: http.MethodDelete, level: object, flags: []string{"tagging"}, params: versionParam, needs: []string{"s3:DeleteObjectTagging"}, versioned: []string{"s3:DeleteObjectVersionTagging"}},
	{name: "GetObjectAcl", method: http.MethodGet, level: object, flags: []string{"acl"}, params: versionParam, needs: []string{"s3:GetObjectAcl"}, versioned: []string{"s3:GetObjectVersionAcl"}},
	{name: "PutObjectAcl", method: http.MethodPut, level: object, flags: []string{"acl"}, params: versionParam, headers: aclHeaders, needs: []string{"s3:PutObjectAcl"}, versioned: []string{"s3:PutObjectVersionAcl"}},
	{name: "GetObjectRetention", method: http.MethodGet, level: object, flags: []string{"retention"}, params: versionParam, needs: []string{"s3:GetObjectRetention"}},
	{name: "PutObjectRetention", method: http.MethodPut, level: object, flags: []string{"retention"}, params: versionParam, headers: retentionHeaders, needs: []string{"s3:PutObjectRetention"}},
	{name: "GetObjectLegalHold", method: http.MethodGet, level: object, flags: []string{"legal-hold"}, params: versionParam, needs: []string{"s3:GetObjectLegalHold"}},
	{name: "PutObjectLegalHold", method: http.MethodPut, level: object, flags: []string{"legal-hold"}, params: versionParam, headers: bodyHeaders, needs: []string{"s3:PutObjectLegalHold"}},
}

// SDKs name the operation in a parameter that the store doesn't look at.
const sdkOperation = "x-id"

// find returns the one kind that the request is of.
func find(in Input, headers map[string]string) (*kind, error) {
	_, copies := headers[copySource]
	at := levelOf(in)
	for i := range kinds {
		k := &kinds[i]
		if k.method == in.Method && k.level == at && k.copies == copies && k.takes(in.Query) {
			return k, nil
		}
	}
	return nil, unsupported("no operation has this method, path and parameters; docs/signing.md lists those that there are")
}

func (k *kind) takes(query map[string]string) bool {
	for _, name := range k.flags {
		if v, ok := query[name]; !ok || v != "" {
			return false
		}
	}
	for _, name := range k.given {
		if v := query[name]; v == "" || name == "list-type" && v != "2" {
			return false
		}
	}
	for name := range query {
		if name != sdkOperation && !slices.Contains(k.flags, name) && !slices.Contains(k.given, name) && !slices.Contains(k.params, name) {
			return false
		}
	}
	return true
}

func checkQuery(query map[string]string) error {
	if len(query) > maxParameters {
		return invalid("%d parameters, expected at most %d", len(query), maxParameters)
	}
	for name, value := range query {
		// Control characters are in keys that can't be signed for either, and nowhere else.
		if len(value) > maxValueBytes || !printable(value) {
			return invalid("the parameter %.64q is longer than %d bytes, not UTF-8 or holds control characters", name, maxValueBytes)
		}
	}
	return nil
}

// checkPayload sees to it that what is signed of the body is what the store will take it for: chunked framing that is signed as the
// body itself would be stored in the object.
func (op *Operation) checkPayload(kind *kind) error {
	streamed := op.PayloadHash == StreamingTrailer
	switch hash := op.PayloadHash; {
	case strings.HasPrefix(hash, "STREAMING-AWS4-"):
		return unsupported("the body is signed chunk by chunk, which can't be signed by somebody else; have the client send its payload unsigned")
	case streamed && !kind.streams:
		return invalid("%s takes no streamed body", op.Name)
	case !streamed && hash != UnsignedPayload && !isHash(hash):
		return invalid("the payload hash is %.64q; expected 64 digits of lower-case hex, %s or %s", hash, UnsignedPayload, StreamingTrailer)
	}
	if streamed {
		return nil
	}
	_, length := op.Headers["x-amz-decoded-content-length"]
	_, trailer := op.Headers["x-amz-trailer"]
	if length || trailer || strings.Contains(strings.ToLower(op.Headers["content-encoding"]), "aws-chunked") {
		return invalid("the body is framed as aws-chunked, and the payload hash is not %s", StreamingTrailer)
	}
	return nil
}

func isHash(s string) bool {
	if len(s) != 64 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}
