package config

import "time"

// STS is the STS query API for SDKs.
type STS struct {
	// Account is the AWS account in the ARNs of answers: 12 digits. Default 000000000000.
	Account string `yaml:"account"`
	// MinLeft is the least life left of what is handed out, as far as the role allows: 0s to 12h. Default 20m, since SDKs renew 5 to 15
	// minutes ahead.
	MinLeft time.Duration `yaml:"min_left"`
	// CallerIdentity remembers of minted credentials what it takes to answer GetCallerIdentity to who signs with them: the secret key, a
	// hash of the session token, for whom and for which role. Default false.
	CallerIdentity bool `yaml:"caller_identity"`
}

// AccessKey is a key whose holder proves itself by signing STS requests with it. It lasts for as long as it stands there: whoever has it
// is its subject.
type AccessKey struct {
	// Name is ^[a-z0-9][a-z0-9_-]{0,62}$ and unique: the identity's subject. Required.
	Name string `yaml:"name"`
	// File holds the key, for secret.ReadAccessKey. Required, or vault.path.
	File string `yaml:"file"`
	// Vault is where in Vault the key is, in place of File.
	Vault VaultKey `yaml:"vault"`
}

func (k *AccessKey) setDefaults() {
	f := defaultVaultRead().Fields
	k.Vault.Fields = KeyFields{AccessKeyID: f.AccessKeyID, SecretAccessKey: f.SecretAccessKey}
}

// Surface is another protocol of SDKs.
type Surface struct {
	// MinLeft is as that of STS.
	MinLeft time.Duration `yaml:"min_left"`
}

const defaultMinLeft = 20 * time.Minute

func defaultSTS() STS { return STS{Account: "000000000000", MinLeft: defaultMinLeft} }

func (v *validator) sdk() {
	if v.count("access_keys", len(v.AccessKeys), 0, 64) {
		names := map[string]string{}
		for n, k := range v.AccessKeys {
			path := index("access_keys", n)
			v.name(path+".name", k.Name)
			v.unique(path+".name", k.Name, names)
			if v.keyInVault(path, path+".file", k.File) {
				v.vaultFields(path, k.Vault.Path, VaultFields{AccessKeyID: k.Vault.Fields.AccessKeyID, SecretAccessKey: k.Vault.Fields.SecretAccessKey})
			}
		}
	}
	if !awsAccount.MatchString(v.STS.Account) {
		v.fault("sts.account", "%.32q; expected 12 digits, in quotes", v.STS.Account)
	}
	v.duration("sts.min_left", v.STS.MinLeft, 0, 12*time.Hour)
	v.duration("container_credentials.min_left", v.ContainerCredentials.MinLeft, 0, 12*time.Hour)
	v.duration("token_exchange.min_left", v.TokenExchange.MinLeft, 0, 12*time.Hour)
}
