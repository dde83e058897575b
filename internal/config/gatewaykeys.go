package config

// GatewayKey is a gateway that holds a key which lasts, since it can't prove itself as a workload (docs/gateway.md).
type GatewayKey struct {
	// Name is the gateway's (^[a-z0-9][a-z0-9_-]{0,62}$): its key ID, and the subject of its identity. Unique. Required.
	Name string `yaml:"name"`
	// KeyFile holds one or two keys (secret.ReadKeys), both of which are taken. Required.
	KeyFile string `yaml:"key_file"`
}

func (v *validator) gatewayKeys() {
	if !v.count("gateway_keys", len(v.GatewayKeys), 0, 16) {
		return
	}
	seen := map[string]string{}
	for n, k := range v.GatewayKeys {
		path := index("gateway_keys", n)
		v.name(path+".name", k.Name)
		v.unique(path+".name", k.Name, seen)
		v.required(path+".key_file", k.KeyFile)
	}
	if len(v.GatewayKeys) > 0 && v.Listeners.Gateway == (Listener{}) {
		v.fault("gateway_keys", "there is no listener that takes them; expected listeners.gateway, or none of them")
	}
}
