#!/usr/bin/env bash
# deploy/compose/certs.sh [DIR]: make a CA (once) and new certificates for the broker and MinIO below DIR, `tls` beside this
# script if not given. For trying out: a real CA's key doesn't lie beside what it signed.
set -euo pipefail
umask 077
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/tls}
mkdir -p "$dir/ca" "$dir/broker" "$dir/minio/CAs"

if [ ! -f "$dir/ca/ca.key" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -sha256 \
    -subj "/CN=credbroker compose CA" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$dir/ca/ca.key" -out "$dir/ca/ca.crt"
fi

issue() { # NAME CERTIFICATE KEY
  local request
  request=$(mktemp)
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$3" -out "$request"
  # x509's extensions come from a file; the names are the service's in compose.yaml, and this machine's for its ports.
  openssl x509 -req -in "$request" -CA "$dir/ca/ca.crt" -CAkey "$dir/ca/ca.key" -CAcreateserial -days 90 -sha256 -out "$2" \
    -extfile <(printf '%s\n' "subjectAltName=DNS:$1,DNS:localhost,IP:127.0.0.1" "basicConstraints=critical,CA:FALSE" \
      "keyUsage=critical,digitalSignature" "extendedKeyUsage=serverAuth")
  rm -f "$request"
  chmod 0644 "$2"
}
issue broker "$dir/broker/tls.crt" "$dir/broker/tls.key"
issue minio "$dir/minio/public.crt" "$dir/minio/private.key"
install -m 0644 "$dir/ca/ca.crt" "$dir/broker/ca.crt"
install -m 0644 "$dir/ca/ca.crt" "$dir/minio/CAs/ca.crt"
