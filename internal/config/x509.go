package config

import "strings"

// X509 is an authority whose client certificates are taken as proof, on the listeners grpc and http if they speak TLS. Exactly one of
// CAFile, BundleFile and WorkloadAPI says which its roots are.
type X509 struct {
	// Name is ^[a-z0-9][a-z0-9_-]{0,62}$ and unique; the identities' issuer, but for a trust domain's. Required.
	Name string `yaml:"name"`
	// TrustDomain is the SPIFFE trust domain whose X.509-SVIDs these are; unique. Default none: certificates without SPIFFE IDs.
	TrustDomain string `yaml:"trust_domain"`
	// Subject is the type of the subject alternative name that is the identity's subject, of which a certificate has exactly one: dns, uri
	// or email. Default dns. Not for a trust domain.
	Subject string `yaml:"subject"`
	// CAFile holds the roots, in PEM.
	CAFile string `yaml:"ca_file"`
	// BundleFile holds a trust domain's bundle, in SPIFFE's JSON form.
	BundleFile string `yaml:"bundle_file"`
	// WorkloadAPI is the address of a SPIFFE Workload API that gives the trust domain's bundle: unix:///path or tcp://IP:port.
	WorkloadAPI string `yaml:"workload_api"`
	// CRLFile holds certificate revocation lists, in PEM. With it, each certificate below a root needs a current one of its issuer.
	// Default none: nothing is revoked.
	CRLFile string `yaml:"crl_file"`
}

func (x *X509) setDefaults() { x.Subject = "dns" }

func (v *validator) x509() {
	if !v.count("x509", len(v.X509), 0, 64) {
		return
	}
	names, domains := map[string]string{}, map[string]string{}
	for n, x := range v.X509 {
		path := index("x509", n)
		v.name(path+".name", x.Name)
		v.unique(path+".name", x.Name, names)
		v.oneOf(path+".subject", x.Subject, "dns", "uri", "email")
		v.unique(path+".trust_domain", x.TrustDomain, domains)
		if x.TrustDomain != "" && !trustDomainID.MatchString("spiffe://"+x.TrustDomain) {
			v.fault(path+".trust_domain", "%.128q; expected a SPIFFE trust domain's name, such as example.org", x.TrustDomain)
		}
		var sources []string
		for _, s := range []struct{ key, value string }{{"ca_file", x.CAFile}, {"bundle_file", x.BundleFile}, {"workload_api", x.WorkloadAPI}} {
			if s.value != "" {
				sources = append(sources, s.key)
			}
		}
		switch {
		case len(sources) == 0:
			v.fault(path+".ca_file", "no source of roots; expected ca_file, or for a trust domain bundle_file or workload_api as well")
		case len(sources) > 1:
			v.fault(path+"."+sources[1], "several sources of roots (%s); expected one", strings.Join(sources, ", "))
		case x.TrustDomain == "" && x.CAFile == "":
			v.fault(path+"."+sources[0], "it is a trust domain's; expected trust_domain with it, or ca_file instead")
		}
		if x.WorkloadAPI != "" && !workloadAPI.MatchString(x.WorkloadAPI) {
			v.fault(path+".workload_api", "%.128q; expected unix:///path or tcp://IP:port", x.WorkloadAPI)
		}
	}
	if len(v.X509) > 0 && !v.Listeners.GRPC.TLS.Enabled() && !v.Listeners.HTTP.TLS.Enabled() {
		v.fault("x509", "client certificates need TLS; expected listeners.grpc.tls or listeners.http.tls")
	}
}
