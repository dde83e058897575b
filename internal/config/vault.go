package config

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Values of VaultAuth.Method.
const (
	VaultTokenFile  = "token-file"
	VaultAppRole    = "approle"
	VaultJWT        = "jwt"
	VaultKubernetes = "kubernetes"
	VaultCert       = "cert"
	VaultAWS        = "aws"
	VaultGCP        = "gcp"
	VaultAzure      = "azure"
)

// Vault is the broker's way into HashiCorp Vault.
type Vault struct {
	// Address is Vault's https URL, without a path. Required with anything that needs a Vault.
	Address string `yaml:"address"`
	// Nodes are the https URLs of the deployment's other nodes, without a path, to which a standby may redirect; at most 16. A redirect
	// elsewhere is refused. Default none, and none is needed where standbys forward requests, as they do by default.
	Nodes []string `yaml:"nodes"`
	// Namespace is one of Vault Enterprise, as in team/a. Default none.
	Namespace string `yaml:"namespace"`
	// InsecurePlaintext allows http addresses beyond loopback. Default false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// CAFile holds the only roots that Vault's certificate may come from, PEM; read at start. Default: the system's.
	CAFile string `yaml:"ca_file"`
	// CertFile holds a client certificate and its intermediates, PEM; read for every connection. It goes together with KeyFile.
	// Default none; required with method cert.
	CertFile string `yaml:"cert_file"`
	// KeyFile holds the private key of CertFile. Default none.
	KeyFile string `yaml:"key_file"`
	// Timeout is for one call with its retries: 100ms to 30s. Default 5s.
	Timeout time.Duration `yaml:"timeout"`
	// Auth says who the broker is.
	Auth VaultAuth `yaml:"auth"`
}

// VaultAuth is how the broker logs in to Vault. What a method doesn't take is a fault.
type VaultAuth struct {
	// Method is token-file, approle, jwt, kubernetes, cert, aws, gcp or azure. Required.
	Method string `yaml:"method"`
	// Mount is where the auth method is, without auth/. Default: the method's name. Not with token-file.
	Mount string `yaml:"mount"`
	// Role is the auth method's role for the broker. Required, but optional with cert, and not with token-file.
	Role string `yaml:"role"`
	// TokenFile holds the token that a Vault Agent keeps there (token-file), or the JWT to log in with (jwt; kubernetes: by default
	// /var/run/secrets/kubernetes.io/serviceaccount/token). It is read anew for each login, and with token-file each second.
	TokenFile string `yaml:"token_file"`
	// RoleIDFile holds the role ID. approle; required.
	RoleIDFile string `yaml:"role_id_file"`
	// SecretIDFile holds the secret ID, or its wrapping token. approle; required.
	SecretIDFile string `yaml:"secret_id_file"`
	// SecretIDWrapped says that SecretIDFile holds a response-wrapping token, made for the role's secret-id; it is good for one login, so
	// that each login takes a new one. approle. Default false.
	SecretIDWrapped bool `yaml:"secret_id_wrapped"`
	// Region is the region of AWS STS that is signed for, such as eu-west-1. aws; required.
	Region string `yaml:"region"`
	// ServerID is the auth method's iam_server_id_header_value. aws; required.
	ServerID string `yaml:"server_id"`
	// STSEndpoint is the https URL of the STS that is signed for, and where AssumeRole is called, without a path. aws. Default: AWS's own
	// for the region.
	STSEndpoint string `yaml:"sts_endpoint"`
	// AssumeRole is the ARN of an AWS role to assume first. aws. Default none.
	AssumeRole string `yaml:"assume_role"`
	// ServiceAccount is the e-mail address of the Google service account that signs (type iam). gcp. Default none: the instance's identity
	// token is shown (type gce).
	ServiceAccount string `yaml:"service_account"`
	// Resource is what Entra's token is for, as in the auth method's configuration. azure; required.
	Resource string `yaml:"resource"`
	// SubscriptionID, and the next four, say where the broker runs, for roles that are bound to that. azure. Default none.
	SubscriptionID string `yaml:"subscription_id"`
	// ResourceGroup is the name of the resource group. azure. Default none.
	ResourceGroup string `yaml:"resource_group"`
	// VM is the name of the virtual machine. azure. Default none.
	VM string `yaml:"vm"`
	// ScaleSet is the name of the scale set. azure. Default none.
	ScaleSet string `yaml:"scale_set"`
	// ResourceID is the ID of the resource. azure. Default none.
	ResourceID string `yaml:"resource_id"`
}

func defaultVault() Vault { return Vault{Timeout: 5 * time.Second} }

// Enabled reports whether there is a Vault.
func (c *Vault) Enabled() bool { return c.Address != "" }

// vaultMethods are the keys that methods need and take besides, apart from mount and role.
var vaultMethods = map[string]struct{ needs, takes []string }{
	VaultTokenFile:  {needs: []string{"token_file"}},
	VaultAppRole:    {needs: []string{"role", "role_id_file", "secret_id_file"}, takes: []string{"secret_id_wrapped", "mount"}},
	VaultJWT:        {needs: []string{"role", "token_file"}, takes: []string{"mount"}},
	VaultKubernetes: {needs: []string{"role"}, takes: []string{"token_file", "mount"}},
	VaultCert:       {takes: []string{"role", "mount"}},
	VaultAWS:        {needs: []string{"role", "region", "server_id"}, takes: []string{"assume_role", "sts_endpoint", "mount"}},
	VaultGCP:        {needs: []string{"role"}, takes: []string{"service_account", "mount"}},
	VaultAzure:      {needs: []string{"role", "resource"}, takes: []string{"subscription_id", "resource_group", "vm", "scale_set", "resource_id", "mount"}},
}

var (
	// vaultPath is of mounts, and of what is below them.
	vaultPath      = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){0,15}$`)
	vaultName      = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	awsRoleARN     = regexp.MustCompile(`^arn:aws(-cn|-us-gov)?:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}$`)
	serviceAccount = regexp.MustCompile(`^[a-z0-9.-]{1,64}@[a-z0-9.-]{1,191}$`)
)

// derive fills in the defaults that depend on the method.
func (a *VaultAuth) derive() {
	if a.Method != VaultTokenFile {
		a.Mount = cmp.Or(a.Mount, a.Method)
	}
	if a.Method == VaultKubernetes {
		a.TokenFile = cmp.Or(a.TokenFile, "/var/run/secrets/kubernetes.io/serviceaccount/token")
	}
}

// keys are the values of a login besides the method, by key; true stands for "true".
func (a *VaultAuth) keys() map[string]string {
	wrapped := ""
	if a.SecretIDWrapped {
		wrapped = "true"
	}
	return map[string]string{
		"mount": a.Mount, "role": a.Role, "token_file": a.TokenFile, "role_id_file": a.RoleIDFile, "secret_id_file": a.SecretIDFile,
		"secret_id_wrapped": wrapped, "region": a.Region, "server_id": a.ServerID, "assume_role": a.AssumeRole, "sts_endpoint": a.STSEndpoint,
		"service_account": a.ServiceAccount, "resource": a.Resource, "subscription_id": a.SubscriptionID,
		"resource_group": a.ResourceGroup, "vm": a.VM, "scale_set": a.ScaleSet, "resource_id": a.ResourceID,
	}
}

func (v *validator) vault() {
	c := &v.Vault
	if !c.Enabled() {
		if _, written := v.origins["vault"]; written {
			v.fault("vault.address", "it is required; expected the URL of the Vault, or no vault at all")
		}
		return
	}
	v.url("vault.address", c.Address, c.InsecurePlaintext, noPath)
	if v.count("vault.nodes", len(c.Nodes), 0, 16) {
		seen := map[string]string{c.Address: "vault.address"}
		for n, node := range c.Nodes {
			v.url(index("vault.nodes", n), node, c.InsecurePlaintext, noPath)
			v.unique(index("vault.nodes", n), node, seen)
			if strings.HasPrefix(c.Address, "https:") && strings.HasPrefix(node, "http:") {
				v.fault(index("vault.nodes", n), "%.128q; expected https, as vault.address is", node)
			}
		}
	}
	if c.Namespace != "" && !vaultPath.MatchString(c.Namespace) {
		v.fault("vault.namespace", "%.64q; expected a namespace such as team/a, without a slash around it", c.Namespace)
	}
	v.duration("vault.timeout", c.Timeout, 100*time.Millisecond, 30*time.Second)
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		v.fault("vault.cert_file", "there is no key_file; expected both or neither")
	case c.KeyFile != "" && c.CertFile == "":
		v.fault("vault.key_file", "there is no cert_file; expected both or neither")
	}
	v.vaultAuth()
}

func (v *validator) vaultAuth() {
	a := &v.Vault.Auth
	method, known := vaultMethods[a.Method]
	if !known {
		v.oneOf("vault.auth.method", a.Method, VaultTokenFile, VaultAppRole, VaultJWT, VaultKubernetes, VaultCert, VaultAWS, VaultGCP, VaultAzure)
		return
	}
	keys := a.keys()
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		path, value := "vault.auth."+key, keys[key]
		needed := slices.Contains(method.needs, key)
		switch {
		case needed && value == "":
			v.fault(path, "it is required with method %s", a.Method)
		case value != "" && !needed && !slices.Contains(method.takes, key):
			v.fault(path, "method %s does not take it; expected none, or another method", a.Method)
		case value != "":
			v.text(path, value)
		}
	}
	if a.Mount != "" && !vaultPath.MatchString(a.Mount) {
		v.fault("vault.auth.mount", "%.64q; expected the mount's path without auth/ and without a slash around it", a.Mount)
	}
	if a.Method == VaultCert && v.Vault.CertFile == "" {
		v.fault("vault.cert_file", "it is required with method cert")
	}
	if a.Region != "" && !awsRegion.MatchString(a.Region) {
		v.fault("vault.auth.region", "%.64q; expected a region such as eu-west-1", a.Region)
	}
	if a.ServerID != "" && !awsServerID.MatchString(a.ServerID) {
		v.fault("vault.auth.server_id", "%.64q; expected at most 255 bytes of printable ASCII without spaces", a.ServerID)
	}
	if a.STSEndpoint != "" {
		v.url("vault.auth.sts_endpoint", a.STSEndpoint, false, noPath)
	}
	if a.AssumeRole != "" && !awsRoleARN.MatchString(a.AssumeRole) {
		v.fault("vault.auth.assume_role", "%.128q; expected arn:aws:iam::ACCOUNT:role/NAME", a.AssumeRole)
	}
	if a.ServiceAccount != "" && !serviceAccount.MatchString(a.ServiceAccount) {
		v.fault("vault.auth.service_account", "%.64q; expected the e-mail address of a service account", a.ServiceAccount)
	}
}

// transit checks a key of Transit at a path.
func (v *validator) transit(path string, k TransitKey) {
	if !k.Enabled() {
		if _, written := v.origins[path]; written {
			v.required(path+".key", k.Key)
		}
		return
	}
	if !vaultPath.MatchString(k.Mount) {
		v.fault(path+".mount", "%.64q; expected the mount's path without a slash around it", k.Mount)
	}
	if !vaultName.MatchString(k.Key) {
		v.fault(path+".key", "%.64q; expected a name that matches %s", k.Key, vaultName)
	}
	v.needsVault(path)
}

// needsVault says that what stands at a path takes a Vault.
func (v *validator) needsVault(path string) {
	if !v.Vault.Enabled() {
		v.fault(path, "it takes a Vault; expected vault.address as well")
	}
}
