package s3

import (
	"net/url"
	"regexp"
	"strings"
)

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

func checkNames(bucket, key string) error {
	switch {
	case bucket == "" && key == "":
		return nil
	case !bucketName.MatchString(bucket) || strings.Contains(bucket, ".."):
		return invalid("%.64q is no name of a bucket: 3 to 63 of a-z 0-9 . -, a letter or digit at both ends", bucket)
	case key == "":
		return nil
	}
	return checkKey(key)
}

// checkKey refuses keys that something on the way could take for another one. MinIO refuses most of them itself.
func checkKey(key string) error {
	if len(key) > MaxKeyBytes || !printable(key) {
		return invalid("the key is longer than %d bytes, not UTF-8 or holds control characters", MaxKeyBytes)
	}
	segments := strings.Split(key, "/")
	for i, s := range segments {
		last := i > 0 && i == len(segments)-1 // a slash at the end is part of the name
		if s == "" && !last || s == "." || s == ".." {
			return invalid("the key has an empty segment, or one that is . or ..")
		}
	}
	return nil
}

// escape escapes all but A-Z a-z 0-9 - . _ ~ and what keep holds, as SigV4's UriEncode does.
func escape(s, keep string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// parseCopySource reads the header of that name: "bucket/key", escaped, perhaps with a slash before it and "?versionId=" behind.
func parseCopySource(s string) (bucket, key, version string, err error) {
	path, query, versioned := strings.Cut(s, "?")
	if versioned {
		var isVersion bool
		if version, isVersion = strings.CutPrefix(query, "versionId="); !isVersion || version == "" || strings.Trim(version, versionLetters) != "" {
			return "", "", "", invalid("x-amz-copy-source has a query that is not one versionId")
		}
	}
	path, unescapeErr := url.PathUnescape(path)
	bucket, key, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if unescapeErr != nil || bucket == "" || key == "" || checkNames(bucket, key) != nil {
		return "", "", "", invalid("x-amz-copy-source is not an escaped bucket, slash and key, or the key is one that is not signed for")
	}
	return bucket, key, version, nil
}

const versionLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

func formatCopySource(bucket, key, version string) string {
	s := "/" + bucket + "/" + escape(key, "/")
	if version != "" {
		s += "?versionId=" + version
	}
	return s
}
