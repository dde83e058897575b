# exchangers.NAME.vault with path aws/sts/credbroker, and the leases that such an exchanger makes. Vault lets a token renew and revoke
# any lease whose ID it knows, and the IDs can't be guessed.
path "aws/sts/credbroker" { capabilities = ["read", "update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
