# redis.transit: new data keys are made, and wrapped ones unwrapped.
path "transit/datakey/plaintext/credbroker-sealing" { capabilities = ["update"] }
path "transit/decrypt/credbroker-sealing" { capabilities = ["update"] }
