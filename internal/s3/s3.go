// Package s3 reads requests of the S3 API from untrusted parts, says what each of them is about, and signs it.
//
// [Parse] turns an [Input] into an [Operation]: one canonical value, whose Needs are what a policy must allow and whose parts are what
// [Signer] signs. Nothing is signed but what was parsed, and what isn't known is refused: operations, parameters of the query, headers.
// It decides nothing.
package s3

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Errors of [Parse] and of [Target.Endpoint]. They come as an [InputError], whose detail may be shown to whoever sent the request.
var (
	// ErrInvalid means that the request is none that S3 takes.
	ErrInvalid = errors.New("invalid S3 request")
	// ErrUnsupported means that it may be one, but none that is signed here.
	ErrUnsupported = errors.New("S3 request that is not signed here")
)

// InputError is a fault in what was to be signed.
type InputError struct {
	// Reason is ErrInvalid or ErrUnsupported.
	Reason error
	// Detail says what was wrong and what was expected. It repeats no more than 64 bytes of the input, quoted.
	Detail string
}

func (e *InputError) Error() string { return e.Reason.Error() + ": " + e.Detail }

// Unwrap makes errors.Is(err, Reason) hold.
func (e *InputError) Unwrap() error { return e.Reason }

func invalid(format string, args ...any) error {
	return &InputError{ErrInvalid, fmt.Sprintf(format, args...)}
}

func unsupported(format string, args ...any) error {
	return &InputError{ErrUnsupported, fmt.Sprintf(format, args...)}
}

// Bounds of a request. A key is bounded by S3 itself.
const (
	MaxKeyBytes     = 1024
	maxParameters   = 32
	maxHeaders      = 64
	maxValueBytes   = 8 << 10
	maxMetadataName = 128
)

// Input is a request as somebody describes it.
type Input struct {
	Method string
	// Bucket is empty for the list of buckets, Key for what concerns a bucket as a whole. Key is not escaped.
	Bucket, Key string
	// Query is the parameters, not escaped; a sub-resource such as "uploads" has an empty value.
	Query map[string]string
	// Headers are those to be signed besides the signature's own, by name in any case.
	Headers map[string]string
	// PayloadHash is what X-Amz-Content-Sha256 shall be: 64 digits of lower-case hex, UnsignedPayload, StreamingTrailer, or empty for
	// UnsignedPayload.
	PayloadHash string
}

// The payload hashes that are none.
const (
	UnsignedPayload  = "UNSIGNED-PAYLOAD"
	StreamingTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
)

// Operation is a request that was understood. Nobody changes one after Parse.
type Operation struct {
	// Name is the operation's in the S3 API ("GetObject").
	Name        string
	Method      string
	Bucket, Key string
	Query       map[string]string
	// Headers are by name in lower case.
	Headers     map[string]string
	PayloadHash string
	// Needs are all that must be allowed.
	Needs []Need
	// Values are what conditions of policies may ask about, by condition key ("s3:prefix"). A key of ConditionKeys that isn't in it
	// has no value; of other keys nothing is known.
	Values map[string]string
}

// Need is an action of IAM ("s3:GetObject") on a resource ("arn:aws:s3:::bucket/key", or "arn:aws:s3:::bucket/" for a bucket).
type Need struct{ Action, Resource string }

// ConditionKeys are the condition keys that a request itself decides.
var ConditionKeys = []string{
	"s3:prefix", "s3:delimiter", "s3:max-keys", "s3:versionid", "s3:x-amz-acl", "s3:x-amz-server-side-encryption", "s3:x-amz-storage-class",
	"s3:x-amz-metadata-directive",
}

const arnPrefix = "arn:aws:s3:::"

// Parse understands a request, or says what is wrong with it.
func Parse(in Input) (Operation, error) {
	if err := checkNames(in.Bucket, in.Key); err != nil {
		return Operation{}, err
	}
	headers, err := parseHeaders(in.Headers)
	if err != nil {
		return Operation{}, err
	}
	if err := checkQuery(in.Query); err != nil {
		return Operation{}, err
	}
	kind, err := find(in, headers)
	if err != nil {
		return Operation{}, err
	}
	op := Operation{
		Name: kind.name, Method: in.Method, Bucket: in.Bucket, Key: in.Key, Query: in.Query, Headers: headers, PayloadHash: in.PayloadHash,
	}
	if op.PayloadHash == "" {
		op.PayloadHash = UnsignedPayload
	}
	if err := op.checkPayload(kind); err != nil {
		return Operation{}, err
	}
	if err := op.addNeeds(kind); err != nil {
		return Operation{}, err
	}
	op.addValues()
	return op, nil
}

// Presignable says whether the operation can be signed in the query; the error is an InputError.
func (op *Operation) Presignable() error {
	if op.PayloadHash == StreamingTrailer {
		return invalid("a body that is streamed with a trailer can't go with a signature in the query")
	}
	return nil
}

func (op *Operation) resource() string { return arnPrefix + op.Bucket + "/" + op.Key }

// addNeeds says what the operation takes, its headers and its version included.
func (op *Operation) addNeeds(kind *kind) error {
	need := func(action string) { op.Needs = append(op.Needs, Need{action, op.resource()}) }
	for _, action := range kind.needs {
		need(action)
	}
	if _, versioned := op.Query["versionId"]; versioned {
		for _, action := range kind.versioned {
			need(action)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(op.Headers)) {
		action, known := kind.header(name)
		if !known {
			return invalid("the header %.64q does not belong to %s", name, op.Name)
		}
		if action != "" {
			need(action)
		}
	}
	if source, ok := op.Headers[copySource]; ok {
		bucket, key, version, err := parseCopySource(source)
		if err != nil {
			return err
		}
		op.Headers[copySource] = formatCopySource(bucket, key, version)
		resource := arnPrefix + bucket + "/" + key
		op.Needs = append(op.Needs, Need{"s3:GetObject", resource})
		if version != "" {
			op.Needs = append(op.Needs, Need{"s3:GetObjectVersion", resource})
		}
	}
	return nil
}

func (op *Operation) addValues() {
	op.Values = map[string]string{}
	for key, parameter := range map[string]string{"s3:prefix": "prefix", "s3:delimiter": "delimiter", "s3:max-keys": "max-keys", "s3:versionid": "versionId"} {
		if v, ok := op.Query[parameter]; ok {
			op.Values[key] = v
		}
	}
	for _, header := range []string{"x-amz-acl", "x-amz-server-side-encryption", "x-amz-storage-class", "x-amz-metadata-directive"} {
		if v, ok := op.Headers[header]; ok {
			op.Values["s3:"+header] = v
		}
	}
}
