# Certificates for AssumeRoleWithCertificate: requests are signed; the keys never reach Vault.
path "pki/sign/credbroker" { capabilities = ["update"] }
