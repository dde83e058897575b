package config

import (
	"cmp"
	"strings"
)

// S3 says where an exchanger's credentials are good, for requests that the broker signs (docs/signing.md).
type S3 struct {
	// Endpoints are URLs without a path, at most 16, each once: signatures are for the first, or for another one that the caller asks for.
	// Default: the endpoint of a minio-* exchanger; without one nothing is signed.
	Endpoints []string `yaml:"endpoints"`
	// Region is what signatures are for. Default: the exchanger's region, or us-east-1.
	Region string `yaml:"region"`
}

// SignsFor are the endpoints and the region that the exchanger's credentials sign for.
func (e *Exchanger) SignsFor() (endpoints []string, region string) {
	endpoints, region = e.S3.Endpoints, cmp.Or(e.S3.Region, e.Region, "us-east-1")
	if len(endpoints) == 0 && strings.HasPrefix(e.Kind, "minio-") {
		endpoints = []string{e.Endpoint}
	}
	return endpoints, region
}

func (v *validator) s3(path string, e *Exchanger) {
	if e.S3.Region != "" {
		v.text(path+".region", e.S3.Region)
	}
	if !v.count(path+".endpoints", len(e.S3.Endpoints), 0, 16) {
		return
	}
	seen := map[string]string{}
	for n, endpoint := range e.S3.Endpoints {
		at := index(path+".endpoints", n)
		v.url(at, endpoint, e.InsecurePlaintext, noPath)
		v.unique(at, endpoint, seen)
	}
}
