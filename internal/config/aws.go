package config

import (
	"maps"
	"net"
	"regexp"
	"slices"
	"time"
)

// AWS says which signed GetCallerIdentity requests of AWS STS are taken as proof.
type AWS struct {
	// ServerID is what callers sign besides their request, so that their proof is good for this broker alone: at most 255
	// bytes of printable ASCII without spaces. The broker's own URL is a good one. Required with accounts.
	ServerID string `yaml:"server_id"`
	// Accounts are the AWS accounts, of 12 digits, whose users and roles can prove themselves; at most 1024. Default none, and
	// so no proof of the kind is taken.
	Accounts []string `yaml:"accounts"`
	// Skew is how far ahead a caller's clock may be: 1s to 60s. For so long after a start no proofs are taken, or, where replicas are
	// many, after a start of Redis: they could have been used before. Default 30s.
	Skew time.Duration `yaml:"skew"`
	// Endpoints are hosts of STS that aren't AWS's own names, such as VPC endpoints, by name (^[a-z0-9][a-z0-9_-]{0,62}$); at
	// most 64. Default none.
	Endpoints map[string]AWSEndpoint `yaml:"endpoints"`
	// CAFile holds the only roots to trust for STS, PEM. Default: the system's.
	CAFile string `yaml:"ca_file"`
}

// AWSEndpoint is a host of STS.
type AWSEndpoint struct {
	// Host is the DNS name that callers sign, in lower case and without a port; unique. Required.
	Host string `yaml:"host"`
	// Partition is aws, aws-cn or aws-us-gov. Default aws.
	Partition string `yaml:"partition"`
	// Region is the one that callers sign, such as eu-west-1. Required.
	Region string `yaml:"region"`
	// Address is where to connect, host:port; it may be private. Default: Host and port 443.
	Address string `yaml:"address"`
}

func (e *AWSEndpoint) setDefaults() { e.Partition = "aws" }

// Enabled reports whether AWS proofs are taken.
func (a *AWS) Enabled() bool { return len(a.Accounts) > 0 }

var (
	awsServerID = regexp.MustCompile(`^[!-~]{1,255}$`)
	awsAccount  = regexp.MustCompile(`^[0-9]{12}$`)
	awsRegion   = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$`)
	awsHost     = regexp.MustCompile(`^[a-z0-9.-]{1,253}$`)
)

func (v *validator) aws() {
	a := &v.AWS
	if _, written := v.origins["aws"]; written && !a.Enabled() {
		v.fault("aws.accounts", "it has no entry; expected the accounts whose users and roles can prove themselves, or no aws at all")
	}
	if !a.Enabled() {
		return
	}
	if a.ServerID == "" {
		v.required("aws.server_id", a.ServerID)
	} else if !awsServerID.MatchString(a.ServerID) {
		v.fault("aws.server_id", "%.64q; expected at most 255 bytes of printable ASCII without spaces", a.ServerID)
	}
	if v.count("aws.accounts", len(a.Accounts), 1, 1024) {
		seen := map[string]string{}
		for n, account := range a.Accounts {
			if !awsAccount.MatchString(account) {
				v.fault(index("aws.accounts", n), "%.64q; expected 12 digits, in quotes", account)
			}
			v.unique(index("aws.accounts", n), account, seen)
		}
	}
	v.duration("aws.skew", a.Skew, time.Second, time.Minute)
	if !v.count("aws.endpoints", len(a.Endpoints), 0, 64) {
		return
	}
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(a.Endpoints)) {
		e, path := a.Endpoints[name], join("aws.endpoints", name)
		if !entryName.MatchString(name) {
			v.fault(path, "%.64q; expected a name that matches %s", name, entryName)
		}
		if !awsHost.MatchString(e.Host) || !hostName.MatchString(e.Host) {
			v.fault(path+".host", "%.64q; expected a DNS name in lower case, without a port", e.Host)
		}
		v.unique(path+".host", e.Host, seen)
		v.oneOf(path+".partition", e.Partition, "aws", "aws-cn", "aws-us-gov")
		if !awsRegion.MatchString(e.Region) {
			v.fault(path+".region", "%.64q; expected a region such as eu-west-1", e.Region)
		}
		if e.Address == "" {
			continue
		}
		if host, port, err := net.SplitHostPort(e.Address); err != nil || !validHost(host) || !validPort(port) || port == "0" {
			v.fault(path+".address", `%.64q; expected "host:port"`, e.Address)
		}
	}
}
