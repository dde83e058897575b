package s3

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const copySource = "x-amz-copy-source"

// Headers by what they are for. Those with an action of their own are in headerNeeds.
var (
	everyHeader = []string{"content-type", "x-amz-expected-bucket-owner", "x-amz-request-payer"}
	conditional = []string{"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"}
	customerKey = []string{
		"x-amz-server-side-encryption-customer-algorithm", "x-amz-server-side-encryption-customer-key", "x-amz-server-side-encryption-customer-key-md5",
	}
	checksums = []string{
		"content-md5", "x-amz-sdk-checksum-algorithm", "x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-crc32", "x-amz-checksum-crc32c",
		"x-amz-checksum-crc64nvme", "x-amz-checksum-sha1", "x-amz-checksum-sha256",
	}
	framing      = []string{"content-encoding", "x-amz-decoded-content-length", "x-amz-trailer"}
	grants       = []string{"x-amz-acl", "x-amz-grant-full-control", "x-amz-grant-read", "x-amz-grant-read-acp", "x-amz-grant-write-acp"}
	objectItself = slices.Concat([]string{
		"cache-control", "content-disposition", "content-encoding", "content-language", "expires", "x-amz-storage-class", "x-amz-website-redirect-location",
		"x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id", "x-amz-server-side-encryption-context",
		"x-amz-server-side-encryption-bucket-key-enabled", "x-amz-tagging", "x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date",
		"x-amz-object-lock-legal-hold",
	}, customerKey, grants)
	copying = []string{
		copySource, "x-amz-copy-source-if-match", "x-amz-copy-source-if-none-match", "x-amz-copy-source-if-modified-since",
		"x-amz-copy-source-if-unmodified-since", "x-amz-copy-source-server-side-encryption-customer-algorithm",
		"x-amz-copy-source-server-side-encryption-customer-key", "x-amz-copy-source-server-side-encryption-customer-key-md5", "x-amz-source-expected-bucket-owner",
	}

	listHeaders       = []string{"x-amz-optional-object-attributes"}
	bodyHeaders       = checksums
	readHeaders       = slices.Concat([]string{"range", "x-amz-checksum-mode"}, conditional, customerKey)
	attributesHeaders = slices.Concat([]string{"x-amz-object-attributes", "x-amz-max-parts", "x-amz-part-number-marker"}, customerKey)
	writeHeaders      = slices.Concat(objectItself, checksums, framing, []string{"if-match", "if-none-match"})
	copyHeaders       = slices.Concat(objectItself, copying, []string{"x-amz-metadata-directive", "x-amz-tagging-directive", "x-amz-checksum-algorithm", "if-match", "if-none-match"})
	deleteHeaders     = []string{"if-match", bypassRetention}
	partHeaders       = slices.Concat(checksums, framing, customerKey)
	partCopyHeaders   = slices.Concat(copying, customerKey, []string{"x-amz-copy-source-range"})
	completeHeaders   = slices.Concat(checksums, customerKey, []string{"if-match", "if-none-match", "x-amz-mp-object-size"})
	aclHeaders        = slices.Concat(grants, bodyHeaders)
	retentionHeaders  = slices.Concat([]string{bypassRetention}, bodyHeaders)
)

const bypassRetention = "x-amz-bypass-governance-retention" //nolint:gosec // a header's name

// headerNeeds are actions that a header takes, whatever the operation.
var headerNeeds = map[string]string{ //nolint:gosec // names of headers and actions
	"x-amz-tagging":                       "s3:PutObjectTagging",
	"x-amz-acl":                           "s3:PutObjectAcl",
	"x-amz-grant-full-control":            "s3:PutObjectAcl",
	"x-amz-grant-read":                    "s3:PutObjectAcl",
	"x-amz-grant-read-acp":                "s3:PutObjectAcl",
	"x-amz-grant-write-acp":               "s3:PutObjectAcl",
	"x-amz-object-lock-mode":              "s3:PutObjectRetention",
	"x-amz-object-lock-retain-until-date": "s3:PutObjectRetention",
	"x-amz-object-lock-legal-hold":        "s3:PutObjectLegalHold",
	bypassRetention:                       "s3:BypassGovernanceRetention",
}

// header says whether the operation takes the header, and which action that header takes besides; empty for none.
func (k *kind) header(name string) (action string, ok bool) {
	if slices.Contains(everyHeader, name) || slices.Contains(k.headers, name) {
		return headerNeeds[name], true
	}
	suffix, isMeta := strings.CutPrefix(name, "x-amz-meta-")
	return "", isMeta && k.meta && suffix != "" && len(suffix) <= maxMetadataName
}

// parseHeaders gives every name in lower case and checks the values, which are signed as they are: whatever a signer or the store would
// normalise is refused.
func parseHeaders(in map[string]string) (map[string]string, error) {
	if len(in) > maxHeaders {
		return nil, invalid("%d headers, expected at most %d", len(in), maxHeaders)
	}
	out := make(map[string]string, len(in)+4)
	for name, value := range in {
		lower := strings.ToLower(name)
		switch {
		case !isToken(lower):
			return nil, invalid("%.64q is no name of a header", name)
		case !fixedValue(value):
			return nil, invalid("the header %.64q is empty, longer than %d bytes, or holds other spaces than single ones inside, or control characters", lower, maxValueBytes)
		}
		if _, twice := out[lower]; twice {
			return nil, invalid("the header %.64q is there twice", lower)
		}
		out[lower] = value
	}
	return out, nil
}

// isToken says whether s is a name of lower-case letters, digits and hyphens, or, as names of metadata may be, underscores and dots.
func isToken(s string) bool {
	if s == "" || len(s) > 2*maxMetadataName {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// fixedValue says whether a header's value stays what it is under every normalisation of spaces that signers make.
func fixedValue(s string) bool {
	if s == "" || len(s) > maxValueBytes || s[0] == ' ' || s[len(s)-1] == ' ' || strings.Contains(s, "  ") || !printable(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r != ' ' && unicode.IsSpace(r) })
}

// printable says whether s is UTF-8 without control characters.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
