package main

import (
	"slices"

	azureauth "github.com/hashicorp/vault-plugin-auth-azure"
	gcpauth "github.com/hashicorp/vault-plugin-auth-gcp/plugin"
	jwtauth "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetesauth "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	awsauth "github.com/hashicorp/vault/builtin/credential/aws"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/aws"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// engines are the secrets engines that can be mounted; identity, cubbyhole and sys are always there.
var engines = map[string]logical.Factory{
	"aws":     aws.Factory,
	"kv":      kv.Factory,
	"pki":     pki.Factory,
	"transit": transit.Factory,
}

// logins are the auth methods that can be enabled; token is always there.
var logins = map[string]logical.Factory{
	"approle":    approle.Factory,
	"aws":        awsauth.Factory,
	"azure":      azureauth.Factory,
	"cert":       cert.Factory,
	"gcp":        gcpauth.Factory,
	"jwt":        jwtauth.Factory,
	"kubernetes": kubernetesauth.Factory,
}

// registry is the catalogue of the plug-ins that are built in.
type registry struct{}

func (registry) of(kind consts.PluginType) map[string]logical.Factory {
	switch kind {
	case consts.PluginTypeSecrets:
		return engines
	case consts.PluginTypeCredential:
		return logins
	}
	return nil
}

// Get returns the factory of a plug-in.
func (r registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	f, ok := r.of(kind)[name]
	return func() (any, error) { return f, nil }, ok
}

// Contains reports whether there is such a plug-in.
func (r registry) Contains(name string, kind consts.PluginType) bool {
	_, ok := r.of(kind)[name]
	return ok
}

// Keys are the names of the plug-ins.
func (r registry) Keys(kind consts.PluginType) []string {
	var names []string
	for name := range r.of(kind) {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// DeprecationStatus says that a plug-in isn't deprecated.
func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}

// IsBuiltinEntPlugin says that nothing here is Enterprise's.
func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
