#!/usr/bin/env bash
# deploy/compose/setup.sh: make what compose.yaml needs and isn't in the repository - certificates, secrets, the data
# directory, .env - beside this script. What is there already stays, but for the certificates, which are made anew.
set -euo pipefail
umask 077
cd "$(dirname "$0")"

./certs.sh tls
mkdir -p secrets data
[ -f secrets/fingerprint.key ] || openssl rand -hex 32 >secrets/fingerprint.key
if [ ! -f secrets/minio.env ]; then
  {
    sed 's|^\(MINIO_IDENTITY_OPENID_CONFIG_URL=\).*|\1https://broker:8443/.well-known/openid-configuration|' ../minio/minio.env
    echo "MINIO_IDENTITY_OPENID_CLIENT_SECRET=$(openssl rand -hex 32)"
    echo "MINIO_ROOT_USER=operator"
    echo "MINIO_ROOT_PASSWORD=$(openssl rand -hex 24)"
  } >secrets/minio.env.new
  mv secrets/minio.env.new secrets/minio.env
fi

# Compose mounts secret files with the owner they have. So the services run as whoever called this; not as root.
uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then
  uid=65532 gid=65532
  chown -R "$uid:$gid" tls/broker tls/minio secrets data
fi
printf 'SERVICE_USER=%s:%s\n' "$uid" "$gid" >.env
