# exchangers.NAME.identity_role: an identity token for MinIO.
path "identity/oidc/token/credbroker" { capabilities = ["read"] }
