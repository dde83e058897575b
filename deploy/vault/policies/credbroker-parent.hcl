# The key of the MinIO user that AssumeRole is called with.
path "kv/data/credbroker/parent" { capabilities = ["read"] }
