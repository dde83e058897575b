# The keys of whoever signs requests at the broker's STS (access_keys).
path "kv/data/credbroker/access-keys/+" { capabilities = ["read"] }
