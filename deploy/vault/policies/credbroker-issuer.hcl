# issuer.transit: the key that MinIO trusts signs, and its public versions are read. Neither exporting nor rotating is allowed.
path "transit/keys/credbroker" { capabilities = ["read"] }
path "transit/sign/credbroker/sha2-256" { capabilities = ["update"] }
