package awsiam

import (
	"slices"
	"strings"
)

// endpoint is one host on which STS answers.
type endpoint struct {
	host, partition, region string
	// address is where a configured endpoint is dialled ("host:port"), and so may be private; empty for AWS's own hosts.
	address string
}

// Regions by partition (https://docs.aws.amazon.com/general/latest/gr/sts.html, of 2026-11). FIPS hosts exist where the name
// stands in fipsRegions; in the partition aws-us-gov the regular hosts are FIPS ones themselves.
var (
	regions = map[string][]string{
		"aws": {
			"af-south-1", "ap-east-1", "ap-east-2", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-south-2",
			"ap-southeast-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4", "ap-southeast-5", "ap-southeast-6", "ap-southeast-7",
			"ca-central-1", "ca-west-1", "eu-central-1", "eu-central-2", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-2",
			"eu-west-3", "il-central-1", "me-central-1", "me-south-1", "mx-central-1", "sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2",
		},
		"aws-cn":     {"cn-north-1", "cn-northwest-1"},
		"aws-us-gov": {"us-gov-east-1", "us-gov-west-1"},
	}
	fipsRegions = []string{"us-east-1", "us-east-2", "us-west-1", "us-west-2"}
	// suffixes are the DNS suffixes of a partition: of its IPv4 hosts, and of its dual-stack ones.
	suffixes = map[string][2]string{
		"aws":        {"amazonaws.com", "api.aws"},
		"aws-cn":     {"amazonaws.com.cn", "api.amazonwebservices.com.cn"},
		"aws-us-gov": {"amazonaws.com", "api.aws"},
	}
)

// awsEndpoints are AWS's own hosts, by name.
var awsEndpoints = func() map[string]*endpoint {
	table := map[string]*endpoint{}
	add := func(host, partition, region string) {
		table[host] = &endpoint{host: host, partition: partition, region: region}
	}
	for partition, names := range regions {
		for _, region := range names {
			for _, suffix := range suffixes[partition] {
				add("sts."+region+"."+suffix, partition, region)
				if slices.Contains(fipsRegions, region) {
					add("sts-fips."+region+"."+suffix, partition, region)
				}
			}
		}
	}
	add("sts.amazonaws.com", "aws", "us-east-1") // the global endpoint, whose signatures are of us-east-1
	return table
}()

// hostOf returns the host of "https://HOST" or "https://HOST/", and nothing else has one: no user, port, path, query or
// fragment, and no other spelling.
func hostOf(url string) (host string, ok bool) {
	host, ok = strings.CutPrefix(url, "https://")
	if !ok {
		return "", false
	}
	return strings.TrimSuffix(host, "/"), true
}
